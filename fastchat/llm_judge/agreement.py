"""How far two kinds of judges say the same of the same pairs. Pure.

The published count: two different judges are compared vote by vote on every pair that both saw;
people among themselves by every two votes on a pair. "Without ties" leaves out a comparison when
either side is a tie.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from fastchat.llm_judge.intervals import Estimate, bootstrapped_ratio
from fastchat.llm_judge.votes import GPT4, Label, Vote


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two votes on the same pair."""

    question_id: int
    labels: tuple[Label, Label]

    @property
    def has_tie(self) -> bool:
        return "tie" in self.labels

    @property
    def agrees(self) -> bool:
        return self.labels[0] == self.labels[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How often two kinds of judges agree."""

    turn: int
    with_ties: bool
    total: int
    agree: int
    ratio: Estimate
    kappa: float
    """Cohen's: agreement beyond chance, 1 is perfect; NaN where there is nothing to tell."""


def comparisons(votes: Iterable[Vote], judges: tuple[str, str], turn: int) -> list[Comparison]:
    """Every two votes that are compared; of one judge alone, every two of its votes on a pair.

    The GPT-4 judge and other models have one verdict for a pair, the last.
    """
    found: dict[tuple[int, str, str], dict[str, list[Label]]] = defaultdict(dict)
    for vote in votes:
        name, label = vote.judge_name, vote.label
        if vote.turn != turn or label is None or name not in judges:
            continue
        given = found[vote.pair].setdefault(name, [])
        if name == GPT4:
            given.clear()
        given.append(label)
    made: list[Comparison] = []
    for (question, *_), given in found.items():
        made += [Comparison(question_id=question, labels=two) for two in _twos(given, judges)]
    return made


def _twos(given: dict[str, list[Label]], judges: tuple[str, str]) -> Iterator[tuple[Label, Label]]:
    if judges[0] == judges[1]:
        yield from combinations(given.get(judges[0], []), 2)
    else:
        yield from product(given.get(judges[0], []), given.get(judges[1], []))


def agreement(
    held: Sequence[Comparison], *, turn: int, with_ties: bool, is_same: bool, seed: int = 0
) -> Agreement:
    """Counts, ratio with its interval over questions, and kappa.

    is_same: both sides are one kind of judge, so that neither side is the first.
    """
    chosen = [c for c in held if with_ties or not c.has_tie]
    agree = [float(c.agrees) for c in chosen]
    ratio = bootstrapped_ratio(
        agree, [1.0] * len(chosen), [c.question_id for c in chosen], seed=seed
    )
    labels = [c.labels for c in chosen]
    if is_same:
        labels += [(b, a) for a, b in labels]
    return Agreement(
        turn=turn,
        with_ties=with_ties,
        total=len(chosen),
        agree=int(sum(agree)),
        ratio=ratio,
        kappa=cohen_kappa(labels),
    )


def cohen_kappa(labels: Sequence[tuple[str, str]]) -> float:
    """(observed - expected) / (1 - expected) agreement; expected from both sides' own shares.

    With every pair in both orders this is Scott's pi. Source: Cohen 1960, eq. 1.
    """
    n = len(labels)
    if not n:
        return float("nan")
    observed = sum(a == b for a, b in labels) / n
    first, second = Counter(a for a, _ in labels), Counter(b for _, b in labels)
    expected = sum(first[label] * second[label] for label in first) / n**2
    return (observed - expected) / (1 - expected) if expected < 1 else float("nan")


def krippendorff_alpha(units: Iterable[Sequence[str]]) -> float:
    """Agreement of any number of nominal votes a unit, beyond chance; 1 is perfect.

    Units with fewer than two votes say nothing. Source: Krippendorff 2011, "Computing
    Krippendorff's alpha-reliability", section C.
    """
    held = [Counter(unit) for unit in units if len(unit) > 1]
    totals: Counter[str] = Counter()
    disagreement = 0.0
    for votes in held:
        totals += votes
        n = votes.total()
        disagreement += (n * n - sum(k * k for k in votes.values())) / (n - 1)
    n = totals.total()
    chance = n * n - sum(k * k for k in totals.values())
    return 1 - (n - 1) * disagreement / chance if chance else float("nan")


def votes_by_unit(votes: Iterable[Vote], judges: Iterable[str], turn: int) -> list[list[str]]:
    """The labels that `judges` gave to each pair."""
    wanted = set(judges)
    units: dict[tuple[int, str, str], list[str]] = defaultdict(list)
    for vote in votes:
        if vote.turn == turn and vote.judge_name in wanted and vote.label:
            units[vote.pair].append(vote.label)
    return list(units.values())
