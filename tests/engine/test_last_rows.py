from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from fastchat.engine.last_rows import LastRows
from fastchat.engine.packed import PackedModel
from fastchat.engine.plan import Segment


def loaded(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_neox"])
def test_a_prompt_s_last_feed_forward_sees_only_the_rows_that_are_wanted(
    model_folder: Callable[[str], Path], name: str
) -> None:
    model = loaded(model_folder(name))
    ids = list(range(3, 33))
    with torch.inference_mode():
        wanted = model(input_ids=torch.tensor([ids])).logits[0]
    packed = PackedModel(model, budget=256, longest=128, device=torch.device("cpu"))
    assert packed._last is not None
    assert packed._last._module is not None
    plain, seen = packed._last._plain, []

    def look(x: Tensor) -> Tensor:
        seen.append(x.shape[1])
        return plain(x)

    packed._last._plain = look
    text = packed.cache.open(ids, 1, source=None, n_shared=0)
    assert text is not None
    parts = [(0, 10, False), (10, 20, True), (20, 30, True)]
    for start, end, wants_last in parts:
        rows = packed.forward(
            [
                Segment(
                    region=text.region,
                    start=start,
                    token_ids=ids[start:end],
                    wants_last=wants_last,
                )
            ]
        )
        if wants_last:
            torch.testing.assert_close(rows[0], wanted[end - 1], rtol=1e-4, atol=1e-5)
    assert seen == [1, 1]
    packed.close()
    assert "forward" not in vars(packed._last._module)
    with torch.inference_mode():
        again = model(input_ids=torch.tensor([ids])).logits[0]
    torch.testing.assert_close(again, wanted)


def test_experts_are_left_alone(model_folder: Callable[[str], Path]) -> None:
    assert LastRows(loaded(model_folder("qwen3_moe")))._module is None
