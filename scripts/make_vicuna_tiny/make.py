"""Makes vicuna-tiny from nothing: conversations, tokenizer, blank model, training, examination.

    python scripts/make_vicuna_tiny/make.py --out fastchat/model/vicuna-tiny

The training itself is the published command, fastchat/train/train_mem.py, in a process of its
own. Prints how well the model does on conversations that it has not seen, and the processor
time that all of it took.
"""

import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blank_model import CONTEXT, make_model, make_tokenizer
from conversations import examination, training_records
from examine import examine

from fastchat.families.registry import registry
from fastchat.settings import run_command
from fastchat.train.chat_template import jinja_text

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = "vicuna_v1.1"
BATCH = 16
LESSON = 200
"""Batches that are shuffled among each other."""
TRAINING = {
    "bf16": True,
    "num_train_epochs": 1,
    "per_device_train_batch_size": BATCH,
    "learning_rate": 4e-3,
    "muon_learning_rate": 0.02,
    "weight_decay": 0.01,
    "adam_beta2": 0.98,
    "warmup_ratio": 0.03,
    "lr_scheduler_type": "linear",
    "logging_steps": 50,
    "save_strategy": "no",
    "model_max_length": CONTEXT,
    "train_sampling_strategy": "sequential",
    "packing": False,
    "disable_tqdm": True,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Makes vicuna-tiny from nothing and examines it."""

    out: Path = Path("vicuna-tiny")
    """Folder of the finished model."""
    work: Path | None = None
    """Folder for what is made on the way; the default is a temporary one."""
    exchanges: int = 110_000
    """Questions and answers to learn from."""
    examined: int = 200
    """Held-out questions of every topic; 0 leaves the examination out."""
    seed: int = 1
    """Another seed writes other conversations and starts from other weights."""
    debug: bool = False
    """Show tracebacks."""


def main() -> int:
    """Runs the command."""
    return run_command(Settings, make, prog="make.py")


def make(settings: Settings) -> None:
    """All steps, in a folder that is thrown away unless one is named."""
    with tempfile.TemporaryDirectory() as temporary:
        work = settings.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        data = write_conversations(settings, work / "conversations.json")
        n_weights = make_blank(settings, work / "blank", data)
        print(f"blank model with {n_weights:,} weights; training on {data}", flush=True)
        train(work / "blank", data, work / "trained", seed=settings.seed)
        export(work / "trained", settings.out)
    if settings.examined:
        report = examine(settings.out, examination(settings.examined, seed=settings.seed + 1))
        print(report.table())
        for question, right, given in report.mistakes[:20]:
            print(f"{question!r}: {given!r} instead of {right!r}")
    print(f"processor time: {processor_minutes():.1f} minutes")


def write_conversations(settings: Settings, path: Path) -> Path:
    """The lessons in their order, as a training file."""
    records = list(training_records(settings.exchanges, seed=settings.seed))
    lessons = list(in_batches(records, random.Random(settings.seed)))
    path.write_text(json.dumps(lessons, ensure_ascii=False), "utf-8")
    return path


def in_batches(records: Sequence[dict[str, Any]], r: random.Random) -> Iterator[dict[str, Any]]:
    """The records in lessons of many batches, a batch of similar lengths to need little padding."""
    for start in range(0, len(records), LESSON * BATCH):
        lesson = sorted(records[start : start + LESSON * BATCH], key=_n_letters)
        batches = [lesson[i : i + BATCH] for i in range(0, len(lesson), BATCH)]
        r.shuffle(batches)
        for batch in batches:
            yield from batch


def _n_letters(record: dict[str, Any]) -> int:
    return sum(len(turn["value"]) for turn in record["conversations"])


def make_blank(settings: Settings, folder: Path, data: Path) -> int:
    """Tokenizer and random weights; returns the number of weights."""
    records = json.loads(data.read_text("utf-8"))
    random.Random(settings.seed).shuffle(records)
    template = registry().template(TEMPLATE)
    n_tokens = make_tokenizer(
        (turn["value"] for record in records[:20_000] for turn in record["conversations"]),
        folder,
        chat_template="{{- bos_token }}" + jinja_text(template),
        fixed_texts=(
            template.system_message + " ",
            template.user[0].rstrip(),
            " " + template.open,
        ),
    )
    return make_model(folder, n_tokens=n_tokens, seed=settings.seed)


def train(blank: Path, data: Path, out: Path, *, seed: int) -> None:
    """Runs the published training command."""
    flags = {
        "model_name_or_path": blank,
        "data_path": data,
        "output_dir": out,
        "seed": seed,
        **TRAINING,
    }
    command = [sys.executable, str(ROOT / "fastchat" / "train" / "train_mem.py")]
    for name, value in flags.items():
        command += [f"--{name}", str(value)]
    subprocess.run(command, check=True)


def export(trained: Path, out: Path) -> None:
    """The trained model with weights of 16 bits, and nothing that only training needs."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.bfloat16)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    weights = out / "model.safetensors"
    weights.chmod(0o644)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(trained / name, out / name)


def processor_minutes() -> float:
    """User and system time of this process and of those it started."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    started = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (own.ru_utime + own.ru_stime + started.ru_utime + started.ru_stime) / 60


if __name__ == "__main__":
    sys.exit(main())
