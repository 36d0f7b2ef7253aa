"""From cleaned conversations or battles to a data set that may be given away, step by step.

Steps, in order: rows that are broken or blocked are left out, the rest is sampled, joined with
labels, stripped of fields, redacted, and voters get names that nobody can turn back. Every row
left out is counted under one reason. Reading and writing files is the command's.
"""

import functools
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastchat.arena.redaction import MARK, Redactor
from fastchat.arena.voter_key import hidden_name
from fastchat.errors import UsageError

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
    rows: Iterable[Mapping[str, Any]],
    rules: ReleaseRules,
    *,
    report: ReleaseReport,
    redactor: Redactor | None,
    key: bytes,
    labels: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """The rows to give away, in the order they came.

    redactor: None leaves texts as they are.
    key: of the names of voters; it must not be given away.
    labels: fields to add, by the row's key.
    """
    known = labels or {}
    kept = [dict(row) | dict(known.get(row_key(row), {})) for row in _counted(rows, report)]
    kept = list(filtered(kept, rules, report.dropped))
    kept = sampled(kept, rules, report.dropped)
    finished = [_finished(row, rules, report, redactor=redactor, key=key) for row in kept]
    report.kept = len(finished)
    return finished


def _counted(
    rows: Iterable[Mapping[str, Any]], report: ReleaseReport
) -> Iterator[Mapping[str, Any]]:
    for row in rows:
        report.read += 1
        yield row


def filtered(
    rows: Sequence[dict[str, Any]], rules: ReleaseRules, dropped: Counter[str]
) -> Iterator[dict[str, Any]]:
    """The rows that nothing speaks against."""
    rows = list(distinct(rows, dropped))
    check = _checker(rows, rules)
    for row in rows:
        if reason := check(row):
            dropped[reason] += 1
        else:
            yield row


def distinct(rows: Iterable[dict[str, Any]], dropped: Counter[str]) -> Iterator[dict[str, Any]]:
    """The first row of each id and models; rows without an id all stay."""
    seen: set[tuple[str, ...]] = set()
    for row in rows:
        identity = (row_key(row), *(str(row.get(m, "")) for m in MODELS))
        if identity[0] and identity in seen:
            dropped["duplicate"] += 1
        else:
            seen.add(identity)
            yield row


def _checker(
    rows: Sequence[dict[str, Any]], rules: ReleaseRules
) -> Callable[[Mapping[str, Any]], str]:
    """The question why a row must stay out; "" when it need not."""
    words = blocked_words(rules.block_words)
    is_chinese = bool(_CHINESE.search("".join(rules.block_words)))
    frequent = frequent_prompts(rows, rules.drop_frequent)

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
        if frequent and all(not p.strip() or p in frequent for p in asked):
            return "frequent_prompt"
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


def frequent_prompts(rows: Iterable[Mapping[str, Any]], n: int) -> frozenset[str]:
    """The n most frequent prompts that come twice or more."""
    counts = Counter(p for row in rows for p in prompts(row)) if n else Counter[str]()
    return frozenset(prompt for prompt, times in counts.most_common(n) if times > 1)


def sampled(
    rows: list[dict[str, Any]], rules: ReleaseRules, dropped: Counter[str]
) -> list[dict[str, Any]]:
    """At most so many of the rows as the rules say, in their order."""
    if rules.sample is None or len(rows) <= rules.sample:
        return rows
    chosen = sorted(random.Random(rules.seed).sample(range(len(rows)), rules.sample))
    dropped["not_sampled"] += len(rows) - len(chosen)
    return [rows[i] for i in chosen]


def _finished(
    row: dict[str, Any],
    rules: ReleaseRules,
    report: ReleaseReport,
    *,
    redactor: Redactor | None,
    key: bytes,
) -> dict[str, Any]:
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


def statistics(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts that describe the data set: people, models, languages, turns, lengths."""
    lengths = {"user": 0, "assistant": 0}
    messages = {"user": 0, "assistant": 0}
    turns: Counter[str] = Counter()
    for row in rows:
        said = conversations(row)
        turns[str(row.get("turn") or len(next(iter(said), [])) // 2)] += 1
        for message in (m for part in said for m in part if isinstance(m, dict)):
            role = "user" if message.get("role") == "user" else "assistant"
            lengths[role] += len(_content(message) or "")
            messages[role] += 1
    models = Counter(str(row[m]) for row in rows for m in MODELS if row.get(m))
    people = {row[v] for row in rows for v in VOTERS if row.get(v)}
    return {
        "rows": len(rows),
        "users": len(people),
        "models": dict(models.most_common()),
        "languages": dict(Counter(str(r.get("language", "unknown")) for r in rows).most_common()),
        "turns": dict(sorted(turns.items(), key=lambda item: int(item[0]))),
        "outcomes": dict(Counter(str(r["winner"]) for r in rows if r.get("winner"))),
        "mean_characters": {
            role: round(lengths[role] / messages[role], 1) if messages[role] else 0.0
            for role in lengths
        },
    }
