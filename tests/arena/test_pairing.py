import json
import os
import random
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest

from fastchat.arena.pairing import (
    REST_S,
    Outages,
    PairingFile,
    Rules,
    draw_pair,
    rules_from,
)
from fastchat.errors import DataError, UsageError

MODELS = ["a", "b", "c", "d"]
N = 12_000


def drawn(rules: Rules, models: list[str] = MODELS, n: int = N) -> Counter[tuple[str, str]]:
    rng = random.Random(7)
    pairs = [draw_pair(models, rules, rng=rng) for _ in range(n)]
    return Counter(pair for pair in pairs if pair is not None)


def share(counts: Counter[tuple[str, str]], *names: str) -> float:
    """The part of the battles in which all of `names` take part."""
    both = sum(n for pair, n in counts.items() if set(names) <= set(pair))
    return both / counts.total()


def within(value: float, expected: float, n: int = N) -> bool:
    """Less than four standard errors apart."""
    return abs(value - expected) < 4 * (expected * (1 - expected) / n) ** 0.5


def test_every_pair_and_side_is_as_likely_by_default() -> None:
    rng = random.Random(3)
    counts = Counter(draw_pair(MODELS, Rules(), rng=rng) for _ in range(1000))
    assert len(counts) == 12
    sigma = (1000 * (1 / 12) * (11 / 12)) ** 0.5
    assert all(abs(n - 1000 / 12) < 4 * sigma for n in counts.values())
    pairs = [sum(counts[p] for p in ((a, b), (b, a))) for a, b in combinations(MODELS, 2)]
    assert all(abs(n - 1000 / 6) < 3 * (1000 * (1 / 6) * (5 / 6)) ** 0.5 for n in pairs)


def test_the_same_seed_draws_the_same_pairs() -> None:
    assert drawn(Rules(), n=50) == drawn(Rules(), n=50)


def test_weights_decide_both_draws() -> None:
    counts = drawn(Rules(weights={"a": 3.0, "d": 0.0}), ["a", "b", "c", "d"])
    assert share(counts, "d") == 0
    # First a: 3/5, then b. First b: 1/5, then a with 3/4. The same for c.
    assert within(share(counts, "a", "b"), 3 / 5 / 2 + 1 / 5 * 3 / 4)


def test_a_boost_counts_in_the_first_draw_only() -> None:
    counts = drawn(Rules(boost=frozenset({"a"})), ["a", "b", "c"])
    # First a with 5/7; else a as second with 1/2.
    assert within(share(counts, "a"), 5 / 7 + 2 / 7 / 2)


def test_targets_share_half_of_all_weight() -> None:
    counts = drawn(Rules(targets={"a": ("b",)}, weights={"a": 1e6}), MODELS)
    # a is always first; b then weighs half of the total, c and d one each.
    assert share(counts, "a", "b") > 0.999
    counts = drawn(Rules(targets={"a": ("b",)}), MODELS)
    assert within(share(counts, "a", "b"), 1 / 4 * (2 / 4) + 1 / 4 / 3)


def test_strict_targets_are_the_only_rivals() -> None:
    counts = drawn(Rules(strict_targets={"a": ("b*",)}), ["a", "b1", "b2", "c"])
    assert share(counts, "a", "c") == 0
    assert share(counts, "a", "b1") > 0


def test_some_models_never_meet() -> None:
    counts = drawn(Rules(never_paired=frozenset({"a", "b"})))
    assert share(counts, "a", "b") == 0
    assert share(counts, "a") > 0.3


def test_outages_are_left_out() -> None:
    assert share(drawn(Rules(outages=frozenset({"a"}))), "a") == 0


def test_weighted_pairs_alone_decide() -> None:
    counts = drawn(Rules(pairs={("a", "b"): 3.0, ("d", "c"): 1.0, ("a", "gone"): 9.0}))
    assert share(counts, "a", "b") + share(counts, "c", "d") == 1
    assert within(share(counts, "a", "b"), 3 / 4)
    assert share(drawn(Rules(pairs={("x", "y"): 1.0})), "a") > 0, "none of the pairs is there"


def test_one_model_meets_itself_and_none_nobody() -> None:
    rng = random.Random(1)
    assert draw_pair(["a"], Rules(), rng=rng) == ("a", "a")
    assert draw_pair(["a", "b"], Rules(weights={"b": 0.0}), rng=rng) == ("a", "a")
    assert draw_pair([], Rules(), rng=rng) is None
    assert draw_pair(["a"], Rules(default_weight=0.0), rng=rng) is None
    forbidden = Rules(strict_targets={"a": ("x",)})
    assert draw_pair(["a", "b"], forbidden, rng=rng) is None


def test_who_fails_twice_rests_for_a_minute() -> None:
    outages = Outages()
    outages.failed("a", now=0.0)
    outages.answered("a")
    outages.failed("a", now=1.0)
    assert outages.resting(now=1.0) == []
    outages.failed("a", now=2.0)
    assert outages.resting(now=2.0) == ["a"]
    rng = random.Random(1)
    pairs = [draw_pair(MODELS, Rules(), rng=rng, resting=["a"]) for _ in range(200)]
    assert all(pair and "a" not in pair for pair in pairs)
    assert outages.resting(now=2.0 + REST_S) == []


def test_resting_models_are_better_than_none() -> None:
    pair = draw_pair(["a", "b"], Rules(), rng=random.Random(1), resting=["a"])
    assert pair is not None and set(pair) == {"a", "b"}


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "arena.toml"
    path.write_text('boost = ["a"]\n[weights]\na = 2\n[vision.weights]\nb = 0\n', "utf-8")
    file = PairingFile(path)
    assert file.rules().weight("a") == 2
    assert file.rules(vision=True).weight("b") == 0
    assert file.rules(vision=True).weight("a") == 1
    path.write_text("[weights]\na = 333\n", "utf-8")
    os.utime(path, ns=(1, 1))
    assert file.rules().weight("a") == 333
    path.write_text("weights = 5\n", "utf-8")
    os.utime(path, ns=(2, 2))
    assert file.rules().weight("a") == 333, "the last good rules stay in force"
    assert "weights" in file.problem


def test_json_is_read_as_well(tmp_path: Path) -> None:
    path = tmp_path / "arena.json"
    path.write_text(json.dumps({"pairs": [["a", "b", 2]], "targets": {"a": ["b"]}}), "utf-8")
    rules = PairingFile(path).rules()
    assert rules.pairs == {("a", "b"): 2.0}
    assert rules.targets == {"a": ("b",)}


def test_without_a_file_the_rules_are_the_defaults() -> None:
    assert PairingFile(None).rules() == Rules()


@pytest.mark.parametrize(
    "table",
    [
        {"wieghts": {}},
        {"weights": []},
        {"weights": {"a": -1}},
        {"weights": {"a": True}},
        {"default_weight": float("nan")},
        {"boost": "a"},
        {"targets": {"a": "b"}},
        {"pairs": [["a", "b"]]},
        {"pairs": 1},
    ],
)
def test_what_is_no_rule_is_refused_by_name(table: dict[str, object]) -> None:
    with pytest.raises(DataError, match=next(iter(table)).removeprefix("default_")):
        rules_from(table)


def test_a_broken_file_is_refused_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "arena.toml"
    with pytest.raises(UsageError, match="--arena-config"):
        PairingFile(path)
    path.write_text("= 5", "utf-8")
    with pytest.raises(UsageError, match="not readable"):
        PairingFile(path)


def most_of_d(models: Sequence[str]) -> dict[tuple[str, str], float]:
    """Whoever meets d tells most."""
    return {pair: 1.0 if "d" in pair else 0.01 for pair in combinations(models, 2)}


def drawn_by_telling(rules: Rules, resting: Sequence[str] = ()) -> Counter[tuple[str, str]]:
    rng = random.Random(7)
    pairs = [
        draw_pair(MODELS, rules, rng=rng, telling=most_of_d, resting=resting) for _ in range(N)
    ]
    return Counter(pair for pair in pairs if pair is not None)


@pytest.mark.slow
def test_pairs_are_drawn_by_what_they_tell_in_their_part_of_the_battles() -> None:
    even, half, all_of_them = (
        share(drawn_by_telling(Rules(active=part)), "d") for part in (0.0, 0.5, 1.0)
    )
    assert within(even, 1 / 2)
    assert within(all_of_them, 3 / 3.03)
    assert within(half, (1 / 2 + 3 / 3.03) / 2)


@pytest.mark.slow
def test_rules_hold_where_pairs_are_drawn_by_what_they_tell() -> None:
    rested = drawn_by_telling(Rules(active=1.0), resting=["d"])
    assert not share(rested, "d")
    out = drawn_by_telling(Rules(active=1.0, outages=frozenset({"d"}), weights={"a": 0.0}))
    assert set(map(frozenset, out)) == {frozenset("bc")}
    apart = drawn_by_telling(Rules(active=1.0, never_paired=frozenset({"a", "b", "d"})))
    assert not share(apart, "a", "d") and share(apart, "c") == 1.0
    rare = drawn_by_telling(Rules(active=1.0, weights={"a": 0.1}))
    assert within(share(rare, "a", "d"), 0.1 / (2.1 + 0.01 * 1.2))
    listed = drawn_by_telling(Rules(active=1.0, pairs={("a", "b"): 1.0}))
    assert share(listed, "a", "b") == 1.0
    firsts = sum(n for pair, n in drawn_by_telling(Rules(active=1.0)).items() if pair[0] == "d")
    assert within(firsts / N, 3 / 3.03 / 2)


def test_a_file_asks_the_informant_for_its_own_kind(tmp_path: Path) -> None:
    asked: list[bool] = []

    class Told:
        def chances(self, models: Sequence[str], *, vision: bool) -> dict[tuple[str, str], float]:
            asked.append(vision)
            return {("a", "d"): 1.0}

    path = tmp_path / "rules.toml"
    path.write_text("active = 1.0\n[vision]\nactive = 1\n")
    file = PairingFile(path, informant=Told())
    rng = random.Random(1)
    for vision in (False, True):
        assert set(file.draw(MODELS, rng=rng, vision=vision) or ()) == {"a", "d"}
    assert asked == [False, True]
    alone = PairingFile(path)
    assert {frozenset(alone.draw(MODELS, rng=rng) or ()) for _ in range(200)} == {
        frozenset(pair) for pair in combinations(MODELS, 2)
    }


@pytest.mark.parametrize("value", [1.5, -0.1, "half", True])
def test_a_part_of_the_battles_is_between_none_and_all(value: object) -> None:
    with pytest.raises(DataError, match="active is"):
        rules_from({"active": value})
