"""How fast questions are answered and answers judged, and what a kill costs.

    python benchmarks/judging.py
    python benchmarks/judging.py --upstream-python /path/to/venv/bin/python

Answering: our 80 questions of two turns by a random Llama of 58.7 M parameters (made by the
shared tools) on one CPU thread, `gen_model_answer` as a whole, from its start to its end. The
upstream package runs the same command on the same questions in a venv of its own; it knows no
CPU there, so what it sends to an accelerator is kept where it is.

Judging: 1,000 pairs, two requests each, 64 at once, against a judge that answers after 200 ms.
Then once more, ended by kill -9 when half is answered, and begun again.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processes import ROOT, TOOLS, free_port, make_model, table

BENCH = "fastchat_bench"
N_QUESTIONS, N_MODELS = 100, 5
"""Ten pairs of models, 100 questions: 1,000 pairs."""
PARALLEL, DELAY_S = 64, 0.2
IDEAL_S = 2 * N_QUESTIONS * (N_MODELS * (N_MODELS - 1) // 2) / PARALLEL * DELAY_S

REDIRECT = """
import runpy, sys
import torch

def here(function):
    def call(self, *args, **named):
        def place(v):
            is_device = isinstance(v, (str, torch.device)) and str(v).split(":")[0] == "cuda"
            return "cpu" if is_device else v
        return function(self, *map(place, args), **{k: place(v) for k, v in named.items()})
    return call

for kind in (torch.Tensor, torch.nn.Module):
    kind.to = here(kind.to)
    kind.cuda = lambda self, *_, **__: self
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def run_timed(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of a program."""
    log = folder / "log.txt"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    began = time.perf_counter()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[:4]} failed:\n{log.read_text()[-3000:]}")
    return time.perf_counter() - began, used.ru_utime + used.ru_stime


def answering(tools: Path, upstream: str | None, folder: Path, n_new: int) -> list[list[str]]:
    """One line a program: time, tokens, and how much quicker ours is."""
    from tokenizers import Tokenizer

    model = make_model(tools, folder / "models", "small")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    packaged = ROOT / "fastchat" / "llm_judge" / "data" / BENCH / "question.jsonl"
    words = [
        *("fastchat.llm_judge.gen_model_answer", "--model-path", str(model)),
        *("--model-id", "vicuna-small", "--bench-name", BENCH, "--dtype", "float32"),
        *("--max-new-token", str(n_new)),
    ]
    (folder / "redirect.py").write_text(REDIRECT)
    commands = {"fastchat": [sys.executable, "-m", *words, "--device", "cpu", "--num-threads", "1"]}
    if upstream:
        commands["upstream"] = [upstream, str(folder / "redirect.py"), *words]
    rows: list[list[str]] = []
    times: dict[str, tuple[float, float]] = {}
    for name, command in commands.items():
        where = folder / name
        (where / "data" / BENCH).mkdir(parents=True)
        (where / "data" / BENCH / "question.jsonl").write_bytes(packaged.read_bytes())
        wall, cpu = times[name] = run_timed(command, where)
        answers = where / "data" / BENCH / "model_answer" / "vicuna-small.jsonl"
        texts = [
            turn
            for line in answers.read_text("utf-8").splitlines()
            for turn in json.loads(line)["choices"][0]["turns"]
        ]
        n_tokens = sum(len(tokenizer.encode(text).ids) for text in texts)
        rows.append([name, str(len(texts)), f"{n_tokens:,}", f"{wall:.1f}", f"{cpu:.1f}"])
    if upstream:
        ours, theirs = times["fastchat"], times["upstream"]
        ratios = (f"{b / a:.1f}" for a, b in zip(ours, theirs, strict=True))
        rows.append(["upstream / fastchat", "", "", *ratios])
    return rows


class Judge:
    """An OpenAI server that answers after a while, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: Counter[bytes] = Counter()
        self.answered: set[bytes] = set()
        self.first = self.last = 0.0
        self.pid_to_kill: int | None = None
        self.kill_at = 0

    async def __aenter__(self) -> "Judge":
        import logging

        from aiohttp import web

        logging.disable(logging.ERROR)  # connections that the kill cuts off
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.chat)
        self.runner = web.AppRunner(app, access_log=None)
        await self.runner.setup()
        self.port = free_port()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.runner.cleanup()

    async def chat(self, request: Any) -> Any:
        from aiohttp import web

        self.first = self.first or time.perf_counter()
        body = await request.read()
        self.asked[body] += 1
        await asyncio.sleep(DELAY_S)
        if self.pid_to_kill and len(self.answered) >= self.kill_at:
            os.kill(self.pid_to_kill, signal.SIGKILL)
            self.pid_to_kill = None
        said = "Both were read. [[A]]"
        choice = {"index": 0, "message": {"role": "assistant", "content": said}}
        usage = {"prompt_tokens": 300, "completion_tokens": 8, "total_tokens": 308}
        value = {"id": "1", "object": "chat.completion", "created": 1, "model": "judge"}
        self.answered.add(body)
        self.last = time.perf_counter()
        return web.json_response(
            {**value, "choices": [{**choice, "finish_reason": "stop"}], "usage": usage}
        )


def make_answers(folder: Path) -> None:
    """A benchmark of 100 questions, and the answers of five models."""
    bench = folder / "data" / "pairs"
    (bench / "model_answer").mkdir(parents=True)
    questions = [
        {"question_id": i, "category": "writing", "turns": [f"Question {i}: " + "why so? " * 30]}
        for i in range(N_QUESTIONS)
    ]
    (bench / "question.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    for model in range(N_MODELS):
        rows = [
            {
                **{"question_id": i, "answer_id": f"{model}-{i}", "model_id": f"model-{model}"},
                "choices": [{"index": 0, "turns": [f"Answer {model} to {i}. " + "Because. " * 80]}],
            }
            for i in range(N_QUESTIONS)
        ]
        path = bench / "model_answer" / f"model-{model}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


async def judge_pairs(folder: Path, judge: Judge) -> tuple[asyncio.subprocess.Process, Path]:
    """Starts the judging of all pairs."""
    log = folder / "log.txt"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fastchat.llm_judge.gen_judgment", "--bench-name", "pairs"),
            *("--mode", "pairwise-all", "--judge-model", "judge", "--parallel", str(PARALLEL)),
            *("--api-base", f"http://127.0.0.1:{judge.port}/v1", "--constrained", "never"),
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    return process, log


async def judging(folder: Path) -> list[list[str]]:
    """The whole run, and the run that is killed at half."""
    rows: list[list[str]] = []
    whole = folder / "whole"
    make_answers(whole)
    async with Judge() as judge:
        began = time.perf_counter()
        process, log = await judge_pairs(whole, judge)
        if await process.wait():
            raise SystemExit(log.read_text()[-3000:])
        wall, asking = time.perf_counter() - began, judge.last - judge.first
        rows += [
            ["requests", f"{judge.asked.total():,}"],
            ["ideal", f"{IDEAL_S:.2f} s"],
            ["first request to last reply", f"{asking:.2f} s ({asking / IDEAL_S - 1:+.1%})"],
            ["the command, start to end", f"{wall:.2f} s"],
        ]
    killed = folder / "killed"
    make_answers(killed)
    async with Judge() as judge:
        process, log = await judge_pairs(killed, judge)
        judge.pid_to_kill, judge.kill_at = process.pid, judge_total() // 2
        if await process.wait() != -signal.SIGKILL:
            raise SystemExit(f"it was not killed:\n{log.read_text()[-3000:]}")
        cache = killed / "data" / "pairs" / "cache" / "judge.jsonl"
        n_kept = cache.read_bytes().count(b"\n")
        n_cut = len(judge.asked) - n_kept
        process, log = await judge_pairs(killed, judge)
        if await process.wait():
            raise SystemExit(log.read_text()[-3000:])
        n_twice = sum(n - 1 for n in judge.asked.values())
        rows += [
            ["replies kept when killed", f"{n_kept:,}"],
            ["requests in the air when killed", f"{n_cut:,}"],
            ["requests asked twice in all", f"{n_twice:,}"],
            ["of them answered and kept before", f"{max(0, n_twice - n_cut):,}"],
        ]
    return rows


def judge_total() -> int:
    """Requests of a whole run."""
    return 2 * N_QUESTIONS * (N_MODELS * (N_MODELS - 1) // 2)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tools", type=Path, default=TOOLS)
    parser.add_argument("--upstream-python", default=None)
    parser.add_argument("--max-new-token", type=int, default=64)
    parser.add_argument("--only", choices=["answering", "judging"], default=None)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.only != "judging":
            rows = answering(args.tools, args.upstream_python, folder, args.max_new_token)
            print(
                f"80 questions of two turns, {args.max_new_token} new tokens at most, f32, one "
                "thread; each command from its start to its end\n"
            )
            header = ["program", "turns", "tokens", "wall s", "CPU s"]
            print(table(header, rows))
        if args.only != "answering":
            print("1,000 pairs in both orders, 64 at once, a judge of 200 ms\n")
            print(table(["what", "seen"], asyncio.run(judging(folder))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
