"""How fast, how small and how faithful the data commands are, beside upstream's.

    python benchmarks/data.py --upstream-python /path/to/venv/bin/python

The conversations are those of the shared generator. Upstream is the package `fschat` 0.2.36 in an
environment of its own, with what its data tools need: markdownify==0.11.6, beautifulsoup4, tqdm,
sentencepiece, transformers<5, numpy<2, polyglot, pyicu, pycld2. Seconds are of the processor, of
all processes together; memory is the peak of the whole tree, shared pages counted once.
"""

import argparse
import compileall
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import ROOT, TOOLS, table

MAX_LENGTH = 2048
SPIECE_TRAINING = """
import json, sys, sentencepiece
texts = [m["value"] for r in json.load(open(sys.argv[1]))[:600] for m in r["conversations"]]
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(line for text in texts for line in text.split("\\n") if line),
    model_prefix=sys.argv[2] + "/tokenizer", vocab_size=4000, model_type="bpe",
    byte_fallback=True, num_threads=1, minloglevel=2,
    # As Llama's own: blanks stay as they are.
    normalization_rule_name="identity", remove_extra_whitespaces=False)
from transformers import LlamaTokenizerFast
LlamaTokenizerFast(vocab_file=sys.argv[2] + "/tokenizer.model", add_bos_token=True,
    from_slow=True, legacy=True).save_pretrained(sys.argv[2])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of a command."""

    cpu_s: float
    peak_mib: float
    output: str


class Runs:
    """Runs commands of ours and of upstream in one folder."""

    def __init__(self, tools: Path, folder: Path, rounds: int) -> None:
        self.tools = tools
        self.folder = folder
        self.rounds = rounds

    def run(self, python: str, module: str, *flags: str) -> Measured:
        """The round of the fewest processor seconds."""
        measured = [self._once(python, module, *flags) for _ in range(self.rounds)]
        return min(measured, key=lambda one: one.cpu_s)

    def _once(self, python: str, module: str, *flags: str) -> Measured:
        log = self.folder / "output"
        command = [sys.executable, str(self.tools / "measure.py"), module, "--"]
        command += [python, "-m", f"fastchat.data.{module}", *flags]
        env = os.environ | {"MEASURE_OUT": str(log), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, text=True, check=True
        )
        found = json.loads(done.stdout)
        text = log.read_text("utf-8", "replace")
        if found["rc"]:
            raise SystemExit(f"{python} -m {module} ended with {found['rc']}:\n{text[-2000:]}")
        return Measured(cpu_s=found["cpu_s"], peak_mib=found["peak_pss_mib"], output=text)

    def generate(self, n: int, seed: int) -> Path:
        """The generator's file, with its truth beside it."""
        path = self.folder / f"raw_{n}_{seed}.json"
        command = [sys.executable, str(self.tools / "gen_sharegpt.py"), "--n", str(n)]
        command += ["--seed", str(seed), "--out", str(path), "--truth", f"{path}.truth"]
        subprocess.run(command, check=True, capture_output=True)
        return path

    def fidelity(self, raw: Path, cleaned: Path) -> dict[str, Any]:
        """What the shared judge says."""
        command = [sys.executable, str(self.tools / "fidelity_sharegpt.py"), str(raw)]
        done = subprocess.run(
            [*command, f"{raw}.truth", str(cleaned)], check=True, capture_output=True, text=True
        )
        return json.loads(done.stdout)


def make_tokenizer(python: str, cleaned: Path, folder: Path) -> Path:
    """A tokenizer of 4,000 pieces that both sides can read."""
    folder.mkdir(exist_ok=True)
    subprocess.run(
        [python, "-c", SPIECE_TRAINING, str(cleaned), str(folder)], check=True, capture_output=True
    )
    return folder


def published_figures(measured: Measured) -> list[str]:
    """The figures that upstream prints too."""
    lines = measured.output.replace("\r", "\n").splitlines()
    names = ("#sequence", "#tokens", "avg. ")
    bins = re.compile(r"L\d+ - \d+: ")
    return [line for line in lines if line.startswith(names) or bins.match(line)]


def n_rounds(path: Path) -> int:
    return sum(len(record["conversations"]) // 2 for record in json.loads(path.read_bytes()))


def n_too_long(path: Path, tokenizer: Path) -> int:
    """Parts of more tokens than asked for, as training writes them."""
    from fastchat.conversation import get_conv_template
    from fastchat.model.tokenizer_file import read_tokenizer

    counter = read_tokenizer(str(tokenizer)).open()
    long = 0
    for record in json.loads(path.read_bytes()):
        talk = get_conv_template("vicuna_v1.1")
        for turn in record["conversations"]:
            talk.append_message(talk.roles[turn["from"] == "gpt"], turn["value"])
        long += len(counter.encode(talk.get_prompt()).ids) > MAX_LENGTH
    return long


def compare(runs: Runs, upstream: str | None) -> None:
    """Prints speed, memory and fidelity."""
    raw = runs.generate(5000, 0)
    sides = {"ours": sys.executable} | ({"upstream": upstream} if upstream else {})
    cleaned = {side: runs.folder / f"{side}_clean.json" for side in sides}
    rows: dict[str, dict[str, Measured]] = {}
    rows["clean_sharegpt"] = {
        side: runs.run(
            python, "clean_sharegpt", "--in-file", str(raw), "--out-file", str(cleaned[side])
        )
        for side, python in sides.items()
    }
    # From here on both read the same records.
    same = cleaned["ours"]
    records = {"clean_sharegpt": 5000}
    rounds: list[list[Any]] = []
    commands: dict[str, Sequence[str]] = {"optional_clean": ("--skip-lang", "ko")}
    tokenizer = None
    if upstream:
        tokenizer = make_tokenizer(upstream, same, runs.folder / "tokenizer")
        model = ("--model-name-or-path", str(tokenizer))
        commands |= {"split_long_conversation": (*model, "--max-length", str(MAX_LENGTH))}
        commands |= {"get_stats": model}
    for command, flags in commands.items():
        records[command] = len(json.loads(same.read_bytes()))
        rows[command] = {}
        for side, python in sides.items():
            out = runs.folder / f"{side}_{command}.json"
            place = () if command == "get_stats" else ("--out-file", str(out))
            rows[command][side] = runs.run(python, command, "--in-file", str(same), *place, *flags)
            if command == "split_long_conversation" and tokenizer:
                lost = n_rounds(same) - n_rounds(out)
                rounds.append([side, n_rounds(same), lost, n_too_long(out, tokenizer)])
    print(speeds(rows, records))
    judged = {side: runs.fidelity(raw, cleaned[side]) for side in sides}
    names = ["code", "human", "human_multiline", "math", "words", "cells"]
    print(table(["verbatim", *judged], [[n, *(j[n] for j in judged.values())] for n in names]))
    for side, measured in rows["clean_sharegpt"].items():
        print(f"{side}: {measured.output.strip().splitlines()[-1]}\n")
    if figures := {side: published_figures(one) for side, one in rows.get("get_stats", {}).items()}:
        equal = len(set(map(tuple, figures.values()))) == 1
        print(f"get_stats: {len(figures['ours'])} published figures, equal on all sides: {equal}\n")
    if rounds:
        print(table(["split at 2,048", "rounds", "rounds lost", "parts too long"], rounds))


def speeds(rows: dict[str, dict[str, Measured]], records: dict[str, int]) -> str:
    """Records per CPU second and memory, with the ratio."""
    lines: list[list[str]] = []
    for command, sides in rows.items():
        rates = {side: records[command] / one.cpu_s for side, one in sides.items()}
        peer = sides.get("upstream")
        lines.append(
            [
                command,
                f"{rates['ours']:,.0f}",
                f"{rates['upstream']:,.0f}" if peer else "",
                f"{rates['ours'] / rates['upstream']:.1f}" if peer else "",
                f"{sides['ours'].peak_mib:.0f}",
                f"{peer.peak_mib:.0f}" if peer else "",
            ]
        )
    header = ["records per CPU second", "ours", "upstream", "ratio", "MiB", "MiB upstream"]
    return table(header, lines)


def grow(runs: Runs, sizes: Sequence[int]) -> None:
    """Prints the memory that ever larger files take."""
    lines: list[list[str]] = []
    for n in sizes:
        raw = runs.generate(n, 0)
        one = runs.run(sys.executable, "clean_sharegpt", "--in", str(raw), "--out", "grown.json")
        size = f"{raw.stat().st_size / 2**20:.0f}"
        lines.append([f"{n:,}", size, f"{n / one.cpu_s:,.0f}", f"{one.peak_mib:.0f}"])
        raw.unlink()
    print(table(["clean_sharegpt, records", "file MiB", "per CPU second", "MiB"], lines))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tools", type=Path, default=TOOLS)
    parser.add_argument("--upstream-python", default=None)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--sizes", default="5000,50000")
    args = parser.parse_args()
    # As an installation has it, ours and upstream's; else every start would compile it anew.
    compileall.compile_dir(ROOT / "fastchat", quiet=1)
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(args.tools, Path(folder), args.rounds)
        compare(runs, args.upstream_python)
        grow(runs, [int(size) for size in args.sizes.split(",")])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
