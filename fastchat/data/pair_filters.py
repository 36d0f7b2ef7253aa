"""Which preference pairs are worth learning from: agreement of voters, language, category.

Each filter takes pairs, with the votes that they come from, and gives pairs. What must be known of
all of them waits on the disk.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fastchat.message import Message

if TYPE_CHECKING:
    import polars as pl

    from fastchat.arena.categories import Category
    from fastchat.arena.scratch import Scratch
    from fastchat.data.votes_to_pairs import PreferencePair, Report

Line = Mapping[str, Any]
Voted = tuple["PreferencePair", Line]

ASKED = ("turn", "judge", "ip", "language", "category_tag", "dedup_tag")
"""Fields of a vote that filters ask for."""
_BATCH = 4096
_TIE, _SETTLED = b"t", b"s"


@dataclass(slots=True)
class Agreement:
    """Votes on the same two answers to the same question, counted together."""

    counts: "Scratch"

    def add(self, pair: "PreferencePair", *, is_tie: bool) -> None:
        """Counts one vote."""
        self.counts.add(_key(pair) + (_TIE if is_tie else _side(pair)))

    def is_new(self, pair: "PreferencePair") -> bool:
        """Whether its question and answers are asked about for the first time."""
        return self.counts.is_new(_key(pair) + _SETTLED)

    def settled(
        self, pair: "PreferencePair", *, least: float, min_votes: int
    ) -> "PreferencePair | str":
        """The pair as most voters saw it, or why it is left out."""
        key, turned = _key(pair), _turned(pair)
        ahead, behind, ties = (
            self.counts.count(key + what) for what in (_side(pair), _side(turned), _TIE)
        )
        total = ahead + behind + ties
        if total < min_votes:
            return "too few votes"
        if ahead == behind or max(ahead, behind) / total < least:
            return "voters disagree"
        return pair if ahead > behind else turned


def _key(pair: "PreferencePair") -> bytes:
    """What two pairs have in common whose question and answers are the same."""
    from fastchat.arena.scratch import digest

    said = itertools.chain.from_iterable((m.role, m.text) for m in pair.prompt)
    return digest(*said, *sorted((pair.chosen, pair.rejected)))


def _side(pair: "PreferencePair") -> bytes:
    """Which of the two answers is the chosen one, by their order."""
    return b"0" if pair.chosen < pair.rejected else b"1"


def _turned(pair: "PreferencePair") -> "PreferencePair":
    """The pair with the other answer chosen."""
    return replace(
        pair,
        chosen=pair.rejected,
        rejected=pair.chosen,
        chosen_model=pair.rejected_model,
        rejected_model=pair.chosen_model,
    )


def by_agreement(
    pairs: Iterable[Voted],
    agreement: Agreement,
    report: "Report",
    *,
    least: float,
    min_votes: int,
) -> Iterator[Voted]:
    """One pair for each question and answers on which enough voters agree.

    agreement: is told of every vote while `pairs` are read.
    """
    from fastchat.arena.scratch import RowSpool

    with RowSpool(map(_packed, pairs)) as spool:
        for pair, line in map(_unpacked, spool):
            if agreement.is_new(pair):
                found = agreement.settled(pair, least=least, min_votes=min_votes)
            else:
                found = "voted on before"
            if isinstance(found, str):
                report.drop(found)
            else:
                yield found, line


def by_language(
    pairs: Iterable[Voted], languages: Sequence[str], report: "Report"
) -> Iterator[Voted]:
    """The pairs whose question is in one of the languages, named as on the boards."""
    from fastchat.arena.languages import detect

    for pair, line in pairs:
        if (line.get("language") or detect(pair.prompt[-1].text)) in languages:
            yield pair, line
        else:
            report.drop("another language")


def by_category(
    pairs: Iterable[Voted], categories: Sequence[str], report: "Report"
) -> Iterator[Voted]:
    """The pairs that every one of the arena's categories holds.

    Raises:
        UsageError: a category is not known, or asks for labels that the votes do not carry.
    """
    from fastchat.arena.categories import chosen_categories
    from fastchat.arena.scratch import RowSpool

    wanted = chosen_categories(categories, {})
    with RowSpool(map(_packed, pairs)) as spool:
        is_held = bytearray(len(spool))
        for place in _held(map(_unpacked, spool), wanted):
            is_held[place] = True
        for place, packed in enumerate(spool):
            if is_held[place]:
                yield _unpacked(packed)
            else:
                report.drop("another category")


def _held(pairs: Iterable[Voted], categories: "Sequence[Category]") -> list[int]:
    """The places of the pairs that all the categories hold."""
    from fastchat.errors import UsageError

    frame = _frame(pairs, categories)
    for category in categories:
        if missing := category.missing(frame):
            raise UsageError(
                f"--category {category.key} asks for {', '.join(missing)}, which these votes do "
                "not carry; label them first with fastchat.serve.monitor.classify.label."
            )
        frame = category.select(frame)
    return frame["_place"].to_list()


def _frame(pairs: Iterable[Voted], categories: "Sequence[Category]") -> "pl.DataFrame":
    """What the categories ask about the pairs, in the order of time; `_place` numbers them."""
    import polars as pl

    from fastchat.arena.battle_files import battle_table, frame_of_rows

    kept = {"_place", "tstamp", "winner", "judge", "side_tokens_b"}
    kept |= {name for category in categories for name in category.needs}
    rows = (_battle(*voted) | {"_place": i} for i, voted in enumerate(pairs))
    frames = [battle_table(frame_of_rows([], Counter())).frame.with_columns(_place=pl.lit(0))]
    while batch := list(itertools.islice(rows, _BATCH)):
        frames.append(battle_table(frame_of_rows(batch, Counter())).frame)
    frames = [frame.select(name for name in frame.columns if name in kept) for frame in frames]
    made = pl.concat(frames, how="diagonal_relaxed")
    return made.sort("tstamp", maintain_order=True, nulls_last=True)


def _packed(voted: Voted) -> dict[str, Any]:
    """A pair and what is asked about its vote, as a row."""
    pair, line = voted
    said = [[m.role, m.text] for m in pair.prompt]
    row = {name: getattr(pair, name) for name in pair.__slots__} | {"prompt": said}
    return {"pair": row, "line": {name: line[name] for name in ASKED if name in line}}


def _unpacked(row: Mapping[str, Any]) -> Voted:
    """The pair of a row."""
    from fastchat.data.votes_to_pairs import PreferencePair

    said = tuple(Message(role=role, text=text) for role, text in row["pair"]["prompt"])
    return PreferencePair(**row["pair"] | {"prompt": said}), row["line"]


def _battle(pair: "PreferencePair", line: Line) -> dict[str, Any]:
    """The pair as a row of battles, as far as categories ask."""
    from fastchat.arena.battles import count_tokens
    from fastchat.arena.languages import detect

    asked = pair.prompt[-1].text
    row: dict[str, Any] = {
        "model_a": pair.chosen_model or "chosen",
        "model_b": pair.rejected_model or "rejected",
        "winner": "model_a",
        "turn": line.get("turn") or 1,
        "judge": line.get("judge") or line.get("ip") or None,
        "language": line.get("language") or detect(asked),
        "tstamp": pair.tstamp,
        "anony": True,
    }
    for side, text in (("a", pair.chosen), ("b", pair.rejected)):
        row[f"conversation_{side}"] = [
            {"role": "user", "content": asked, "num_tokens": count_tokens(asked)},
            {"role": "assistant", "content": text, "num_tokens": count_tokens(text)},
        ]
    tags = ("category_tag", "dedup_tag")
    return row | {name: line[name] for name in tags if isinstance(line.get(name), dict)}
