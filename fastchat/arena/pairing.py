"""Which two models meet: weighted draws, by rules that an operator may write into a file.

Pure apart from `PairingFile`, which reads the rules again when their file changes: chances, clock
and models are arguments.
"""

import bisect
import itertools
import random
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol, TypeVar

import orjson

from fastchat.errors import DataError, UsageError

T = TypeVar("T")
Pairs = Mapping[tuple[str, str], float]
"""A weight for each pair, in either order."""
Telling = Callable[[Sequence[str]], Pairs]
"""How likely each pair of models should be drawn by what its vote would tell."""

BOOST = 5.0
"""Published: how much likelier a boosted model is to be drawn first."""
TARGET_SHARE = 0.5
"""Published: the part of all weight that a model's targets share."""
N_FAILURES = 2
"""Failures in succession after which a model rests."""
REST_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Who meets whom, and how often."""

    default_weight: float = 1.0
    """Of a model that `weights` does not name; 0 leaves it out."""
    weights: Mapping[str, float] = field(default_factory=dict)
    boost: frozenset[str] = frozenset()
    """Models drawn first five times as often."""
    outages: frozenset[str] = frozenset()
    """Models that are not drawn."""
    targets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Rivals that a model should meet: together they share half of all weight."""
    strict_targets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Patterns (`*` is anything) of the only rivals that a model may meet."""
    never_paired: frozenset[str] = frozenset()
    """Models of which no two meet each other."""
    pairs: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Weights of whole pairs, in either order. Where there are any, they alone decide."""
    active: float = 0.0
    """Part of the battles, 0 to 1, whose pair is drawn by what its vote would tell of the ratings,
    so that new models are placed soonest; the weights of both count there, targets do not."""

    def weight(self, model: str) -> float:
        """How often a model is drawn, relative to others."""
        if model in self.outages:
            return 0.0
        return self.weights.get(model, self.default_weight)

    def allows(self, a: str, b: str) -> bool:
        """Whether the two may meet."""
        if a == b or (a in self.never_paired and b in self.never_paired):
            return False
        return self._strictly(a, b) and self._strictly(b, a)

    def _strictly(self, model: str, rival: str) -> bool:
        patterns = self.strict_targets.get(model)
        return patterns is None or any(fnmatchcase(rival, pattern) for pattern in patterns)


class Informant(Protocol):
    """Knows which pairs would tell most."""

    def chances(self, models: Sequence[str], *, vision: bool) -> Pairs:
        """How likely each pair should be drawn, in either order."""
        ...


def draw_pair(
    models: Sequence[str],
    rules: Rules,
    *,
    rng: random.Random,
    resting: Iterable[str] = (),
    telling: Telling | None = None,
) -> tuple[str, str] | None:
    """Two of `models` in the order of their sides; None when the rules leave no pair.

    A single model meets itself. Models that rest are left out as long as a pair remains
    without them.

    telling: how likely pairs should be drawn by what they would tell, for `Rules.active`.
    """
    awake = [m for m in models if m not in set(resting)]
    for among in (awake, list(models)):
        pair = _drawn_by_telling(among, rules, rng, telling) if telling else None
        if pair := pair or _drawn(among, rules, rng):
            return pair if rng.random() < 0.5 else (pair[1], pair[0])
    usable = [m for m in models if rules.weight(m) > 0]
    return (usable[0], usable[0]) if len(usable) == 1 else None


def _drawn_by_telling(
    models: Sequence[str],
    rules: Rules,
    rng: random.Random,
    telling: Telling,
) -> tuple[str, str] | None:
    """A pair by what it would tell, in the part of the battles that the rules leave to it."""
    if rules.pairs or not rules.active or rng.random() >= rules.active:
        return None
    usable = [m for m in models if rules.weight(m) > 0]
    weighted = {
        (a, b): chance * rules.weight(a) * rules.weight(b)
        for (a, b), chance in telling(usable).items()
        if rules.allows(a, b)
    }
    return _choice(list(weighted), list(weighted.values()), rng) if weighted else None


def _drawn(models: Sequence[str], rules: Rules, rng: random.Random) -> tuple[str, str] | None:
    if rules.pairs and (weighted := _known_pairs(models, rules)):
        return _choice(list(weighted), list(weighted.values()), rng)
    weights = {m: w for m in models if (w := rules.weight(m)) > 0}
    firsts = {m: w * (BOOST if m in rules.boost else 1.0) for m, w in weights.items()}
    total = sum(weights.values())
    while firsts:
        first = _choice(list(firsts), list(firsts.values()), rng)
        if rivals := _rivals(first, weights, rules, total):
            return first, _choice(list(rivals), list(rivals.values()), rng)
        del firsts[first]
    return None


def _rivals(
    first: str, weights: Mapping[str, float], rules: Rules, total: float
) -> dict[str, float]:
    """The weights of those who may meet `first`."""
    targets = rules.targets.get(first, ())
    share = TARGET_SHARE * total / len(targets) if targets else 0.0
    return {
        rival: share if rival in targets else weight
        for rival, weight in weights.items()
        if rules.allows(first, rival)
    }


def _known_pairs(models: Sequence[str], rules: Rules) -> dict[tuple[str, str], float]:
    """The weighted pairs whose two models are there."""
    there = {m for m in models if rules.weight(m) > 0}
    return {
        (a, b): weight
        for (a, b), weight in rules.pairs.items()
        if weight > 0 and a in there and b in there and rules.allows(a, b)
    }


def _choice(items: Sequence[T], weights: Sequence[float], rng: random.Random) -> T:
    """One of `items`, by weights above 0."""
    bounds = list(itertools.accumulate(weights))
    return items[min(bisect.bisect(bounds, rng.random() * bounds[-1]), len(items) - 1)]


class Outages:
    """Models that have failed lately, and rest."""

    def __init__(self) -> None:
        self._failures: dict[str, int] = {}
        self._rests_until: dict[str, float] = {}

    def failed(self, model: str, *, now: float) -> None:
        """Counts a failure; the second in succession lets the model rest for a minute."""
        self._failures[model] = self._failures.get(model, 0) + 1
        if self._failures[model] >= N_FAILURES:
            self._rests_until[model] = now + REST_S
            del self._failures[model]

    def answered(self, model: str) -> None:
        """A good answer: earlier failures are forgotten."""
        self._failures.pop(model, None)

    def resting(self, *, now: float) -> list[str]:
        """Models that rest now."""
        self._rests_until = {m: end for m, end in self._rests_until.items() if end > now}
        return list(self._rests_until)


class PairingFile:
    """The rules in a TOML or JSON file, read again whenever it has changed.

    The top of the file is for text; the table `vision` in it, of the same form, for pictures.
    A file that became unreadable leaves the last good rules in force; `problem` says why.
    """

    def __init__(self, path: Path | None, *, informant: Informant | None = None) -> None:
        """
        Args:
            informant: says which pairs would tell most, for rules with `active`.

        Raises:
            UsageError: the file cannot be read, or holds what is no rule.
        """
        self.path = path
        self._informant = informant
        self.problem = ""
        self._seen: tuple[int, int] | None = None
        self._text = self._vision = Rules()
        if path is not None:
            try:
                self._seen = _stamp(path)
                self._read(path)
            except (OSError, DataError) as error:
                raise UsageError(f"--arena-config {path}: {error}") from None

    def rules(self, *, vision: bool = False) -> Rules:
        """The rules as the file says now."""
        if self.path is not None:
            try:
                if (stamp := _stamp(self.path)) != self._seen:
                    self._seen = stamp
                    self._read(self.path)
                    self.problem = ""
            except (OSError, DataError) as error:
                self.problem = str(error)
        return self._vision if vision else self._text

    def draw(
        self,
        models: Sequence[str],
        *,
        rng: random.Random,
        resting: Iterable[str] = (),
        vision: bool = False,
    ) -> tuple[str, str] | None:
        """A pair of `models` by the rules as the file says now, as of `draw_pair`."""
        informant = self._informant

        def telling(among: Sequence[str]) -> Pairs:
            return informant.chances(among, vision=vision) if informant is not None else {}

        rules = self.rules(vision=vision)
        return draw_pair(models, rules, rng=rng, resting=resting, telling=telling)

    def _read(self, path: Path) -> None:
        table = _table(path)
        vision = table.pop("vision", {})
        text = rules_from(table)
        if not isinstance(vision, dict):
            raise DataError("vision is no table.")
        self._text, self._vision = text, rules_from(vision)


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _table(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
        if path.suffix == ".json":
            value = orjson.loads(data)
        else:
            value = tomllib.loads(data.decode("utf-8"))
    except (orjson.JSONDecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"not readable: {error}") from None
    if not isinstance(value, dict):
        raise DataError("the file holds no table of rules.")
    return value


def rules_from(table: Mapping[str, Any]) -> Rules:
    """The rules of a table: the fields of `Rules`; `pairs` is a list of [name, name, weight].

    Raises:
        DataError: an unknown name, or a value of the wrong kind; the message names it.
    """
    if unknown := table.keys() - Rules.__dataclass_fields__.keys():
        raise DataError(f"unknown rules: {', '.join(sorted(unknown))}.")
    weights = _mapping(table, "weights")
    return Rules(
        default_weight=_weight("default_weight", table.get("default_weight", 1.0)),
        weights={name: _weight(f"weights.{name}", value) for name, value in weights.items()},
        boost=frozenset(_names("boost", table.get("boost", []))),
        outages=frozenset(_names("outages", table.get("outages", []))),
        targets=_name_lists(table, "targets"),
        strict_targets=_name_lists(table, "strict_targets"),
        never_paired=frozenset(_names("never_paired", table.get("never_paired", []))),
        pairs=_pairs(table.get("pairs", [])),
        active=_part("active", table.get("active", 0.0)),
    )


def _mapping(table: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = table.get(name, {})
    if not isinstance(value, dict):
        raise DataError(f"{name} is no table.")
    return value


def _name_lists(table: Mapping[str, Any], name: str) -> dict[str, tuple[str, ...]]:
    return {k: _names(f"{name}.{k}", v) for k, v in _mapping(table, name).items()}


def _names(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DataError(f"{name} is no list of names.")
    return tuple(value)


def _weight(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise DataError(f"{name} is {value!r}; a weight is a number from 0 on.")
    return float(value)


def _part(name: str, value: Any) -> float:
    if _weight(name, value) > 1:
        raise DataError(f"{name} is {value!r}; a part of the battles is a number from 0 to 1.")
    return float(value)


def _pairs(value: Any) -> dict[tuple[str, str], float]:
    if not isinstance(value, list):
        raise DataError("pairs is no list of [name, name, weight].")
    result: dict[tuple[str, str], float] = {}
    for entry in value:
        if not isinstance(entry, list) or len(entry) != 3:
            raise DataError(f"pairs: {entry!r} is not [name, name, weight].")
        a, b = _names("pairs", entry[:2])
        result[a, b] = _weight(f"the pair {a}, {b}", entry[2])
    return result


def published_rank_weights(ranks: Sequence[int]) -> list[float]:
    """How likely the model at each rank of the list is shown beside the first one.

    Published: 8 for the first four of the others, 4 for the next eight, 1 for the rest.
    """
    return [8.0 if rank <= 4 else 4.0 if rank <= 12 else 1.0 for rank in ranks]
