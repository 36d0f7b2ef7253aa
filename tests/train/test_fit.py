"""From a model and conversations to a folder that can be served."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fastchat.errors import DataError, UsageError
from fastchat.train import fit
from fastchat.train.arguments import parse
from fastchat.train.checkpoints import checkpoint_to_resume
from fastchat.train.loading import extend_context

TALK = [
    {"from": "human", "value": "What is the name of the river?"},
    {"from": "gpt", "value": "It is the Rhine."},
]


def write_data(path: Path, n: int = 8) -> Path:
    records = [{"id": str(i), "conversations": TALK} for i in range(n)]
    path.write_text(json.dumps(records), "utf-8")
    return path


def argv_for(model: Path, tmp_path: Path, **flags: object) -> list[str]:
    given: dict[str, object] = {
        "model_name_or_path": model,
        "data_path": write_data(tmp_path / "data.json"),
        "output_dir": tmp_path / "out",
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "model_max_length": 200,
        "disable_tqdm": True,
        **flags,
    }
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text("utf-8"))


@pytest.mark.slow
def test_a_trained_folder_can_be_loaded_and_keeps_the_tokenizer(
    tiny_llama: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert fit.main(argv_for(tiny_llama, tmp_path, save_steps=1), prog="train") == 0
    out = tmp_path / "out"
    for folder in (out, out / "checkpoint-1", out / "checkpoint-2"):
        assert config_of(folder)["use_cache"] is True
        for name in ("tokenizer.json", "tokenizer_config.json"):
            assert (folder / name).read_bytes() == (tiny_llama / name).read_bytes()
        assert AutoModelForCausalLM.from_pretrained(folder).config.use_cache
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_dict=False
    )
    assert tokenizer.decode(ids).endswith("questions. USER: Hi ASSISTANT:")


@pytest.mark.slow
def test_a_resumed_training_ends_as_one_without_a_break(tiny_llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    common: dict[str, object] = {"max_steps": 4, "save_steps": 2, "learning_rate": 1e-2}
    argv = argv_for(tiny_llama, tmp_path, **common, output_dir=whole)
    assert fit.main(argv, prog="train") == 0
    # What a run leaves that was stopped while it wrote its last checkpoint.
    shutil.copytree(whole / "checkpoint-2", broken / "checkpoint-2")
    shutil.copytree(whole / "checkpoint-4", broken / "checkpoint-4")
    weights = broken / "checkpoint-4" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    argv = argv_for(tiny_llama, tmp_path, **common, output_dir=broken)
    assert fit.main(argv, prog="train") == 0
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, broken))
    assert all(first[name].equal(second[name]) for name in first)


@pytest.mark.slow
def test_muon_trains_the_matrices(tiny_llama: Path, tmp_path: Path) -> None:
    argv = argv_for(tiny_llama, tmp_path, max_steps=30, learning_rate=1e-2, muon_learning_rate=0.02)
    assert fit.main([*argv, "--logging_steps", "1"], prog="train") == 0
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text("utf-8"))
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert losses[-1] < 0.5 * losses[0]


def test_nothing_to_learn_stops_before_the_model_is_loaded(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.json"
    empty.write_text('[{"id": "1", "conversations": [{"from": "human", "value": "x"}]}]', "utf-8")
    assert fit.main(argv_for(tiny_llama, tmp_path, data_path=empty), prog="a.train") == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert (
        message.startswith("train: ")
        and "nothing to learn from: 1 records (no reply: 1)" in message
    )


def test_a_missing_data_path_and_a_missing_model_are_one_line(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--model_name_or_path", str(tiny_llama), "--output_dir", str(tmp_path)]
    assert fit.main(argv, prog="train") == 2
    assert "--data_path is missing" in capsys.readouterr().err
    argv = argv_for(tmp_path / "no-model", tmp_path)
    assert fit.main(argv, prog="train") == 1
    assert "no tokenizer can be loaded from" in capsys.readouterr().err


def test_a_longer_context_stretches_the_positions_and_keeps_the_base() -> None:
    from transformers import LlamaConfig

    def config() -> LlamaConfig:
        return LlamaConfig(
            max_position_embeddings=256,
            rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        )

    same = config()
    extend_context(same, 256, kind="linear")
    assert same.rope_parameters["rope_type"] == "default"

    longer = config()
    extend_context(longer, 700, kind="linear")
    assert longer.max_position_embeddings == 700
    rope = longer.rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["rope_theta"]) == ("linear", 3.0, 5000.0)
    extend_context(longer, 1400, kind="linear")
    assert longer.rope_parameters["factor"] == 6.0

    plain = config()
    extend_context(plain, 300, kind="none")
    assert plain.max_position_embeddings == 300
    assert plain.rope_parameters["rope_type"] == "default"


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn"])
def test_a_stretched_model_can_be_built(kind: str) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    extend_context(config, 200, kind=kind)
    LlamaForCausalLM(LlamaConfig.from_dict(config.to_dict()))


def test_positions_that_cannot_be_stretched_are_refused() -> None:
    from transformers import GPT2Config

    with pytest.raises(UsageError, match="use at most 64"):
        extend_context(GPT2Config(n_positions=64), 128, kind="linear")


def whole_checkpoint(folder: Path, *, weights: bytes | None = None) -> Path:
    """A checkpoint with the files that are looked at."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    folder.mkdir(parents=True)
    data = len(header).to_bytes(8, "little") + header + b"\0\0\0\0"
    (folder / "model.safetensors").write_bytes(data if weights is None else weights)
    (folder / "trainer_state.json").write_text('{"global_step": 1}', "utf-8")
    return folder


def test_the_newest_whole_checkpoint_is_resumed(tmp_path: Path) -> None:
    whole_checkpoint(tmp_path / "checkpoint-9")
    newest = whole_checkpoint(tmp_path / "checkpoint-20")
    whole_checkpoint(tmp_path / "checkpoint-100", weights=b"\x10\0\0\0\0\0\0\0{")
    (tmp_path / "checkpoint-30").mkdir()
    (tmp_path / "checkpoint-x").mkdir()
    assert checkpoint_to_resume(None, tmp_path) == newest
    assert checkpoint_to_resume("auto", tmp_path) == newest
    assert checkpoint_to_resume("none", tmp_path) is None
    assert checkpoint_to_resume(str(tmp_path / "checkpoint-9"), tmp_path) is not None
    assert checkpoint_to_resume(None, tmp_path / "nowhere") is None
    with pytest.raises(DataError, match="missing or damaged"):
        checkpoint_to_resume(str(tmp_path / "checkpoint-100"), tmp_path)


def test_the_global_batch_is_said_and_compared(tmp_path: Path) -> None:
    argv = ["--output_dir", str(tmp_path), "--per_device_train_batch_size", "4"]
    arguments = parse([*argv, "--gradient_accumulation_steps", "8"], prog="x")
    assert fit.global_batch_note(arguments) == "global batch size 32"
    arguments = parse([*argv, "--global_batch_size", "128"], prog="x")
    assert "not the 128 of --global_batch_size: 1 processes x 4 a device x 1" in (
        fit.global_batch_note(arguments)
    )
