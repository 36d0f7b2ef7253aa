"""The compiled attention against plain products in 64 bits."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastchat.engine import native
from fastchat.engine.kv_cache import LayerShape
from tests.engine.conftest import needs_compiler

pytestmark = needs_compiler

LENGTHS = (1, 2, 37, 130, 64)
SIZE = 192


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A layer's pools, five regions in them, and a query for the end of each."""

    shape: LayerShape
    heads: int
    query: Tensor
    keys: Tensor
    values: Tensor
    places: Tensor

    def attend(
        self,
        only: slice = slice(None),
        *,
        scale: float = 0.3,
        softcap: float | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """By row and head; sevens where no place is."""
        size = (self.query.shape[2], self.heads, self.shape.value_dim)
        out = torch.full(size, 7.0, dtype=self.shape.dtype)
        native.attend(
            *(self.query, self.keys, self.values, self.places[only], out, self.shape),
            longest=SIZE,
            scale=scale,
            softcap=softcap,
            sinks=sinks,
        )
        return out

    def expected(
        self, scale: float = 0.3, softcap: float | None = None, sinks: Tensor | None = None
    ) -> Tensor:
        """By row and head, in 64 bits."""
        shape, group = self.shape, self.heads // self.shape.kv_heads
        found = torch.full((self.query.shape[2], self.heads, shape.value_dim), 7.0).double()
        for row, start, size, place, low in self.places.tolist():
            for head in range(self.heads):
                first = start * shape.kv_heads + head // group * size
                seen = slice(first + low, first + place + 1)
                keys = self.keys.view(-1, shape.key_dim)[seen].double()
                values = self.values.view(-1, shape.value_dim)[seen].double()
                scores = scale * keys @ self.query[0, head, row].double()
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                if sinks is not None:
                    scores = torch.cat([scores, sinks[head : head + 1].double()])
                weights = scores.softmax(0)[: len(values)]
                found[row, head] = weights @ values
        return found


def case(
    heads: int = 4,
    kv_heads: int = 2,
    key_dim: int = 16,
    value_dim: int | None = None,
    dtype: torch.dtype = torch.float32,
    window: int | None = None,
) -> Case:
    torch.manual_seed(heads * 1000 + key_dim)
    shape = LayerShape(
        kv_heads=kv_heads,
        key_dim=key_dim,
        value_dim=value_dim or key_dim,
        dtype=dtype,
        device=torch.device("cpu"),
    )
    rows = len(LENGTHS) * SIZE * kv_heads
    keys = torch.randn(rows, key_dim).to(dtype)
    values = torch.randn(rows, shape.value_dim).to(dtype)
    places = []
    for i, length in enumerate(LENGTHS):
        for head in range(kv_heads):  # what lies behind a text's end is never read
            end = (i * kv_heads + head) * SIZE
            keys[end + length : end + SIZE] = values[end + length : end + SIZE] = torch.nan
        low = 0 if window is None else max(0, length - window)
        places.append([2 * i + 1, i * SIZE, SIZE, length - 1, low])
    query = torch.randn(1, 2 * len(LENGTHS) + 1, heads, key_dim).to(dtype).transpose(1, 2)
    return Case(
        shape=shape,
        heads=heads,
        query=query,
        keys=keys.flatten(),
        values=values.flatten(),
        places=torch.tensor(places),
    )


def close(got: Tensor, wanted: Tensor) -> None:
    tolerance = 2e-6 if got.dtype is torch.float32 else 1e-2
    torch.testing.assert_close(got.double(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", native.TYPES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "key_dim", "value_dim"),
    [
        *((4, 4, dim, dim) for dim in (8, 32, 64, 80, 128)),
        *((8, 2, dim, dim) for dim in (16, 64, 96, 128, 256)),
        *((6, 2, 24, 16), (5, 1, 64, 32), (1, 1, 1, 1)),
    ],
)
def test_it_is_attention(
    heads: int, kv_heads: int, key_dim: int, value_dim: int, dtype: torch.dtype
) -> None:
    made = case(heads, kv_heads, key_dim, value_dim, dtype)
    close(made.attend(), made.expected())


@pytest.mark.parametrize("dtype", native.TYPES)
@pytest.mark.parametrize("window", [1, 16, 1000])
def test_keys_before_the_window_are_not_seen(window: int, dtype: torch.dtype) -> None:
    made = case(window=window, dtype=dtype)
    close(made.attend(), made.expected())


@pytest.mark.parametrize("dtype", native.TYPES)
def test_scores_are_capped_and_sinks_take_their_share(dtype: torch.dtype) -> None:
    made, sinks = case(dtype=dtype), torch.tensor([-3.0, 0.5, 40.0, -torch.inf])
    close(made.attend(softcap=2.0), made.expected(softcap=2.0))
    close(made.attend(sinks=sinks), made.expected(sinks=sinks))
    close(made.attend(softcap=2.0, sinks=sinks), made.expected(softcap=2.0, sinks=sinks))


@pytest.mark.parametrize("scale", [1e-6, 30.0])
def test_scores_of_any_size_are_weighed(scale: float) -> None:
    made = case()
    got = made.attend(scale=scale).double()
    torch.testing.assert_close(got, made.expected(scale), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", native.TYPES)
def test_a_row_is_the_same_in_any_company_and_on_any_number_of_threads(dtype: torch.dtype) -> None:
    made, before = case(dtype=dtype), torch.get_num_threads()
    together = made.attend()
    for i in range(len(made.places)):
        alone = made.attend(slice(i, i + 1))
        row = int(made.places[i, 0])
        assert torch.equal(alone[row], together[row])
    try:
        for n in (2, 3, 64):
            torch.set_num_threads(n)
            assert torch.equal(made.attend(), together)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", native.TYPES)
def test_a_damaged_row_is_told_and_hurts_no_other(dtype: torch.dtype) -> None:
    made = case(dtype=dtype)
    wanted = made.attend()
    made.query[0, :, 5] = torch.nan
    got = made.attend()
    assert got[5].isnan().all()
    others = [i for i in range(len(got)) if i != 5]
    assert torch.equal(got[others], wanted[others])


@pytest.mark.parametrize("dtype", native.TYPES)
def test_numbers_are_rounded_as_pytorch_does(dtype: torch.dtype) -> None:
    made = case(heads=1, kv_heads=1, key_dim=8, dtype=dtype)
    made.places[0, 3] = 0  # one key: the answer is its value
    for value in (0.0, -0.0, 1.0, 1e-40, 3.3895e38, -torch.inf, 1 + 2**-9, 1 + 3 * 2**-9):
        made.values[:8] = value
        assert torch.equal(made.attend()[1, 0], made.values[:8])


@pytest.mark.parametrize("dtype", native.TYPES)
def test_new_rows_are_written_where_they_belong(dtype: torch.dtype) -> None:
    made = case(dtype=dtype)
    pool, wanted = made.keys.clone(), made.keys.clone().view(-1, 16)
    new = torch.randn(1, 2 * len(LENGTHS) + 1, 2, 16).to(dtype).transpose(1, 2)
    native.write(new, pool, made.places, 2)
    for row, start, size, place, _ in made.places.tolist():
        for head in range(2):
            wanted[start * 2 + head * size + place] = new[0, head, row]
    assert torch.equal(pool.view(-1, 16).nan_to_num(9), wanted.nan_to_num(9))
    assert not torch.equal(pool.nan_to_num(9), made.keys.nan_to_num(9))


def test_code_that_cannot_be_loaded_is_done_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    suffix = native.EXTENSION_SUFFIXES[0]
    (tmp_path / f"_native{suffix}").write_bytes(b"of another machine")
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    assert native.library.__wrapped__() is None
    assert "cannot be loaded" in caplog.text
    (tmp_path / f"_native{suffix}").unlink()
    assert native.library.__wrapped__() is None


def test_other_types_and_devices_are_left_to_pytorch() -> None:
    assert native.can_compute(torch.float32, torch.device("cpu"))
    assert not native.can_compute(torch.float16, torch.device("cpu"))
    assert not native.can_compute(torch.float32, torch.device("meta"))
