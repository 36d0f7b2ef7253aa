"""How fast and how exact ratings are, beside arena-rank and upstream.

    python benchmarks/rating.py --arena-rank-python /path/to/venv/bin/python \
        --upstream-python /path/to/venv/bin/python

The votes are those of the shared generators, whose true ratings are known. Seconds are of the
processor, the least of several rounds, with one thread for linear algebra. arena-rank 0.1.1 and
upstream (`fschat` 0.2.36 with pandas<3, plotly, scikit-learn, tqdm, pytz, polyglot, pyicu, pycld2,
psutil, torch, transformers<5, which its command imports) run in environments of their own; of
upstream its command is run, from the file to the plots, beside ours.
"""

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from processes import ROOT, TOOLS, table

sys.path.insert(0, str(ROOT))

from fastchat.arena.bootstrap import bootstrap_ratings
from fastchat.arena.counts import fold
from fastchat.arena.elo import online_elo
from fastchat.arena.live import LiveLeaderboard
from fastchat.arena.rating import POINTS, Ratings, fit
from fastchat.arena.style_control import fit_style, relative_differences
from fastchat.arena.tie_models import fit_with_ties
from fastchat.arena.votes import Votes, votes_from_frame
from fastchat.store.arena_records import VoteColumns

ROUNDS = 5
SEEDS = 50
ARENA_RANK = """
import json, sys, time, numpy as np, pandas as pd
from arena_rank.models.bradley_terry import BradleyTerry
from arena_rank.utils.data_utils import PairDataset
d = np.load(sys.argv[1])
names = np.array([f"model-{i:03d}-chat" for i in range(len(d["theta"]))])
labels = np.array(["model_a", "model_b", "tie", "tie"])
frame = pd.DataFrame({"model_a": names[d["a"]], "model_b": names[d["b"]], "winner": labels[d["w"]]})
seconds = []
for _ in range(2):
    start = time.process_time()
    data = PairDataset.from_pandas(frame)
    found = BradleyTerry(n_competitors=len(data.competitors)).compute_ratings_and_cis(data)
    seconds.append(time.process_time() - start)
print(json.dumps(min(seconds)))
"""


def tool(name: str, tools: Path) -> Any:
    """The module of a shared tool."""
    spec = importlib.util.spec_from_file_location(name, tools / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cpu_s(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The least processor seconds of one round."""
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def child_cpu_s(command: list[str], cwd: Path, *, timeout_s: float) -> float | None:
    """Processor seconds of a command and its children; None where it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        print(f"{command[:4]} took more than {timeout_s:.0f} s", file=sys.stderr)
        return None
    if done.returncode:
        print(done.stderr.decode(errors="replace")[-800:], file=sys.stderr)
        return None
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def votes_of(data: dict[str, Any], names: Any) -> Votes:
    return Votes(models=tuple(names), a=data["a"], b=data["b"], outcome=data["w"])


def speed_rows(data: dict[str, Any], perf: Any) -> list[list[str]]:
    """Our seconds for each task at a million votes of 200 models."""
    import polars as pl

    names = perf.model_names(len(data["theta"])).tolist()
    votes = votes_of(data, names)
    model = np.array(names)
    frame = pl.DataFrame(
        {
            "model_a": model[data["a"]].tolist(),
            "model_b": model[data["b"]].tolist(),
            "winner": perf.WINNERS[data["w"]].tolist(),
        }
    )
    sides = [np.stack([data[f"{k}_{s}"] for k in perf.STYLE], axis=1) for s in "ab"]

    def style() -> object:
        a, b = (side.astype(np.float64) for side in sides)
        return fit_style(votes, relative_differences(a, b), perf.STYLE)

    tasks: list[tuple[str, float | str, Callable[[], object]]] = [
        ("BT and sandwich intervals, from codes", 0.015, lambda: fit(fold(votes))),
        ("the same, ties by Davidson", "", lambda: fit_with_ties(fold(votes), "davidson")),
        ("the same, ties by Rao and Kupper", "", lambda: fit_with_ties(fold(votes), "rao-kupper")),
        (
            "BT and sandwich, from a frame of strings",
            0.25,
            lambda: fit(fold(votes_from_frame(frame))),
        ),
        ("bootstrap, 100 rounds", 0.8, lambda: bootstrap_ratings(fold(votes))),
        ("style control and sandwich", 0.5, style),
        ("online Elo", 0.2, lambda: online_elo(votes)),
    ]
    rows = [[name, f"{target}", f"{cpu_s(work):.4f}"] for name, target, work in tasks]
    return [*rows, ["live leaderboard after one more vote", "0.1", f"{live_s(data, names):.4f}"]]


def columns(data: dict[str, Any], names: list[str], start: int, end: int) -> VoteColumns:
    n = end - start
    part = slice(start, end)
    return VoteColumns(
        ids=np.arange(start + 1, end + 1),
        model_a=data["a"][part],
        model_b=data["b"][part],
        outcome=data["w"][part],
        anonymous=np.ones(n, np.bool_),
        human=np.ones(n, np.bool_),
        vision=np.zeros(n, np.bool_),
        turn=np.ones(n, np.int32),
        voted_at=data["tstamp"][part],
        voter=tuple(map(str, data["user"][part].tolist())),
        battle=("",) * n,
        models=tuple(names),
    )


def live_s(data: dict[str, Any], names: list[str]) -> float:
    """Seconds of a refresh after each of some votes that follow all others."""
    n = len(data["a"])

    class Source:
        upto = n - ROUNDS

        def votes(self, *, since: int = 0, limit: int | None = None) -> VoteColumns:
            return columns(data, names, since, self.upto)

    source = Source()
    live = LiveLeaderboard(source)
    live.leaderboard()

    def one_more() -> None:
        source.upto += 1
        assert live.leaderboard().first.n_votes

    return cpu_s(one_more)


def accuracy_rows(tools: Path, shared: Path) -> list[list[str]]:
    """How far ratings are from what is known to be right."""
    sys.path.insert(0, str(ROOT / "tests"))
    from voting import random_votes, real_votes, votes_from_rows  # pyright: ignore[reportMissingImports]

    rows: list[list[str]] = []
    reference = json.loads((shared / "data/reference/ratings.json").read_text("utf-8"))
    for which in reference:
        found, wanted = fit(fold(real_votes(shared, which))), reference[which]["bt"]
        rows.append([f"{which}, ratings", "0.001 points", _largest(found, wanted, "rating")])
        rows.append([f"{which}, bounds", "0.05 points", _largest(found, wanted, "rating_lower")])
    exact, truth = tool("gen_battles", tools).gen_exact(20)
    votes = votes_from_rows(*([r[c] for r in exact] for c in ("model_a", "model_b", "winner")))
    found = fit(fold(votes))
    wanted = {m: {"rating": r} for m, r in truth["ratings"].items()}
    rows.append(["exact counts of 20 models", "0.001 points", _largest(found, wanted, "rating")])
    held = [_held(*random_votes(8000, 20, seed=seed)) for seed in range(SEEDS)]
    share = f"{np.mean(held):.3f}"
    rows.append([f"truth within the 95 % interval, {SEEDS} seeds", "0.93 to 0.97", share])
    return rows


def _held(votes: Votes, theta: Any) -> float:
    found = fit(fold(votes))
    truth = POINTS * theta + 1000.0
    return float(np.mean((found.lower <= truth) & (truth <= found.upper)))


def _largest(found: Ratings, wanted: dict[str, Any], key: str) -> str:
    values = found.rating if key == "rating" else found.lower
    off = max(abs(v - wanted[m][key]) for m, v in zip(found.models, values, strict=True))
    return f"{off:.1e}"


def command_rows(tools: Path, folder: Path, upstream: str | None) -> list[list[str]]:
    """The whole command on 200,000 votes of 60 models, 100 rounds of bootstrap, with plots."""
    rows, _ = tool("gen_battles", tools).gen_random(60, 200_000, 0, 0.3, 0.8, 0.05)
    path = folder / "battles.json"
    path.write_text(json.dumps(rows))
    module = ["-m", "fastchat.serve.monitor.elo_analysis", "--clean-battle-file", str(path)]
    flags = ["--num-bootstrap", "100"]
    ours = [sys.executable, *module, *flags, "--interval", "bootstrap"]
    seconds = {"ours": child_cpu_s([*ours, "--output-dir", str(folder)], ROOT, timeout_s=300)}
    if upstream:
        command = [upstream, *module, *flags]
        seconds["upstream"] = child_cpu_s(command, folder, timeout_s=900)
    return [[name, "failed" if s is None else f"{s:.2f}"] for name, s in seconds.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", type=Path, default=TOOLS)
    parser.add_argument("--arena-rank-python", "--peer-python", default=None)
    parser.add_argument("--upstream-python", default=None)
    parser.add_argument("--votes", type=int, default=1_000_000)
    parser.add_argument("--models", type=int, default=200)
    args = parser.parse_args()
    perf = tool("gen_battles_perf", args.tools)
    data = perf.make(args.votes, args.models)
    speed = speed_rows(data, perf)
    print(f"{args.votes:,} votes, {args.models} models, CPU seconds:\n")
    print(table(["task", "target", "ours"], speed))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.arena_rank_python:
            np.savez(folder / "votes.npz", **data)
            (folder / "peer.py").write_text(ARENA_RANK)
            command = [args.arena_rank_python, "peer.py", "votes.npz"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode:
                print(done.stderr[-800:], file=sys.stderr)
            shown = "failed" if done.returncode else f"{float(done.stdout.split()[-1]):.2f}"
            print(f"\narena-rank, BT and intervals from a frame of strings: {shown}\n")
        del data
        print("\n`elo_analysis`, 200,000 votes, 60 models, 100 rounds, plots, CPU seconds:\n")
        print(table(["", "CPU s"], command_rows(args.tools, folder, args.upstream_python)))
    print("\nAccuracy:\n")
    print(table(["what", "target", "found"], accuracy_rows(args.tools, args.tools.parent)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
