"""The published training lines, run as they are printed with a model that is here."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from real_processes import free_port

SEEDS = {
    "2023": ("000_fafb6cbbe47d5028.txt", "<path-to-data>"),
    "2024": ("002_126d26efa528e917.txt", "data/dummy_conversation.json"),
}


def published_line(text: str) -> str:
    """The first torchrun command of a document, its broken lines joined."""
    [line] = re.findall(r"^torchrun (?:.*\\\n)*.*train_mem.py(?:.*\\\n)*.*", text, re.M)[:1]
    return line.replace("\\\n", " ")


@pytest.mark.slow
@pytest.mark.parametrize("year", sorted(SEEDS))
def test_the_published_line_trains_on_two_processes(
    year: str, shared: Path, root: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name, data = SEEDS[year]
    words = shlex.split(published_line((shared / "seeds" / name).read_text("utf-8")), posix=True)
    port = str(free_port())
    given = {
        "<your_random_port>": port,
        "20001": port,
        "<path-to-llama-model-weight>": str(tiny_llama),
        "meta-llama/Llama-2-7b-hf": str(tiny_llama),
        data: str(root / "data" / "dummy_conversation.json"),
        "./checkpoints": str(tmp_path / "out"),
        "output_vicuna": str(tmp_path / "out"),
    }
    command = [given.get(word, word) for word in words]
    command = [re.sub(r"--nproc_per_node=\d+", "--nproc_per_node=2", word) for word in command]
    command = [re.sub(r"(--master_port=)(.*)", rf"\g<1>{port}", word) for word in command]
    # Three epochs of 500 records are for those who wait; two steps show the same.
    command += ["--max_steps", "2", "--gradient_accumulation_steps", "1"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *command[1:]]
    done = subprocess.run(
        torchrun,
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "DDP" not in done.stderr, "the published line asks for sharding"
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    before: Any = AutoModelForCausalLM.from_pretrained(tiny_llama)
    assert model.config.use_cache and model.config.max_position_embeddings == 2048
    weights, old = model.state_dict(), before.state_dict()
    assert weights.keys() == old.keys()
    assert all(torch.isfinite(x).all() for x in weights.values())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("USER: Hi ASSISTANT:", return_tensors="pt")
    assert model.generate(**ids, max_new_tokens=3).shape[1] >= ids["input_ids"].shape[1]


@pytest.mark.slow
def test_the_module_trains_in_one_process(root: Path, tiny_llama: Path, tmp_path: Path) -> None:
    command = [
        *[sys.executable, "-m", "fastchat.train.train", "--model_name_or_path", str(tiny_llama)],
        *["--data_path", "playground/data/dummy.json", "--output_dir", str(tmp_path / "out")],
        *["--max_steps", "1", "--fsdp", "full_shard", "--disable_tqdm", "True"],
    ]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "training without it" in done.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_the_attention_is_one_that_is_here() -> None:
    from fastchat.train.attention import memory_saving_attention

    assert memory_saving_attention() in ("sdpa", "flash_attention_2")
