"""What adapters add to a product, against the plain formula."""

from collections.abc import Sequence

import pytest
import torch

from fastchat.engine.compiled_delta import CompiledDelta
from fastchat.engine.delta import Delta
from fastchat.engine.owned_rows import BASE, OwnedRows, Places
from fastchat.model.adapters import LowRank
from tests.engine.conftest import needs_compiler

CPU = torch.device("cpu")
N_IN = 24
RANKS = (3, 0, 20, 5)


def pairs(sizes: Sequence[int]) -> dict[tuple[int, int], LowRank]:
    """By layer and place."""
    generator = torch.Generator().manual_seed(0)
    return {
        (i, place): LowRank(
            a=torch.randn(rank, N_IN, generator=generator),
            b=torch.randn(size, rank, generator=generator),
            scale=0.5 + place,
        )
        for i, size in enumerate(sizes)
        for place, rank in enumerate(RANKS)
        if rank and (i, place) != (0, 3)
    }


KINDS = [
    pytest.param(False, id="torch"),
    pytest.param(True, id="compiled", marks=needs_compiler),
]


def filled(
    sizes: Sequence[int],
    rows: OwnedRows,
    *,
    is_compiled: bool,
    dtype: torch.dtype = torch.float32,
) -> Delta | CompiledDelta:
    if is_compiled:
        delta = CompiledDelta(N_IN, sizes, rows=lambda _: rows, dtype=dtype)
    else:
        delta = Delta(N_IN, sizes, rows=lambda _: rows, dtype=dtype, device=CPU)
    delta.resize(len(RANKS), max(RANKS))
    for (i, place), pair in pairs(sizes).items():
        delta.put(i, place, pair)
    return delta


def plain(x: torch.Tensor, owners: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
    """(T, sum of sizes)"""
    found = torch.zeros(len(x), sum(sizes))
    for row, owner in enumerate(owners):
        parts = found[row].split(list(sizes))
        for i, part in enumerate(parts):
            pair = pairs(sizes).get((i, owner))
            if pair is not None:
                part += pair.scale * (pair.b @ (pair.a @ x[row]))
    return found


@pytest.mark.parametrize("is_compiled", KINDS)
@pytest.mark.parametrize("sizes", [[12], [8, 8, 8], [16, 4, 4], [6, 10], [40, 100]])
@pytest.mark.parametrize("wide", [1, 100])
@pytest.mark.parametrize(
    "owners",
    [
        [0, BASE, 2, 3, 2],
        [BASE, BASE, BASE, BASE, 3],
        [2] * 40,
        [0, 2, BASE, *[0] * 33, *[BASE] * 35, *[3] * 32, 2],
    ],
)
def test_every_row_gets_its_own_adapters_part_and_no_other(
    sizes: list[int],
    wide: int,
    owners: list[int],
    is_compiled: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastchat.engine.delta.WIDE", wide)
    rows = OwnedRows(owners, Places(ranks=RANKS, width=max(RANKS)), device=CPU)
    delta = filled(sizes, rows, is_compiled=is_compiled)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, len(owners), N_IN, generator=generator)
    y = torch.randn(1, len(owners), sum(sizes), generator=generator)
    wanted = y[0] + plain(x[0], owners, sizes)
    before, got = y.clone(), delta.add(x, y)
    torch.testing.assert_close(got[0], wanted, rtol=1e-5, atol=1e-4)
    for row, owner in enumerate(owners):
        if owner == BASE:
            assert torch.equal(got[0, row], before[0, row])


@pytest.mark.parametrize("is_compiled", KINDS)
def test_what_is_no_number_stays_with_its_own_rows(is_compiled: bool) -> None:
    owners = [0, 2, 2, BASE, 3]
    rows = OwnedRows(owners, Places(ranks=RANKS, width=max(RANKS)), device=CPU)
    delta = filled([12], rows, is_compiled=is_compiled)
    broken = LowRank(a=torch.full((20, N_IN), torch.inf), b=torch.ones(12, 20), scale=1.0)
    delta.put(0, 2, broken)
    got = delta.add(torch.ones(5, N_IN), torch.zeros(5, 12))
    assert got.isfinite().all(dim=1).tolist() == [True, False, False, True, True]
    delta.wipe(2)
    assert torch.equal(delta.add(torch.ones(5, N_IN), torch.zeros(5, 12))[1], torch.zeros(12))


@pytest.mark.parametrize("is_compiled", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_of_another_type_is_added_to(dtype: torch.dtype, is_compiled: bool) -> None:
    owners, sizes = [0, BASE, 2, *[3] * 9], [8, 8]
    rows = OwnedRows(owners, Places(ranks=RANKS, width=max(RANKS)), device=CPU)
    delta = filled(sizes, rows, is_compiled=is_compiled, dtype=torch.bfloat16)
    x = torch.randn(len(owners), N_IN, generator=torch.Generator().manual_seed(2)).to(dtype)
    got = delta.add(x, torch.zeros(len(owners), 16, dtype=dtype))
    assert got.dtype == dtype
    wanted = plain(x.float(), owners, sizes)
    torch.testing.assert_close(
        got.float(), wanted, rtol=0.05, atol=0.05 * float(wanted.abs().max())
    )


@needs_compiler
@pytest.mark.parametrize("n_threads", [2, 5, 64])
def test_threads_change_nothing_of_a_row_but_the_last_digits(n_threads: int) -> None:
    owners, sizes, before = [0, 2, BASE, 3] * 8, [16, 4], torch.get_num_threads()
    rows = OwnedRows(owners, Places(ranks=RANKS, width=max(RANKS)), device=CPU)
    delta = filled(sizes, rows, is_compiled=True)
    x = torch.randn(len(owners), N_IN, generator=torch.Generator().manual_seed(3))
    one = delta.add(x, torch.zeros(len(owners), 20))
    try:
        torch.set_num_threads(n_threads)
        torch.testing.assert_close(delta.add(x, torch.zeros(len(owners), 20)), one)
    finally:
        torch.set_num_threads(before)
