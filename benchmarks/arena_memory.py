"""Memory of the commands that read battles with texts: ten times the rows, hardly more memory.

    python benchmarks/arena_memory.py --rows 100000

Each command runs in a process of its own; its memory is the most that process ever held. Files that
are read by columns (Parquet, CSV) are mapped, which counts as memory and is given back when needed.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from processes import ROOT

WORDS = [f"word{i}" for i in range(3000)]
RELEASE = """
input = ["battles.json"]
preset = "arena_33k"
sample = {sample}
"""
COMMANDS = {
    "release (filters, sample, redaction)": "fastchat.serve.monitor.release --config release.toml",
    "deduplication": "fastchat.serve.monitor.deduplication --input-file battles.json",
    "votes_to_pairs": "fastchat.data.votes_to_pairs --in battles.json --out pairs.jsonl",
    "votes_to_pairs, by agreement and category": (
        "fastchat.data.votes_to_pairs --in battles.json --out pairs.jsonl "
        "--min-agreement 0.6 --category english,no_refusal"
    ),
    "clean_battle_data": (
        "fastchat.serve.monitor.clean_battle_data --log-root . --mode conv_release --output-dir out"
    ),
    "clean_chat_data": "fastchat.serve.monitor.clean_chat_data --log-root . --output-dir out",
    "elo_analysis": (
        "fastchat.serve.monitor.elo_analysis --clean-battle-file battles.json --no-plots "
        "--output-dir out"
    ),
}


def battles(n: int) -> Iterator[dict[str, Any]]:
    """Battles with answers of 40 words; one prompt in fifty is a greeting."""
    drawn = random.Random(1)

    def text(k: int) -> str:
        return " ".join(drawn.choices(WORDS, k=k))

    for i in range(n):
        asked = "hello there" if drawn.random() < 0.02 else text(12)
        row: dict[str, Any] = {
            "question_id": f"q{i}",
            "winner": drawn.choice(("model_a", "model_b", "tie")),
            "judge": f"arena_user_{drawn.randrange(n // 5)}",
            "turn": 1,
            "anony": True,
            "language": "English",
            "tstamp": 1.7e9 + i,
        }
        for side in "ab":
            row[f"model_{side}"] = f"m-{side}"
            row[f"conversation_{side}"] = [
                {"role": "user", "content": asked, "num_tokens": 20},
                {"role": "assistant", "content": text(40), "num_tokens": 60},
            ]
        yield row


def logged(row: dict[str, Any]) -> list[dict[str, Any]]:
    """A battle as two chats and a vote of the log."""
    states = [
        {
            "conv_id": f"{row['question_id']}-{side}",
            "model_name": row[f"model_{side}"],
            "messages": [[m["role"], m["content"]] for m in row[f"conversation_{side}"]],
            "offset": 0,
        }
        for side in "ab"
    ]
    chats = [
        {"type": "chat", "model": s["model_name"], "state": s, "finish": row["tstamp"]}
        for s in states
    ]
    vote = {"type": "leftvote", "models": ["", ""], "states": states}
    return [{"tstamp": row["tstamp"], "ip": row["judge"], **event} for event in (*chats, vote)]


def write_inputs(folder: Path, n: int) -> None:
    """The battles as an array and as a log."""
    with (
        (folder / "battles.json").open("wb") as array,
        (folder / "2026-01-01-conv.json").open("wb") as log,
    ):
        array.write(b"[")
        for i, row in enumerate(battles(n)):
            array.write((b",\n" if i else b"") + orjson.dumps(row))
            log.writelines(orjson.dumps(event) + b"\n" for event in logged(row))
        array.write(b"]\n")
    (folder / "release.toml").write_text(RELEASE.format(sample=n // 3))


MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(done.returncode, used.ru_maxrss / 1024, used.ru_utime + used.ru_stime)
sys.stderr.write(done.stderr)
"""


def measured(command: str, folder: Path) -> tuple[float, float]:
    """MiB at most and CPU seconds of a command that runs in the folder."""
    argv = [sys.executable, "-c", MEASURED, sys.executable, "-m", *command.split()]
    threads = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        argv, cwd=folder, env=os.environ | threads, capture_output=True, text=True, check=True
    )
    status, memory, seconds = done.stdout.split()
    if status != "0":
        raise SystemExit(f"{command} ended with status {status}: {done.stderr}")
    return float(memory), float(seconds)


def main() -> None:
    """Prints a row for each command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="battles of the larger input")
    rows = parser.parse_args().rows
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for n in (rows // 10, rows):
        with tempfile.TemporaryDirectory() as name:
            write_inputs(Path(name), n)
            size = (Path(name) / "battles.json").stat().st_size / 2**20
            for title, command in COMMANDS.items():
                found[title].append(measured(command, Path(name)))
    print(f"The larger file of battles has {size:.0f} MiB.\n")
    print(f"| command | MiB, {rows // 10:,} battles | MiB, {rows:,} | CPU s, {rows:,} |")
    print("| --- | --: | --: | --: |")
    for title, [(small, _), (large, seconds)] in found.items():
        print(f"| {title} | {small:.0f} | {large:.0f} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
