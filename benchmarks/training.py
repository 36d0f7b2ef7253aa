"""What a second of a processor learns: tokenizing with masks, and training, beside two others.

    python benchmarks/training.py
    python benchmarks/training.py --upstream-python /path/to/venv/bin/python --trl-python ...

All train the same model of 10 M parameters from the same weights on the same conversations, in
the same order, with one thread; each in a process of its own, in turn. Counted are tokens that
carry loss, and processor time within `Trainer.train`. The conversations are single rounds of the
generator's, since the upstream package leaves longer ones out with this tokenizer. Upstream is
`fschat` 0.2.36 with a transformers of its time, used as a package.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processes import ROOT, TOOLS, run_child, table

WINDOW = 512
TOKENIZE_WINDOW = 2048
BATCH = 4
RATE = 2e-4


def common_flags(out: str) -> dict[str, Any]:
    """What all trainers are told."""
    return {
        "output_dir": out,
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }


def watched(result: dict[str, Any]) -> None:
    """Makes every Trainer of this process read its data in order and tell what it cost."""
    import torch
    import transformers
    from torch.utils.data import SequentialSampler

    torch.set_num_threads(1)
    trainer: Any = transformers.Trainer
    train, step = trainer.train, trainer.training_step
    result |= {"supervised": 0, "losses": []}

    def timed_train(self: Any, *args: Any, **kwargs: Any) -> Any:
        began = time.process_time()
        output = train(self, *args, **kwargs)
        result["cpu_s"] = time.process_time() - began
        result["losses"] = [x["loss"] for x in self.state.log_history if "loss" in x]
        return output

    def counted_step(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        labels = inputs["shift_labels"] if "shift_labels" in inputs else inputs["labels"][:, 1:]
        result["supervised"] += int((labels != -100).sum())
        return step(self, model, inputs, *args, **kwargs)

    trainer.train, trainer.training_step = timed_train, counted_step
    trainer._get_train_sampler = lambda self, *_: SequentialSampler(self.train_dataset)


def ours(given: argparse.Namespace, *, packing: bool) -> dict[str, Any]:
    """Our command, as a user starts it."""
    sys.path.insert(0, str(ROOT))
    result: dict[str, Any] = {}
    watched(result)
    from fastchat.train import fit

    flags = {
        **common_flags(given.out),
        "model_name_or_path": given.model,
        "data_path": given.data,
        "model_max_length": WINDOW,
        "packing": packing,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    if fit.main(words, prog="train"):
        raise SystemExit("training failed")
    return result


def trl(given: argparse.Namespace, *, packing: bool) -> dict[str, Any]:
    """TRL's SFTTrainer on the same ids and masks."""
    result: dict[str, Any] = {}
    watched(result)
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

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
    config = SFTConfig(
        **common_flags(given.out),
        max_length=WINDOW,
        packing=packing,
        completion_only_loss=True,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
    )
    SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(given.model, dtype="float32"),
        args=config,
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(given.model),
    ).train()
    return result


def upstream(given: argparse.Namespace) -> dict[str, Any]:
    """The upstream package's data module under the Trainer of its time."""
    result: dict[str, Any] = {}
    watched(result)
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    import fastchat.train.train as theirs

    tokenizer = upstream_tokenizer(given.model, WINDOW)
    arguments = TrainingArguments(**common_flags(given.out), use_cpu=True)
    package: Any = theirs  # not ours, which a type checker would see
    module = package.make_supervised_data_module(
        tokenizer=tokenizer, data_args=package.DataArguments(data_path=given.data)
    )
    model = AutoModelForCausalLM.from_pretrained(given.model)
    trainer: Any = Trainer
    trainer(model=model, tokenizer=tokenizer, args=arguments, **module).train()
    return result


def upstream_tokenizer(path: str, window: int) -> Any:
    """The same tokenizer for upstream, which asks it for `legacy`.

    It is the fast one; by default upstream takes the slow one, whose file is not at hand.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(Path(path) / "tokenizer.json"),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=window,
        padding_side="right",
    )
    tokenizer.legacy = False
    tokenizer.pad_token = tokenizer.unk_token
    return tokenizer


def tokenize_ours(given: argparse.Namespace) -> dict[str, Any]:
    """From a file to ids and labels."""
    sys.path.insert(0, str(ROOT))
    from transformers import AutoTokenizer

    from fastchat.data.records import read_records
    from fastchat.families.registry import registry
    from fastchat.train.account import Rules
    from fastchat.train.examples import Labeller
    from fastchat.train.token_store import taught_chunks

    tokenizer = AutoTokenizer.from_pretrained(given.model)
    render = registry().template("vicuna_v1.1").render
    labeller = Labeller(tokenizer, render, max_length=TOKENIZE_WINDOW)
    began = time.process_time()
    n = sum(
        account.n_tokens
        for _, account in taught_chunks(read_records(given.data), labeller, rules=Rules())
    )
    return {"tokens": n, "cpu_s": time.process_time() - began}


def tokenize_upstream(given: argparse.Namespace) -> dict[str, Any]:
    """The same by the upstream package's function."""
    import fastchat.train.train as theirs

    package: Any = theirs
    tokenizer = upstream_tokenizer(given.model, TOKENIZE_WINDOW)
    records = json.loads(Path(given.data).read_text("utf-8"))
    began = time.process_time()
    batch = package.preprocess([record["conversations"] for record in records], tokenizer)
    return {
        "tokens": int(batch["attention_mask"].sum()),
        "cpu_s": time.process_time() - began,
    }


CHILDREN = {
    "ours packed": lambda given: ours(given, packing=True),
    "ours unpacked": lambda given: ours(given, packing=False),
    "TRL packed": lambda given: trl(given, packing=True),
    "TRL unpacked": lambda given: trl(given, packing=False),
    "upstream": upstream,
    "tokenize ours": tokenize_ours,
    "tokenize upstream": tokenize_upstream,
}


def make_inputs(tools: Path, folder: Path, n: int) -> dict[str, str]:
    """Conversations, their first rounds, the model, and the ids that all shall learn."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    vectors = tools.parent / "spec" / "vectors" / "tok_llama"
    generate = [sys.executable, str(tools / "gen_sharegpt.py"), "--format", "markdown"]
    talks = folder / "talks.json"
    subprocess.run(
        [*generate, "--clean-only", "--n", str(n), "--seed", "7", "--out", str(talks)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    rounds = folder / "rounds.json"
    records = json.loads(talks.read_text("utf-8"))
    for record in records:
        record["conversations"] = record["conversations"][:2]
    rounds.write_text(json.dumps(records), "utf-8")
    model = folder / "model"
    tokenizer = AutoTokenizer.from_pretrained(vectors)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=9,
            num_attention_heads=4,
            max_position_embeddings=2048,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).save_pretrained(model)
    for path in vectors.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    ids = folder / "ids.jsonl"
    subprocess.run(
        [
            *(sys.executable, "-m", "fastchat.train.preview", "--data_path", str(rounds)),
            *("--model_name_or_path", str(model), "--model_max_length", str(WINDOW)),
            *("--json", str(ids)),
        ],
        check=True,
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    return {"talks": str(talks), "rounds": str(rounds), "model": str(model), "ids": str(ids)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tools", type=Path, default=TOOLS)
    parser.add_argument("--upstream-python", default=None)
    parser.add_argument("--trl-python", default=sys.executable)
    parser.add_argument("--conversations", type=int, default=200)
    for name in ("child", "report", "out", "data", "model", "ids"):
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        Path(args.report).write_text(json.dumps(CHILDREN[args.child](args)), "utf-8")
        return 0

    pythons = {"ours": sys.executable, "TRL": args.trl_python, "upstream": args.upstream_python}
    with tempfile.TemporaryDirectory() as name:
        made = make_inputs(args.tools, Path(name), args.conversations)
        found = {
            child: run_child(
                __file__,
                child,
                python,
                data=made["talks"] if child.startswith("tokenize") else made["rounds"],
                model=made["model"],
                ids=made["ids"],
            )
            for child in CHILDREN
            if (python := pythons[child.removeprefix("tokenize ").split()[0]])
        }
    rows: list[list[str]] = []
    for child, result in found.items():
        if child.startswith("tokenize"):
            continue
        losses = result["losses"]
        rows.append(
            [
                child,
                f"{result['supervised']:,}",
                f"{result['cpu_s']:.1f}",
                f"{result['supervised'] / result['cpu_s']:,.0f}",
                f"{sum(losses) / len(losses):.6f}",
                str(len(losses)),
            ]
        )
    header = ["training", "supervised tokens", "CPU s", "a CPU second", "mean loss", "steps"]
    print(table(header, rows))
    rows = [
        [
            child.removeprefix("tokenize "),
            f"{result['tokens']:,}",
            f"{result['tokens'] / result['cpu_s']:,.0f}",
        ]
        for child, result in found.items()
        if child.startswith("tokenize")
    ]
    print("\n" + table(["tokenize and mask", "tokens", "tokens a CPU second"], rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
