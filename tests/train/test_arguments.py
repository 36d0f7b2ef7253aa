"""Flags of 2023 read by a trainer of today."""

import importlib.util
import json
import subprocess
import sys

import pytest

from fastchat.errors import UsageError
from fastchat.train.arguments import parse
from fastchat.train.published_flags import Machine, refuse_missing_packages, translate

CPU = Machine(has_accelerator=False, has_bf16=False, has_tf32=False, n_processes=2)
GPU = Machine(has_accelerator=True, has_bf16=True, has_tf32=True, n_processes=4)
OLD_GPU = Machine(has_accelerator=True, has_bf16=False, has_tf32=False, n_processes=1)

PUBLISHED = [
    *["--model_name_or_path", "m", "--data_path", "d.json", "--bf16", "True"],
    *["--output_dir", "out", "--num_train_epochs", "3", "--per_device_train_batch_size", "2"],
    *["--per_device_eval_batch_size", "2", "--gradient_accumulation_steps", "16"],
    *["--evaluation_strategy", "no", "--save_strategy", "steps", "--save_steps", "1200"],
    *["--save_total_limit", "10", "--learning_rate", "2e-5", "--weight_decay", "0."],
    *["--warmup_ratio", "0.03", "--lr_scheduler_type", "cosine", "--logging_steps", "1"],
    *["--fsdp", "full_shard auto_wrap"],
    *["--fsdp_transformer_layer_cls_to_wrap", "LlamaDecoderLayer"],
    *["--tf32", "True", "--model_max_length", "2048", "--gradient_checkpointing", "True"],
    *["--lazy_preprocess", "True"],
]


def flags_of(argv: list[str], machine: Machine) -> dict[str, str]:
    words, _ = translate(argv, machine)
    flags: dict[str, str] = {}
    for i, word in enumerate(words):
        if word.startswith("--"):
            follows = words[i + 1] if i + 1 < len(words) else "--"
            flags[word[2:]] = "" if follows.startswith("--") else follows
    return flags


def test_the_published_line_is_understood_as_it_is_printed() -> None:
    arguments = parse(PUBLISHED, prog="train_mem")
    training = arguments.training
    assert training.eval_strategy == "no"
    assert training.warmup_steps == 0.03
    assert training.bf16 and training.use_cpu
    assert arguments.data.lazy_preprocess
    assert arguments.fit.model_max_length == 2048
    assert training.optim == "adamw_torch"
    assert training.save_total_limit == 10
    assert any("--tf32" in note for note in arguments.notes)


def test_sharding_becomes_fsdp_2_with_checkpointing_inside() -> None:
    flags = flags_of(PUBLISHED, GPU)
    assert flags["fsdp"] == ""
    assert "activation_checkpointing" not in flags
    assert json.loads(flags["fsdp_config"]) == {
        "reshard_after_forward": True,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "version": 2,
        "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"],
        "activation_checkpointing": True,
    }
    assert flags["tf32"] == "True" and flags["bf16"] == "True" and "use_cpu" not in flags


def test_shard_grad_op_and_offload_and_a_config_beside_them() -> None:
    argv = ["--fsdp", "shard_grad_op offload", "--fsdp_config", '{"fsdp_version": 1, "x": 2}']
    assert json.loads(flags_of(argv, GPU)["fsdp_config"]) == {
        "version": 1,
        "x": 2,
        "reshard_after_forward": False,
        "cpu_offload": True,
    }


def test_one_process_is_not_sharded() -> None:
    words, notes = translate(["--fsdp", "full_shard", "--gradient_checkpointing", "True"], OLD_GPU)
    assert words == ["--activation_checkpointing", "True"]
    assert any("--fsdp" in note for note in notes)


@pytest.mark.parametrize(
    ("argv", "machine", "expected"),
    [
        (["--warmup_ratio", "0.04"], GPU, ["--warmup_steps", "0.04"]),
        (["--warmup_ratio", "0.04", "--warmup_steps", "9"], GPU, ["--warmup_steps", "9"]),
        (["--no_cuda", "True"], GPU, ["--use_cpu", "True"]),
        (["--tf32", "False"], OLD_GPU, []),
        (["--tf32", "True"], OLD_GPU, []),
        (["--bf16", "True"], CPU, ["--bf16", "True", "--use_cpu", "True"]),
        (["--fp16", "True"], CPU, ["--use_cpu", "True"]),
        (["--fp16", "True"], OLD_GPU, ["--fp16", "True"]),
        (["--gradient-checkpointing"], OLD_GPU, ["--activation_checkpointing", "True"]),
        (["--gradient_checkpointing=False"], GPU, ["--activation_checkpointing", "False"]),
        (["--group_by_length", "True"], GPU, ["--train_sampling_strategy", "group_by_length"]),
        (["--overwrite_output_dir", "True"], GPU, []),
        (["--learning_rate", "1", "--learning_rate", "2"], GPU, ["--learning_rate", "2"]),
    ],
)
def test_old_flags(argv: list[str], machine: Machine, expected: list[str]) -> None:
    assert translate(argv, machine)[0] == expected


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--warmup_ratio", "3"], "at least 0 and below 1"),
        (["--warmup_ratio", "x"], "not a number"),
        (["--fsdp", "sharded"], "does not know 'sharded'"),
        (["--fsdp", "full_shard", "--fsdp_config", "/nowhere.json"], "cannot be read"),
        (["stray"], "belongs to no flag"),
    ],
)
def test_what_cannot_be_translated_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        translate(argv, CPU)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--deepspeed", "c.json"], "pip install deepspeed"),
        (["--use_liger_kernel", "True"], "pip install liger-kernel"),
        (["--optim", "adamw_torch_4bit"], "pip install torchao"),
        (["--report_to", "wandb"], "pip install wandb"),
    ],
)
def test_a_missing_package_is_named_with_the_flag(argv: list[str], message: str) -> None:
    package = message.rsplit(" ", 1)[1].replace("-", "_")
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed here")
    with pytest.raises(UsageError, match=f"{argv[0]}.*{message}"):
        refuse_missing_packages(argv)


def test_bf16_on_a_gpu_without_it_names_the_remedy() -> None:
    with pytest.raises(UsageError, match="--fp16 True"):
        translate(["--bf16", "True"], OLD_GPU)


def test_an_unknown_flag_is_refused_with_the_nearest_and_prefixes_are_not_guessed() -> None:
    with pytest.raises(UsageError, match=r"--learnin_rate; did you mean --learning_rate\?"):
        parse(["--learnin_rate", "1"], prog="x")
    with pytest.raises(UsageError, match="unknown flag --model_name;"):
        parse(["--model_name", "1"], prog="x")


def test_a_value_that_does_not_fit_ends_with_status_2() -> None:
    with pytest.raises(SystemExit) as stop:
        parse(["--model_max_length", "many"], prog="x")
    assert stop.value.code == 2


def test_help_names_all_flags_without_importing_the_trainer() -> None:
    code = (
        "import sys; from fastchat.train import train_mem\n"
        "try: train_mem.main(['--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True
    ).stdout
    for flag in ("--data_path", "--lora_r", "--learning_rate", "--warmup_ratio"):
        assert f"  {flag}" in shown
