"""From cleaned conversations or battles to a data set that may be given away, step by step.

Steps, in order: rows get their labels, those that are broken or blocked are left out, the rest is
sampled, stripped of fields, redacted, and voters get names that nobody can turn back. Every row
left out is counted under one reason. Each step takes rows and gives rows, one after another: what
must be known of all of them waits on the disk. Reading and writing files is the command's.
"""

import functools
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from fastchat.arena.redaction import MARK, Redactor
from fastchat.arena.scratch import RowSpool, Scratch, digest
from fastchat.arena.voter_key import hidden_name
from fastchat.errors import UsageError

Row = dict[str, Any]
CONVERSATIONS = ("conversation", "conversation_a", "conversation_b")
KEYS = ("conversation_id", "question_id")
MODELS = ("model", "model_a", "model_b")
VOTERS = ("user_id", "judge")
SHORT = 16
"""Characters below which a prompt is short."""
_HIDDEN = ("<anonymized>", "<redacted>")
_USER = "arena_user_"
_CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRules:
    """What a release leaves out, and how it is made."""

    sample: int | None = None
    """Rows at most, drawn at random."""
    seed: int = 42
    block_models: frozenset[str] = frozenset()
    block_words: tuple[str, ...] = ()
    """Texts with one of these, in any case, are left out; Latin ones as whole words."""
    drop_flagged: bool = True
    """Leave out what `openai_moderation` flags."""
    drop_short: bool = False
    """Leave out single exchanges whose prompt has fewer than 16 characters."""
    drop_frequent: int = 0
    """Leave out rows all of whose prompts are among the so many most frequent, or empty."""
    drop_fields: frozenset[str] = frozenset()
    languages: frozenset[str] = frozenset()
    """Only these; empty keeps all."""


@dataclass(slots=True, kw_only=True)
class ReleaseReport:
    """What became of the rows."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    redacted: Counter[str] = field(default_factory=Counter)
    """What was taken out of texts, by kind."""
    rows_redacted: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "read": self.read,
            "kept": self.kept,
            "dropped": dict(self.dropped.most_common()),
            "redacted": dict(self.redacted.most_common()),
            "rows_redacted": self.rows_redacted,
        }


def conversations(row: Mapping[str, Any]) -> list[list[Any]]:
    """The conversations of a row, one or two."""
    return [row[name] for name in CONVERSATIONS if isinstance(row.get(name), list)]


def prompts(row: Mapping[str, Any]) -> list[str]:
    """What the person wrote, of the first conversation; of contents with pictures the text."""
    said = next(iter(conversations(row)), [])
    asked = [m.get("content") for m in said if isinstance(m, dict) and m.get("role") == "user"]
    texts = [c[0] if isinstance(c, list) and c else c for c in asked]
    return [text for text in texts if isinstance(text, str)]


def row_key(row: Mapping[str, Any]) -> str:
    """What the row is called in other files."""
    return next((str(row[name]) for name in KEYS if row.get(name) is not None), "")


def release_rows(
    rows: Iterable[Row],
    rules: ReleaseRules,
    *,
    report: ReleaseReport,
    redactor: Redactor | None,
    key: bytes,
    labels: "Labels | None" = None,
) -> Iterator[Row]:
    """The rows to give away, in the order they came.

    redactor: None leaves texts as they are.
    key: of the names of voters; it must not be given away.
    labels: fields to add, by the row's key.
    """
    made = labels.joined(_counted(rows, report)) if labels else _counted(rows, report)
    made = filtered(made, rules, report.dropped)
    for row in sampled(made, rules.sample, rules.seed, report.dropped):
        report.kept += 1
        yield finished(row, rules, report, redactor=redactor, key=key)


def _counted(rows: Iterable[Row], report: ReleaseReport) -> Iterator[Row]:
    for row in rows:
        report.read += 1
        yield row


class Labels:
    """Fields to add to rows of the same key, on the disk."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch

    def add(self, rows: Iterable[Mapping[str, Any]], fields: Sequence[str]) -> None:
        """Takes the fields of the rows that have a key; later ones come before earlier ones."""
        for row in rows:
            given = {name: row[name] for name in fields if name in row}
            if given and (key := row_key(row)):
                self._scratch.put(digest(key), orjson.dumps(self.of(key) | given))

    def of(self, key: str) -> Row:
        """What is known of the row of this key."""
        held = self._scratch.get(digest(key))
        return orjson.loads(held) if held else {}

    def joined(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows with their labels."""
        return (row | self.of(row_key(row)) for row in rows)


def filtered(rows: Iterable[Row], rules: ReleaseRules, dropped: Counter[str]) -> Iterator[Row]:
    """The rows that nothing speaks against."""
    check = _checker(rules)

    def allowed(rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            if reason := check(row):
                dropped[reason] += 1
            else:
                yield row

    if not rules.drop_frequent:
        yield from allowed(distinct(rows, dropped))
        return
    with Scratch() as counts:
        counted = _counting_prompts(distinct(rows, dropped), counts)
        with RowSpool(allowed(counted)) as spool:
            frequent = {key for key, _ in counts.most(rules.drop_frequent, above=1)}
            for row in spool:
                asked = prompts(row)
                if frequent and all(not p.strip() or digest(p) in frequent for p in asked):
                    dropped["frequent_prompt"] += 1
                else:
                    yield row


def _counting_prompts(rows: Iterable[Row], counts: Scratch) -> Iterator[Row]:
    for row in rows:
        for prompt in prompts(row):
            counts.add(digest(prompt))
        yield row


def distinct(rows: Iterable[Row], dropped: Counter[str]) -> Iterator[Row]:
    """The first row of each id and models; rows without an id all stay."""
    with Scratch() as seen:
        for row in rows:
            key = row_key(row)
            if key and not seen.is_new(digest(key, *(str(row.get(m, "")) for m in MODELS))):
                dropped["duplicate"] += 1
            else:
                yield row


def _checker(rules: ReleaseRules) -> Callable[[Mapping[str, Any]], str]:
    """The question why a row must stay out; "" when it need not."""
    words = blocked_words(rules.block_words)
    is_chinese = bool(_CHINESE.search("".join(rules.block_words)))

    def reason(row: Mapping[str, Any]) -> str:
        texts = [_content(m) for said in conversations(row) for m in said]
        if not texts or any(text is None or not text.strip() for text in texts):
            return "empty"
        joined = "\n".join(text for text in texts if text).lower()
        asked = prompts(row)
        if any(mark in joined for mark in _HIDDEN):
            return "anonymized"
        if words and words.search(simplified(joined) if is_chinese else joined):
            return "blocked_word"
        if rules.drop_flagged and is_flagged(row.get("openai_moderation")):
            return "flagged"
        if rules.block_models & {str(row.get(name)) for name in MODELS}:
            return "blocked_model"
        if rules.languages and row.get("language") not in rules.languages:
            return "language"
        if rules.drop_short and len(asked) <= 1 and all(len(p) < SHORT for p in asked):
            return "too_short"
        return ""

    return reason


def _content(message: Any) -> str | None:
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else None


def simplified(text: str) -> str:
    """The text with traditional Chinese characters as simplified ones; others stay.

    Raises:
        UsageError: the library that knows them is not installed.
    """
    return _to_simplified().convert(text) if _CHINESE.search(text) else text


@functools.cache
def _to_simplified() -> Any:
    try:
        import opencc
    except ImportError:
        raise UsageError("Chinese blocked words need: pip install 'fschat[arena]'.") from None
    return opencc.OpenCC("t2s")


def blocked_words(words: Sequence[str]) -> re.Pattern[str] | None:
    """Looks for any of the words in a text of lower case: Latin ones whole, others anywhere.

    Chinese words are looked for as simplified ones, in a text that is `simplified`.
    """
    parts = [
        rf"(?<!\w){re.escape(word)}(?!\w)" if word.isascii() else re.escape(simplified(word))
        for word in sorted({w.strip().lower() for w in words if w.strip()}, key=len, reverse=True)
    ]
    return re.compile("|".join(parts)) if parts else None


def is_flagged(value: Any) -> bool:
    """Whether a moderation, or any of a list of them, flags."""
    if isinstance(value, list):
        return any(map(is_flagged, value))
    return isinstance(value, Mapping) and bool(value.get("flagged"))


def sampled(rows: Iterable[Row], n: int | None, seed: int, dropped: Counter[str]) -> Iterator[Row]:
    """At most n of the rows, drawn at random, in their order; None gives all.

    Source: Knuth, The Art of Computer Programming 2, 3.4.2, algorithm S.
    """
    if n is None:
        yield from rows
        return
    with RowSpool(rows) as spool:
        drawn, wanted = random.Random(seed), min(n, len(spool))
        if left_out := len(spool) - wanted:
            dropped["not_sampled"] += left_out
        for place in range(len(spool)):
            if drawn.random() * (len(spool) - place) < wanted:
                wanted -= 1
                yield spool[place]


def finished(
    row: Row,
    rules: ReleaseRules,
    report: ReleaseReport,
    *,
    redactor: Redactor | None,
    key: bytes,
) -> Row:
    """The row as it is given away: without fields, names and what belongs to a person."""
    shown = {name: value for name, value in row.items() if name not in rules.drop_fields}
    for name in VOTERS:
        if isinstance(value := shown.get(name), str):
            start = _USER if value.startswith(_USER) else ""
            shown[name] = start + hidden_name(key, value.removeprefix(_USER))
    shown.pop("ip", None)
    if redactor is None:
        return shown
    found: Counter[str] = Counter()
    untouched = {*KEYS, *VOTERS, *MODELS}
    for name in shown.keys() - untouched:
        shown[name] = redactor.redact_value(shown[name], found)
    report.redacted.update(found)
    if found:
        report.rows_redacted += 1
        shown["redacted"] = True
    elif any(MARK in p for p in prompts(shown)):
        shown["redacted"] = True
    return shown
