"""The files that start a training elsewhere: shell scripts, SkyPilot, DeepSpeed, FSDP."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastchat.train.arguments import Arguments, parse
from fastchat.train.presets import TRAIN_LORA, TRAIN_MEM

SECTIONS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "workdir": str,
    "num_nodes": int,
    "resources": dict,
    "envs": dict,
    "file_mounts": dict,
    "setup": str,
    "run": str,
}
"""Sections of a SkyPilot task that ours use, as its documentation describes them."""


def started(script: Path | str, tmp_path: Path, root: Path, **environment: str) -> list[str]:
    """What a shell script gives to torchrun, of which there is a stand-in here."""
    stand_in = tmp_path / "bin" / "torchrun"
    stand_in.parent.mkdir(exist_ok=True)
    stand_in.write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done\n', "utf-8")
    stand_in.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", script] if isinstance(script, str) else [str(script), "--max_steps", "7"],
        cwd=root,
        env={"PATH": f"{stand_in.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
        | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    return done.stdout.splitlines()


def arguments_of(words: list[str], *, lora: bool = False) -> Arguments:
    at = next(i for i, word in enumerate(words) if word.endswith(".py"))
    return parse(words[at + 1 :], prog="x", preset=TRAIN_LORA if lora else TRAIN_MEM)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "gpus", "batch", "accumulated"), [("7b", 4, 2, 16), ("13b", 8, 4, 4)]
)
def test_the_scripts_of_vicuna_hold_the_published_values(
    size: str, gpus: int, batch: int, accumulated: int, tmp_path: Path, root: Path
) -> None:
    words = started(root / "scripts" / f"train_vicuna_{size}.sh", tmp_path, root, DATA="my.json")
    assert f"--nproc_per_node={gpus}" in words
    assert next(word for word in words if word.endswith(".py")) == "fastchat/train/train_mem.py"
    given = arguments_of(words)
    training = given.training
    assert gpus * batch * accumulated == given.fit.global_batch_size == 128
    assert training.per_device_train_batch_size == batch
    assert training.gradient_accumulation_steps == accumulated
    assert (training.learning_rate, training.weight_decay, training.warmup_steps) == (2e-5, 0, 0.04)
    assert (training.num_train_epochs, training.lr_scheduler_type) == (3, "cosine")
    assert (training.save_steps, training.eval_steps, training.save_total_limit) == (1500, 1500, 8)
    assert given.fit.model_max_length == 2048 and given.data.data_path == ["my.json"]
    assert training.max_steps == 7, "flags of the caller count last"
    assert ("offload" in " ".join(words)) == (size == "13b")


@pytest.mark.slow
def test_the_script_of_lora_holds_the_published_values(tmp_path: Path, root: Path) -> None:
    words = started(root / "scripts" / "train_lora.sh", tmp_path, root)
    given = arguments_of(words, lora=True)
    assert (given.lora.lora_r, given.lora.lora_alpha, given.lora.lora_dropout) == (8, 16, 0.05)
    training = given.training
    assert (training.num_train_epochs, training.per_device_train_batch_size) == (150, 2)
    assert (training.eval_steps, training.save_steps, training.save_total_limit) == (100, 200, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gpus", "size"), [("vicuna", 8, "13"), ("vicuna", 8, "7"), ("alpaca", 4, "7")]
)
def test_the_tasks_of_skypilot_train_as_published(
    name: str, gpus: int, size: str, tmp_path: Path, root: Path
) -> None:
    task = yaml.safe_load((root / "scripts" / f"train-{name}.yaml").read_text("utf-8"))
    assert set(task) <= set(SECTIONS)
    assert all(isinstance(value, SECTIONS[key]) for key, value in task.items())
    assert task["name"] == name
    assert task["resources"]["accelerators"] == f"A100-80GB:{gpus}"
    assert {"WANDB_API_KEY", "WANDB_MODE", "MODEL_SIZE"} <= set(task["envs"])
    assert str(task["envs"]["MODEL_SIZE"]) == ("13" if name == "vicuna" else "7")
    for part in ("setup", "run"):
        subprocess.run(["sh", "-n"], input=task[part], text=True, timeout=600, check=True)
    activate = tmp_path / "fastchat" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text("", "utf-8")
    environment = {key: str(value) for key, value in task["envs"].items()} | {
        "SKYPILOT_NUM_NODES": "1",
        "SKYPILOT_NUM_GPUS_PER_NODE": str(gpus),
        "SKYPILOT_NODE_RANK": "0",
        "SKYPILOT_NODE_IPS": "127.0.0.1",
        "MODEL_SIZE": size,
    }
    words = started(task["run"], tmp_path, root, **environment)
    assert f"--nproc_per_node={gpus}" in words
    assert words[words.index("--model_name_or_path") + 1] == f"meta-llama/Llama-2-{size}b-hf"
    assert words[words.index("--output_dir") + 1] == f"/checkpoints/{name}-{size}b"
    at = words.index("--report_to")  # wandb is not installed here
    given = arguments_of([*words[:at], *words[at + 2 :]])
    training = given.training
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
    assert batch * gpus == given.fit.global_batch_size == 128
    assert (training.learning_rate, training.num_train_epochs) == (2e-5, 3)


def test_deepspeed_finds_its_files_complete(root: Path) -> None:
    from accelerate.utils.deepspeed import HfDeepSpeedConfig

    for stage in (2, 3):
        path = root / "playground" / f"deepspeed_config_s{stage}.json"
        config = HfDeepSpeedConfig(json.loads(path.read_text("utf-8")))
        assert config.is_zero3() == (stage == 3) and config.is_offload()
        assert config.get_value("bf16.enabled") == config.get_value("fp16.enabled") == "auto"
        zero: Any = config.config["zero_optimization"]
        assert zero["stage"] == stage and zero["overlap_comm"] and zero["contiguous_gradients"]
        assert zero.get("stage3_gather_16bit_weights_on_model_save", True)


def test_accelerate_reads_the_file_of_fsdp(root: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config: Any = load_config_from_file(str(root / "playground" / "fsdp2.yaml"))
    assert config.distributed_type.value == "FSDP"
    assert config.fsdp_config["fsdp_version"] == 2
    assert config.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
