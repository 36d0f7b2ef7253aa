"""What a training holds in memory at its highest, all the weights or QLoRA, beside TRL.

    python benchmarks/training_memory.py

The model of 10 M parameters and the conversations of training.py, with one thread, each in a
process of its own; measured is the peak of the process's resident memory. TRL gets the same ids
and masks, and quantizes and adapts the same way.
"""

import argparse
import json
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processes import ROOT, TOOLS, run_child, table
from training import WINDOW, common_flags, make_inputs

STEPS = 4
MIB = 1 << 10  # ru_maxrss counts KiB


def ours(given: argparse.Namespace, *, q_lora: bool) -> None:
    """Our command, as a user starts it."""
    sys.path.insert(0, str(ROOT))
    from fastchat.train import fit
    from fastchat.train.presets import TRAIN, TRAIN_LORA

    flags = {
        **common_flags(given.out),
        "max_steps": STEPS,
        "model_name_or_path": given.model,
        "data_path": given.data,
        "model_max_length": WINDOW,
        **({"q_lora": True} if q_lora else {}),
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    if fit.main(words, prog="train", preset=TRAIN_LORA if q_lora else TRAIN):
        raise SystemExit("training failed")


def trl(given: argparse.Namespace, *, q_lora: bool, packing: bool) -> None:
    """TRL's SFTTrainer on the same ids and masks."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    torch.set_num_threads(1)
    rows = [json.loads(line) for line in Path(given.ids).read_text("utf-8").splitlines()]
    data = Dataset.from_list(
        [
            {
                "input_ids": row["input_ids"],
                "completion_mask": [int(label != -100) for label in row["labels"]],
            }
            for row in rows
        ]
    )
    how: dict[str, Any] = {"dtype": "float32"}
    if q_lora:
        how["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
        )
        how["device_map"] = {"": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(given.model, **how)
    if q_lora:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config = SFTConfig(
        **common_flags(given.out) | {"max_steps": STEPS},
        max_length=WINDOW,
        packing=packing,
        completion_only_loss=True,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
    )
    adapter = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], lora_dropout=0.05)
    SFTTrainer(
        model=model,
        args=config,
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(given.model),
        peft_config=adapter if q_lora else None,
    ).train()


CHILDREN = {
    "all weights, ours": lambda given: ours(given, q_lora=False),
    "all weights, TRL packed": lambda given: trl(given, q_lora=False, packing=True),
    "all weights, TRL unpacked": lambda given: trl(given, q_lora=False, packing=False),
    "QLoRA, ours": lambda given: ours(given, q_lora=True),
    "QLoRA, TRL packed": lambda given: trl(given, q_lora=True, packing=True),
    "QLoRA, TRL unpacked": lambda given: trl(given, q_lora=True, packing=False),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tools", type=Path, default=TOOLS)
    parser.add_argument("--trl-python", default=sys.executable)
    parser.add_argument("--conversations", type=int, default=200)
    for name in ("child", "report", "out", "data", "model", "ids"):
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        CHILDREN[args.child](args)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB
        Path(args.report).write_text(json.dumps(peak), "utf-8")
        return 0
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as name:
        made = make_inputs(args.tools, Path(name), args.conversations)
        for child in CHILDREN:
            python = args.trl_python if "TRL" in child else sys.executable
            peak = run_child(
                __file__, child, python, data=made["rounds"], model=made["model"], ids=made["ids"]
            )
            rows.append([child, f"{peak:,.0f}"])
    print(table(["training", "peak MiB"], rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
