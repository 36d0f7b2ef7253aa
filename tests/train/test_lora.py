"""Adapters: what is trained and saved, and that base plus adapter is the model that was trained."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastchat.errors import DataError, UsageError
from fastchat.model.apply_lora import apply_lora
from fastchat.train import fit, lora
from fastchat.train.arguments import parse
from fastchat.train.presets import TRAIN_LORA

Argv = Callable[..., list[str]]


def logits(model: Any, ids: list[int] | None = None) -> Any:
    import torch

    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([ids or list(range(5, 25))])).logits


def adapted(base: Path, adapter: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)


def train(argv: list[str]) -> int:
    return fit.main(argv, prog="x.train_lora", preset=TRAIN_LORA)


def test_flags_and_their_published_defaults(tmp_path: Path) -> None:
    given = parse(["--output_dir", str(tmp_path)], prog="x", preset=TRAIN_LORA).lora
    assert given.lora and not given.q_lora
    assert (given.lora_r, given.lora_alpha, given.lora_dropout) == (8, 16, 0.05)
    assert given.lora_target_modules == ["q_proj", "v_proj"]
    assert (given.lora_weight_path, given.lora_bias, given.lora_init) == ("", "none", "default")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--lora", "False", "--q_lora", "True"], "--lora True"),
        (["--lora_r", "0"], "at least 1"),
        (["--lora_init", "loftq", "--use_cpu", "True"], "computed on a GPU"),
        (["--lora_init", "pissa", "--q_lora", "True"], "take loftq or default"),
        (["--lora_init", "eva", "--lora_weight_path", "x"], "leave --lora_init out"),
    ],
)
def test_flags_that_do_not_fit_are_refused(argv: list[str], message: str, tmp_path: Path) -> None:
    given = parse(["--output_dir", str(tmp_path), *argv], prog="x", preset=TRAIN_LORA)
    with pytest.raises(UsageError, match=message):
        lora.check(given.lora, given.training)


@pytest.mark.slow
@pytest.mark.parametrize("init", ["default", "gaussian", "pissa", "olora", "eva"])
def test_base_and_adapter_are_the_trained_model_whatever_the_start(
    init: str, tiny_llama: Path, argv_for: Argv, tmp_path: Path
) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    argv = argv_for(max_steps=4, save_steps=2, learning_rate=1e-2, lora_init=init, lora_r=4)
    assert train([*argv, "--logging_steps", "1"]) == 0
    out = tmp_path / "out"
    state = json.loads((out / "trainer_state.json").read_text("utf-8"))
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert losses[-1] < losses[0]
    names = set(load_file(out / "adapter_model.safetensors"))
    assert names and all("lora_" in name for name in names)
    assert not (out / "model.safetensors").exists() and not (out / lora.START).exists()
    assert (out / "tokenizer.json").read_bytes() == (tiny_llama / "tokenizer.json").read_bytes()
    assert (out / "chat_template.jinja").is_file()

    final = logits(adapted(tiny_llama, out))
    plain = logits(AutoModelForCausalLM.from_pretrained(tiny_llama))
    assert not final.allclose(plain, atol=1e-4)
    # The last checkpoint holds the adapter as it was trained, over a base it may have moved.
    assert final.allclose(logits(adapted(tiny_llama, out / "checkpoint-4")), atol=1e-4)

    merged = apply_lora(
        str(tiny_llama), str(tmp_path / "merged"), lora_path=str(out), dtype="float32"
    )
    assert logits(AutoModelForCausalLM.from_pretrained(merged)).allclose(final, atol=1e-4)
    assert (merged / "chat_template.jinja").read_bytes() == (
        (out / "chat_template.jinja").read_bytes()
    )


@pytest.mark.slow
@pytest.mark.parametrize("init", ["default", "pissa"])
def test_a_resumed_adapter_ends_as_one_without_a_break(
    init: str, argv_for: Argv, tmp_path: Path
) -> None:
    import shutil

    from safetensors.torch import load_file

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    common = {"max_steps": 4, "save_steps": 2, "learning_rate": 1e-2, "lora_init": init}
    assert train(argv_for(**common, output_dir=whole)) == 0
    shutil.copytree(whole / "checkpoint-2", broken / "checkpoint-2")
    if init == "pissa":  # a run that is killed leaves the start behind
        assert train(argv_for(**common | {"max_steps": 1}, output_dir=tmp_path / "other")) == 0
    assert train(argv_for(**common, output_dir=broken)) == 0
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (whole, broken))
    assert all(first[name].equal(second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize(("bias", "n_expected"), [("all", 8), ("lora_only", 4)])
def test_biases_are_trained_and_saved_as_asked(
    bias: str, n_expected: int, argv_for: Argv, tmp_path: Path
) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        attention_bias=True,
    )
    base = tmp_path / "biased"
    LlamaForCausalLM(config).save_pretrained(base)
    argv = argv_for(model_name_or_path=base, lora_bias=bias, learning_rate=1e-2)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        source = Path(argv_for()[1]) / name
        (base / name).write_bytes(source.read_bytes())
    assert train(argv) == 0
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    biases = [name for name in saved if name.endswith("bias")]
    assert len(biases) == n_expected  # q, k, v and o of two layers, or q and v
    assert any(saved[name].abs().max() > 0 for name in biases)
    moved = adapted(base, tmp_path / "out")
    assert not logits(moved).allclose(logits(AutoModelForCausalLM.from_pretrained(base)), atol=1e-5)


@pytest.mark.slow
def test_qlora_trains_on_the_cpu_over_4_bits(
    tiny_llama: Path, argv_for: Argv, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    argv = argv_for(max_steps=6, learning_rate=1e-2, q_lora=True)
    assert train([*argv, "--logging_steps", "1", "--gradient_checkpointing", "True"]) == 0
    out = tmp_path / "out"
    state = json.loads((out / "trainer_state.json").read_text("utf-8"))
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert losses[-1] < losses[0]
    merged = apply_lora(str(tiny_llama), str(tmp_path / "merged"), lora_path=str(out))
    assert (merged / "model.safetensors").is_file()


def test_a_layer_that_is_not_there_is_named_with_those_that_are(
    argv_for: Argv, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train([*argv_for(), "--lora_target_modules", "query"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "no layer of that name" in message and "down_proj" in message and "q_proj" in message


def test_merging_refuses_what_is_no_adapter_and_a_target_in_use(
    tiny_llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no adapter"):
        apply_lora(str(tiny_llama), str(tmp_path / "new"), lora_path=str(tiny_llama))
    with pytest.raises(UsageError, match="is there already"):
        apply_lora(str(tiny_llama), str(tiny_llama), lora_path="x")
    assert not (tmp_path / "new").exists()
