"""Two models on the same questions: the difference, whether it is more than chance, and what
difference so many questions could have shown. Arrays and numbers only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fastchat.llm_judge.intervals import LEVEL, clustered_mean, codes, draws

ROUNDS = 10_000
POWER = 0.8
"""How likely a true difference of the size given as detectable is found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The mean of one model's scores less the other's on the same items."""

    first: float
    """Mean of the first model."""
    second: float
    difference: float
    lower: float
    upper: float
    """95 % interval of the difference, questions drawn anew; unbounded where there is one."""
    p: float
    """How often chance alone gives a difference this large, both ways."""
    detectable: float
    """The smallest true difference that would be found in four of five such studies; NaN where
    there is one question."""
    n: int
    n_questions: int
    better: int
    """Questions on which the first model is ahead."""
    worse: int

    @property
    def equal(self) -> int:
        return self.n_questions - self.better - self.worse


def compare_paired(
    first: Sequence[float],
    second: Sequence[float],
    questions: Sequence[int],
    *,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> Comparison:
    """The paired bootstrap of `first` less `second`; whole questions are drawn, with all turns.

    first, second: (n,) scores of the same items, n above 0; questions: (n,) what each is about.
    The p-value is of the differences moved to mean 0, so that it is a test of no difference. It is
    never below 2 / 2^n_questions, what n fair coins say that all fall on one side: few questions
    that happen to agree have no spread to draw from, and would pass for certainty.
    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", ch. 13 and 16.4.
    """
    gap = np.asarray(first, float) - np.asarray(second, float)
    code, n_questions = codes(questions)
    sums = np.bincount(code, gap, n_questions)
    counts = np.bincount(code, minlength=n_questions).astype(float)
    difference = float(gap.mean())
    drawn = draws(n_questions, rounds, seed)
    means = (drawn @ sums) / (drawn @ counts)
    lower, upper = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if n_questions < 2:
        lower, upper = -np.inf, np.inf
    # The sums of the null are those less the mean; a rounding error is no larger difference.
    extreme = np.abs(means - difference) >= abs(difference) - 1e-12
    spread = clustered_mean(gap.tolist(), questions)
    return Comparison(
        first=float(np.mean(first)),
        second=float(np.mean(second)),
        difference=difference,
        lower=float(lower),
        upper=float(upper),
        p=max(float((extreme.sum() + 1) / (rounds + 1)), 2.0 ** (1 - n_questions)),
        detectable=_detectable(spread.upper - spread.value, n_questions),
        n=len(gap),
        n_questions=n_questions,
        better=int((sums > 1e-12).sum()),
        worse=int((sums < -1e-12).sum()),
    )


def _detectable(half: float, n_questions: int) -> float:
    """From half the interval: (t for the level + t for the power) standard errors."""
    from scipy.stats import t

    if n_questions < 2:
        return float("nan")
    at_level = float(t.ppf((1 + LEVEL) / 2, n_questions - 1))
    return half / at_level * (at_level + float(t.ppf(POWER, n_questions - 1)))


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """p-values of several tests, so corrected that one false alarm among all stays at its level.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    corrected: dict[str, float] = {}
    least = 0.0
    for i, (name, p) in enumerate(sorted(values.items(), key=lambda item: item[1])):
        least = max(least, min(1.0, p * (len(values) - i)))
        corrected[name] = least
    return corrected
