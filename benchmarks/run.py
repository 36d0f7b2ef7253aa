"""Runs the benchmarks and writes what they print into docs/benchmarks.md.

    python benchmarks/run.py                     # all
    python benchmarks/run.py --only gateway      # one
    python benchmarks/run.py --peer-python /path/to/venv/bin/python   # a vLLM beside ours
    python benchmarks/run.py --only data --upstream-python /path/to/venv/bin/python

Each section of the document is replaced by its benchmark's own output, with the command, the
machine and the date; sections that did not run keep what they say.
"""

import argparse
import datetime
import re
import shlex
import subprocess
import sys

from processes import ROOT, machine

DOCUMENT = ROOT / "docs" / "benchmarks.md"
SECTIONS: dict[str, list[str]] = {
    "serving": ["serving.py --model small --threads 1"],
    "serving-best": ["serving.py --model small --dtype bfloat16 --threads 2 --levels 32"],
    "serving-tiny": ["serving.py --model tiny --levels 32,128"],
    "engine": ["engine.py"],
    "adapters": ["adapters.py"],
    "prefix": ["prefix.py"],
    "constrained": ["constrained.py"],
    "gateway": ["gateway.py", "gateway_keys.py"],
    "page": ["page.py"],
    "startup": ["startup.py"],
    "arena": ["arena.py"],
    "arena-memory": ["arena_memory.py"],
    "data": ["data.py"],
    "rating": ["rating.py"],
    "pairing": ["pairing.py"],
    "judging": ["judging.py"],
    "training-memory": ["training_memory.py"],
    "training": ["training.py --conversations 100"],
}
PEERED = {"rating", "serving", "serving-best", "serving-tiny"}
UPSTREAMED = {"data", "judging", "rating", "training"}
"""Sections that can run the package `fschat` 0.2.36 beside ours."""


def run_section(name: str, commands: list[str], peer: str | None, *, upstream: str | None) -> str:
    """The section's text: each command with what it printed."""
    parts: list[str] = []
    for command in commands:
        words = shlex.split(command)
        if peer and name in PEERED:
            words += ["--peer-python", peer]
        if upstream and name in UPSTREAMED:
            words += ["--upstream-python", upstream]
        done = subprocess.run(
            [sys.executable, str(ROOT / "benchmarks" / words[0]), *words[1:]],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"benchmarks/{command} ended with status {done.returncode}")
        added = words[len(shlex.split(command)) :: 2]
        shown = " ".join([f"python benchmarks/{command}", *(f"{flag} …" for flag in added)])
        parts.append(f"`{shown}`\n\n{done.stdout.strip()}\n")
    today = datetime.datetime.now(datetime.UTC).date()
    return f"{today}, {machine()}\n\n" + "\n".join(parts)


def replaced(document: str, name: str, text: str) -> str:
    """`document` with the section between the markers of `name` replaced."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    block = f"{start}\n{text}{end}"
    pattern = re.compile(re.escape(start) + r".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(document):
        return f"{document.rstrip()}\n\n## {name}\n\n{block}\n"
    return pattern.sub(lambda _: block, document)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=sorted(SECTIONS), action="append")
    parser.add_argument("--peer-python", default=None)
    parser.add_argument("--upstream-python", default=None)
    args = parser.parse_args()
    for name in args.only or SECTIONS:
        text = run_section(name, SECTIONS[name], args.peer_python, upstream=args.upstream_python)
        DOCUMENT.write_text(replaced(DOCUMENT.read_text("utf-8"), name, text), "utf-8")
        print(f"{name}: written", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
