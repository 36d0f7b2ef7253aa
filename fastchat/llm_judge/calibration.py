"""What few human votes say about many of a judge: corrected estimates with intervals. Pure."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fastchat.llm_judge.intervals import Estimate, around, clustered_mean, codes, standard_error
from fastchat.llm_judge.votes import Vote


@dataclass(frozen=True, slots=True, kw_only=True)
class PairScores:
    """One pair's scores for one model: 1 won, 0 lost, 0.5 tied; the mean where many voted."""

    cluster: Hashable
    judge: float
    human: float | None = None
    """None where no person voted."""


def prediction_powered(scores: Sequence[PairScores]) -> Estimate:
    """The mean human score over all pairs, from judge votes on all and human votes on a part.

    lambda mean(judge, unlabelled) + mean(human - lambda judge, labelled), with the lambda of least
    variance, so that a useless judge costs nothing; the variance is by cluster. Source:
    Angelopoulos et al. 2023, "PPI++", eq. 5 and proposition 2, for the mean.
    """
    labelled = [s for s in scores if s.human is not None]
    rest = [s for s in scores if s.human is None]
    human = np.array([s.human for s in labelled], float)
    if len(labelled) < 2 or not rest:
        return clustered_mean(list(human), [s.cluster for s in labelled])
    judge = np.array([s.judge for s in labelled], float)
    other = np.array([s.judge for s in rest], float)
    n, n_rest = len(labelled), len(rest)
    spread = float(np.concatenate([judge, other]).var())
    covariance = float(((judge - judge.mean()) * (human - human.mean())).mean())
    tuned = covariance / ((1 + n / n_rest) * spread) if spread else 0.0
    tuned = min(1.0, max(0.0, tuned))
    corrected = human - tuned * judge
    value = float(corrected.mean() + tuned * other.mean())
    residuals = np.concatenate(
        [(corrected - corrected.mean()) / n, tuned * (other - other.mean()) / n_rest]
    )
    code, g = codes([s.cluster for s in (*labelled, *rest)])
    error = standard_error(np.bincount(code, residuals, g).astype(float), 1.0)
    return around(value, error, n=n + n_rest, n_clusters=g)


def rogan_gladen(observed: Sequence[float], pairs: Sequence[tuple[float, float]]) -> Estimate:
    """The true rate behind a judge's, corrected by its sensitivity and specificity.

    observed: the judge's verdicts, 0 or 1, on pairs no person saw; pairs: (human, judge) on pairs
    both saw. (p + specificity - 1) / (sensitivity + specificity - 1), interval by the delta
    method, within 0 and 1. NaN where the judge is no better than chance. Source: Rogan and Gladen
    1978; Lang and Reiczigel 2014, eq. 4, for the variance.
    """
    of_true = [judge for human, judge in pairs if human == 1.0]
    of_false = [judge for human, judge in pairs if human == 0.0]
    n, n_true, n_false = len(observed), len(of_true), len(of_false)
    nan = float("nan")
    if not (n and n_true and n_false):
        return Estimate(value=nan, lower=nan, upper=nan, n=n, n_clusters=n)
    p = float(np.mean(observed))
    sensitivity = float(np.mean(of_true))
    specificity = 1 - float(np.mean(of_false))
    youden = sensitivity + specificity - 1
    if youden <= 0:
        return Estimate(value=nan, lower=nan, upper=nan, n=n, n_clusters=n)
    rate = min(1.0, max(0.0, (p + specificity - 1) / youden))
    variance = (
        p * (1 - p) / n
        + rate**2 * sensitivity * (1 - sensitivity) / n_true
        + (1 - rate) ** 2 * specificity * (1 - specificity) / n_false
    ) / youden**2
    found = around(rate, float(np.sqrt(variance)), n=n, n_clusters=n)
    return Estimate(
        value=rate,
        lower=max(0.0, found.lower),
        upper=min(1.0, found.upper),
        n=n,
        n_clusters=n,
    )


def pair_scores(
    votes: Iterable[Vote], model: str, *, judge: str, human: str, turn: int | None = None
) -> list[PairScores]:
    """The scores of `model` in every pair that `judge` decided, questions being the clusters."""
    given: dict[tuple[object, ...], dict[str, list[float]]] = defaultdict(dict)
    for vote in votes:
        if vote.label is None or turn not in (None, vote.turn) or model not in vote.pair[1:]:
            continue
        won = "model_a" if vote.pair[1] == model else "model_b"
        score = 0.5 if vote.label == "tie" else float(vote.label == won)
        given[(*vote.pair, vote.turn)].setdefault(vote.judge_name, []).append(score)
    return [
        PairScores(
            cluster=key[0],
            judge=float(np.mean(by[judge])),
            human=float(np.mean(by[human])) if human in by else None,
        )
        for key, by in given.items()
        if judge in by
    ]
