"""Which preference pairs are worth learning from: agreement of voters, language, category."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastchat.data.votes_to_pairs import PreferencePair, Report

Line = Mapping[str, Any]
Key = tuple[Any, ...]


@dataclass(slots=True)
class Agreement:
    """Votes on the same two answers to the same question, counted together."""

    votes: dict[Key, Counter[str]] = field(default_factory=dict[Key, Counter[str]])
    """By question and answers: how often each answer won; a tie is nobody's."""

    def add(self, pair: "PreferencePair", *, is_tie: bool) -> None:
        """Counts one vote."""
        of_pair = self.votes.setdefault(_key(pair), Counter())
        of_pair["" if is_tie else pair.chosen] += 1

    def settled(
        self, pair: "PreferencePair", *, least: float, min_votes: int
    ) -> "PreferencePair | str":
        """The pair as most voters saw it, or why it is left out."""
        counts = self.votes[_key(pair)]
        total = counts.total()
        if total < min_votes:
            return "too few votes"
        ahead, behind = pair, _turned(pair)
        if counts[behind.chosen] > counts[ahead.chosen]:
            ahead, behind = behind, ahead
        if counts[ahead.chosen] == counts[behind.chosen] or counts[ahead.chosen] / total < least:
            return "voters disagree"
        return ahead


def _key(pair: "PreferencePair") -> Key:
    said = tuple((m.role, m.text) for m in pair.prompt)
    return (said, *sorted((pair.chosen, pair.rejected)))


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
    pairs: Iterable[tuple["PreferencePair", Line]],
    agreement: Agreement,
    report: "Report",
    *,
    least: float,
    min_votes: int,
) -> list[tuple["PreferencePair", Line]]:
    """One pair for each question and answers on which enough voters agree."""
    kept: list[tuple[PreferencePair, Line]] = []
    seen: set[Key] = set()
    for pair, line in pairs:
        key = _key(pair)
        found = (
            "voted on before"
            if key in seen
            else agreement.settled(pair, least=least, min_votes=min_votes)
        )
        seen.add(key)
        if isinstance(found, str):
            report.drop(found)
        else:
            kept.append((found, line))
    return kept


def by_language(
    pairs: Iterable[tuple["PreferencePair", Line]], languages: Sequence[str], report: "Report"
) -> list[tuple["PreferencePair", Line]]:
    """The pairs whose question is in one of the languages, named as on the boards."""
    from fastchat.arena.languages import detect

    kept: list[tuple[PreferencePair, Line]] = []
    for pair, line in pairs:
        if (line.get("language") or detect(pair.prompt[-1].text)) in languages:
            kept.append((pair, line))
        else:
            report.drop("another language")
    return kept


def by_category(
    pairs: Sequence[tuple["PreferencePair", Line]], categories: Sequence[str], report: "Report"
) -> list[tuple["PreferencePair", Line]]:
    """The pairs that every one of the arena's categories holds.

    Raises:
        UsageError: a category is not known, or asks for labels that the votes do not carry.
    """
    from fastchat.arena.battle_files import battle_table, frame_of_rows
    from fastchat.arena.categories import chosen_categories
    from fastchat.errors import UsageError

    wanted = chosen_categories(categories, {})
    rows = [_battle(pair, line) | {"_place": i} for i, (pair, line) in enumerate(pairs)]
    frame = battle_table(frame_of_rows(rows, Counter())).frame
    for category in wanted:
        if missing := category.missing(frame):
            raise UsageError(
                f"--category {category.key} asks for {', '.join(missing)}, which these votes do "
                "not carry; label them first with fastchat.serve.monitor.classify.label."
            )
        frame = category.select(frame)
    places: set[int] = set(frame["_place"].to_list()) if rows else set()
    for i in range(len(pairs)):
        if i not in places:
            report.drop("another category")
    return [pair for i, pair in enumerate(pairs) if i in places]


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
