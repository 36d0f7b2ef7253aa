"""Every command started as printed, in one process and in two: trains, saves, goes on."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from help_pages import HelpPage, help_pages

Argv = Callable[..., list[str]]
COMMANDS = (
    "train",
    "train_mem",
    "train_xformers",
    "train_with_template",
    "train_baichuan",
    "train_yuan2",
    "train_lora",
    "train_lora_t5",
    "train_flant5",
    "train_distill",
    "train_dpo",
)
FSDP = ["--fsdp", "full_shard auto_wrap", "--fsdp_transformer_layer_cls_to_wrap"]


def run(command: list[str], root: Path, *, seconds: int = 1800) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def on_two_processes(name: str, argv: list[str], root: Path) -> str:
    """Runs a command by its path under torchrun; what it wrote to standard error."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    # A port of 0 lets the launcher find a free one; no name of this machine is looked up.
    where = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    where.append(f"fastchat/train/{name}.py")
    return run([*torchrun, *where, *argv], root).stderr


def losses(folder: Path) -> list[float]:
    state = json.loads((folder / "trainer_state.json").read_text("utf-8"))
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


@pytest.fixture(scope="module")
def pages() -> dict[str, HelpPage]:
    return help_pages(f"fastchat.train.{name}" for name in COMMANDS)


@pytest.mark.xdist_group("train_help")
@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_answers_without_torch(
    pages: dict[str, HelpPage], name: str
) -> None:
    page = pages[f"fastchat.train.{name}"]
    assert page.status == 0, page.text
    assert not {"torch", "transformers", "peft", "trl"} & page.imported
    shown = page.text
    assert f"fastchat.train.{name} " in shown and "  --model_max_length" in shown
    assert ("  --preprocessed_path" in shown) == ("t5" in name)
    assert ("  --efficient_loss" in shown) == (name == "train_yuan2")
    assert ("  --beta" in shown) == (name == "train_dpo")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        ("train_xformers", [], r"attention=sdpa \(torch's own memory-efficient kernel"),
        ("train_with_template", [], r"template=\w+ \("),
        ("train_baichuan", ["--flash_attn", "True"], "attention=sdpa"),
        ("train_yuan2", ["--efficient_loss", "True"], ""),
        ("train_yuan2", ["--split_example_loss", "True"], ""),
    ],
)
def test_a_command_trains_in_one_process(
    name: str, flags: list[str], said: str, argv_for: Argv, root: Path, tmp_path: Path
) -> None:
    data = root / "data" / "dummy_conversation.json"
    argv = argv_for(data_path=data, save_strategy="no", overlong="drop", max_masked_share=1)
    done = run([sys.executable, f"fastchat/train/{name}.py", *argv, *flags], root)
    assert re.search(said, done.stderr)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer)
    if name == "train_yuan2":
        assert tokenizer.convert_tokens_to_ids("<FIM_SUFFIX>") >= 380


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sharded"),
    [("train", False), ("train_lora", True), ("train_flant5", True)],
)
def test_two_processes_train_save_and_go_on(
    name: str,
    sharded: bool,
    argv_for: Argv,
    tiny_t5: Path,
    tiny_llama: Path,
    root: Path,
    tmp_path: Path,
) -> None:
    from safetensors.torch import load_file

    is_t5 = name == "train_flant5"
    layer = "T5Block" if is_t5 else "LlamaDecoderLayer"
    common: dict[str, object] = {
        "model_name_or_path": tiny_t5 if is_t5 else tiny_llama,
        "data_path": root / "data" / "dummy_conversation.json",
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": 2,
        "check_save": True,
        "gradient_checkpointing": sharded,
        "lr_scheduler_type": "constant",
    }
    how = [*FSDP, layer] if sharded else []
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    text = on_two_processes(name, [*argv_for(**common, max_steps=4, output_dir=whole), *how], root)
    assert ("by FSDP2" if sharded else "by DDP") in text and "processes=2" in text
    assert "saving works" in text and not (whole / "check_save").exists()
    shutil.copytree(whole / "checkpoint-2", broken / "checkpoint-2")
    argv = argv_for(**common, max_steps=4, output_dir=broken)
    text = on_two_processes(name, [*argv, *how], root)
    assert "resuming from checkpoint" in text
    assert losses(broken) == pytest.approx(losses(whole), rel=1e-5)
    file = "adapter_model.safetensors" if name == "train_lora" else "model.safetensors"
    first, second = load_file(whole / file), load_file(broken / file)
    assert first.keys() == second.keys()
    assert all(first[key].allclose(second[key], atol=1e-6) for key in first)
    for path in (whole, whole / "checkpoint-4"):
        assert (path / file).is_file() and (path / "tokenizer.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "train_mem", "train_lora", "train_flant5"])
def test_those_of_several_processes_run_in_one(
    name: str, argv_for: Argv, tiny_t5: Path, tiny_llama: Path, root: Path, tmp_path: Path
) -> None:
    model = tiny_t5 if name == "train_flant5" else tiny_llama
    argv = argv_for(model_name_or_path=model, logging_steps=1)
    run([sys.executable, f"fastchat/train/{name}.py", *argv], root)
    assert len(losses(tmp_path / "out")) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("train_xformers", []),
        ("train_with_template", []),
        ("train_baichuan", []),
        ("train_yuan2", ["--efficient_loss", "True"]),
        ("train_lora_t5", []),
        ("train_distill", []),
    ],
)
def test_those_of_one_process_run_in_two(
    name: str,
    flags: list[str],
    argv_for: Argv,
    tiny_t5: Path,
    tiny_llama: Path,
    tiny_teacher: Path,
    root: Path,
    tmp_path: Path,
) -> None:
    given: dict[str, object] = {"logging_steps": 1, "save_strategy": "no"}
    given["data_path"] = root / "data" / "dummy_conversation.json"
    given["model_name_or_path"] = tiny_t5 if "t5" in name else tiny_llama
    if name == "train_distill":
        given["teacher_model_name_or_path"] = tiny_teacher
    if "t5" not in name:
        given |= {"overlong": "drop", "max_masked_share": 1}
    text = on_two_processes(name, [*argv_for(**given), *flags], root)
    assert "processes=2" in text
    assert len(losses(tmp_path / "out")) == 2
    weights = "adapter_model" if name == "train_lora_t5" else "model"
    assert (tmp_path / "out" / f"{weights}.safetensors").is_file()


@pytest.mark.slow
def test_two_processes_share_a_stream_and_go_on_in_its_second_pass(
    argv_for: Argv, root: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    n_records = 13
    data = tmp_path / "stream.jsonl"
    with data.open("w", encoding="utf-8") as file:
        for i in range(n_records):
            talk = [{"from": "human", "value": f"Say {i}."}, {"from": "gpt", "value": f"{i}. " * i}]
            talk[1]["value"] = talk[1]["value"] or "none"
            file.write(json.dumps({"id": str(i), "conversations": talk}) + "\n")
    common: dict[str, object] = {
        "data_path": data,
        "streaming": True,
        "packing": False,
        "shuffle_buffer": 6,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_steps": 5,
        "max_steps": 8,
    }
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    on_two_processes("train", argv_for(**common, output_dir=whole), root)
    report = json.loads((whole / "training_report.json").read_text("utf-8"))
    # The first pass over all records, counted once: no process made examples of another's.
    assert report["data"]["n_records"] == n_records
    shutil.copytree(whole / "checkpoint-5", broken / "checkpoint-5")
    on_two_processes("train", argv_for(**common, output_dir=broken), root)
    assert losses(broken) == pytest.approx(losses(whole), rel=1e-5)
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, broken))
    assert all(first[name].allclose(second[name], atol=1e-6) for name in first)


@pytest.mark.slow
def test_a_checkpoint_of_shards_gives_the_logits_of_one_process(
    argv_for: Argv, root: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    common: dict[str, object] = {"learning_rate": 1e-2, "max_steps": 3, "packing": False}
    one, two = tmp_path / "one", tmp_path / "two"
    alone = argv_for(**common, output_dir=one, per_device_train_batch_size=4)
    run([sys.executable, "-m", "fastchat.train.train", *alone], root)
    argv = argv_for(**common, output_dir=two, per_device_train_batch_size=2)
    on_two_processes("train", [*argv, *FSDP, "LlamaDecoderLayer"], root)
    ids = torch.tensor([list(range(5, 30))])
    with torch.no_grad():
        first, second = (
            AutoModelForCausalLM.from_pretrained(path)(input_ids=ids).logits for path in (one, two)
        )
    # The same eight conversations in every step, all alike: sharding may only round otherwise.
    assert first.allclose(second, atol=1e-4)


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_that_the_next_run_goes_on_from(
    argv_for: Argv, root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    argv = argv_for(max_steps=100_000, logging_steps=1, save_steps=100_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "fastchat.train.train", *argv],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "'loss'" in line:
                break
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 143, rest[-2000:]
    assert "stopped by a signal" in rest
    [checkpoint] = out.glob("checkpoint-*")
    step = int(checkpoint.name.partition("-")[2])
    assert not (out / "model.safetensors").exists(), "it is not trained to its end"
    more: Any = argv_for(max_steps=step + 1, logging_steps=1)
    done = run([sys.executable, "-m", "fastchat.train.train", *more], root)
    assert f"resuming from checkpoint={checkpoint}" in done.stderr
    assert (out / "model.safetensors").is_file()
    state = json.loads((out / "trainer_state.json").read_text("utf-8"))
    assert state["global_step"] == step + 1


@pytest.mark.slow
def test_the_course_of_a_training_is_written_for_tensorboard(
    argv_for: Argv, root: Path, tmp_path: Path
) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    argv = argv_for(logging_steps=1, save_strategy="no", logging_dir=tmp_path / "logs")
    run([sys.executable, "-m", "fastchat.train.train", *argv, "--report_to", "tensorboard"], root)
    accumulator = events.EventAccumulator(str(tmp_path / "logs"))
    accumulator.Reload()
    tags = set(accumulator.Tags()["scalars"])
    assert {"train/loss", "train/learning_rate", "train/supervised_tokens"} <= tags
    assert {"train/tokens_per_second", "train/padding_share"} <= tags
    assert len(accumulator.Scalars("train/loss")) == 2


@pytest.mark.slow
def test_a_model_trained_beyond_its_positions_reloads_and_answers(
    argv_for: Argv, root: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    argv = argv_for(model_max_length=300)  # the tiny model has 256 positions
    run([sys.executable, "-m", "fastchat.train.train", *argv], root)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    before: Any = AutoModelForCausalLM.from_pretrained(tiny_llama)
    rope = model.config.rope_parameters
    assert (rope["rope_type"], rope["factor"]) == ("linear", 2.0)
    assert rope["rope_theta"] == before.config.rope_parameters["rope_theta"]
    assert model.config.max_position_embeddings == 300
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")("USER: Hi " * 60, return_tensors="pt")
    assert ids["input_ids"].shape[1] > 256 - 8
    assert model.generate(**ids, max_new_tokens=4).shape[1] >= ids["input_ids"].shape[1]
