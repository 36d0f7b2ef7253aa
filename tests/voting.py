"""Votes made on the spot, with known strengths, and the generators among the shared tools."""

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np

from fastchat.arena.votes import TIE, WIN_A, WIN_B, Votes, votes_from_rows


def tool(shared: Path, name: str) -> Any:
    """The module of a shared tool."""
    spec = importlib.util.spec_from_file_location(name, shared / "tools" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names(m: int) -> tuple[str, ...]:
    return tuple(f"m{i:02d}" for i in range(m))


def random_votes(n: int, m: int, *, seed: int = 0, ties: float = 0.3) -> tuple[Votes, np.ndarray]:
    """Votes of models of random strength, and theta, mean 0.

    Ties are taken from wins and losses alike, so that the expected score stays the chance to win.
    """
    rng = np.random.default_rng(seed)
    theta = rng.normal(0.0, 0.8, m)
    theta -= theta.mean()
    a = rng.integers(0, m, n).astype(np.int32)
    b = ((a + rng.integers(1, m, n)) % m).astype(np.int32)
    p = 1.0 / (1.0 + np.exp(theta[b] - theta[a]))
    tie = ties * 2.0 * np.minimum(p, 1.0 - p)
    u = rng.random(n)
    outcome = np.where(u < p - tie / 2, WIN_A, np.where(u < p + tie / 2, TIE, WIN_B))
    return Votes(models=names(m), a=a, b=b, outcome=outcome.astype(np.int8)), theta


def votes_of(*rows: tuple[str, str, str], n: int = 1) -> Votes:
    """Votes of rows (first, second, label), each n times."""
    repeated = [row for row in rows for _ in range(n)]
    a, b, winner = zip(*repeated, strict=True) if repeated else ((), (), ())
    return votes_from_rows(a, b, winner)


LABELS = {"left": "model_a", "right": "model_b", "tie (inconsistent)": "tie"}


def real_votes(shared: Path, which: str) -> Votes:
    """Votes that people or a model gave: llmfao, mt_bench_human or mt_bench_gpt4_pair."""
    if which == "llmfao":
        with open(shared / "data/llmfao/crowd-comparisons.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        columns = ("left", "right", "winner")
    else:
        name = which.removeprefix("mt_bench_")
        text = (shared / f"data/mt_bench_human/{name}.jsonl").read_text("utf-8")
        rows = [json.loads(line) for line in text.splitlines()]
        columns = ("model_a", "model_b", "winner")
    a, b, winner = ([row[c] for row in rows] for c in columns)
    return votes_from_rows(a, b, [LABELS.get(w, w) for w in winner])
