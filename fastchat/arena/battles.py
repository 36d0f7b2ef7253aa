"""From the log to battles: which votes count, and why the others do not.

The rules and their order are the published ones; by default they are sharpened (a whole word
gives a model away, a part of one does not; one vote a conversation), with `published=True` they
are exactly those. Every vote is counted under one reason or kept.
"""

import hashlib
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fastchat.arena.battle_files import BattleTable, battle_table, frame_of_rows
from fastchat.arena.events import VOTES, Event, LoggedState, Unread, read_events
from fastchat.arena.languages import detect
from fastchat.arena.refusals import is_refusal
from fastchat.arena.style import count_markdown
from fastchat.arena.voter_key import hidden_name
from fastchat.arena.votes import LABELS
from fastchat.arena.wording import Wording, wording

Reason = Literal[
    "no_model",
    "invalid",
    "none_msg",
    "leaked_identity",
    "error",
    "unfinished",
    "exclude_model",
    "banned",
    "out_of_time",
    "same_model",
    "judge_vote",
    "repeated_vote",
    "too_quick",
    "too_many",
]
WINNERS: Mapping[str, str] = dict(zip(VOTES, LABELS, strict=True))
HOUR_S = 3600.0

_SHOWN = re.compile(r"<[^>]*>|^\s*#+\s*|(?:model|模型)\s*[ab]\s*[:：]\s*", re.IGNORECASE)
_HIDDEN = ("", "Model A", "Model B")
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]|\w{1,6}|[^\w\s]")


@dataclass(frozen=True, slots=True, kw_only=True)
class CleaningRules:
    """What is left out besides what is broken."""

    published: bool = False
    """Exactly the published rules, for comparison with older boards."""
    exclude_models: frozenset[str] = frozenset()
    banned_ips: frozenset[str] = frozenset()
    since: float | None = None
    """Votes before this moment (seconds, UTC) are left out."""
    until: float | None = None
    """Votes at or after this moment are left out."""
    shortest_s: float | None = None
    """Votes sooner than so many seconds after the slower answer are left out."""
    votes_per_hour: int | None = None
    """A voter's votes past so many within an hour are left out."""


@dataclass(slots=True, kw_only=True)
class CleaningReport:
    """What became of the votes."""

    kept: int = 0
    anonymous: int = 0
    """Kept votes given before the names were shown."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Votes left out, by reason; lines that are no event, by theirs."""
    leaked: Counter[str] = field(default_factory=Counter)
    """Votes by the identity word in them."""
    addresses: Counter[str] = field(default_factory=Counter)
    """Votes by address, of those that reached that rule."""
    last: float | None = None
    """When the last kept vote was given."""


class _Dropped(Exception):
    """A vote does not count."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason


class Cleaner:
    """Takes the events of a log in order and gives the rows of battles."""

    def __init__(
        self,
        rules: CleaningRules | None = None,
        *,
        words: Wording | None = None,
        key: bytes | None = None,
        keep_addresses: bool = False,
    ) -> None:
        """
        Args:
            words: what is looked for in texts; None takes what ships.
            key: of the hash that names a voter; the same key names them the same in every run.
            keep_addresses: name voters by their address instead.
        """
        self.rules = rules or CleaningRules()
        self.report = CleaningReport()
        self._words = words or wording()
        self._key = key or secrets.token_bytes(32)
        self._keep_addresses = keep_addresses
        self._seen: set[bytes] = set()
        self._finished: dict[str, float] = {}
        self._recent: dict[str, list[float]] = {}

    def rows(self, events: Iterable[Event | Unread]) -> Iterator[dict[str, Any]]:
        """The published rows of the votes that count, texts included."""
        for event in events:
            if isinstance(event, Unread):
                self.report.dropped[event.reason] += 1
            elif event.type in VOTES:
                if row := self.row(event):
                    yield row
            elif event.type == "chat" and self.rules.shortest_s is not None:
                self._finished[event.states[0].conv_id] = event.finish or event.tstamp

    def row(self, event: Event) -> dict[str, Any] | None:
        """The row of one vote, or None where it does not count."""
        try:
            row = self._checked(event)
        except _Dropped as dropped:
            self.report.dropped[dropped.reason] += 1
            return None
        self.report.kept += 1
        self.report.anonymous += row["anony"]
        self.report.last = max(self.report.last or 0.0, event.tstamp)
        return row

    def _checked(self, event: Event) -> dict[str, Any]:
        """The row, by the rules in their published order."""
        names, anonymous = self._names(event)
        a, b = (_said(state) for state in event.states)
        language = detect(a[0][1]) if a and a[0][1] else "unknown"
        self._check_texts(a, b)
        names = [self._words.name(name, event.tstamp) for name in names]
        if self.rules.exclude_models & set(names):
            raise _Dropped("exclude_model")
        self.report.addresses[event.ip] += 1
        if event.ip in self.rules.banned_ips:
            raise _Dropped("banned")
        self._check_voter(event, names)
        row = {
            "question_id": event.states[0].conv_id,
            "model_a": names[0],
            "model_b": names[1],
            "winner": WINNERS[event.type],
            "judge": self._judge(event.ip),
            "conversation_a": _conversation(a),
            "conversation_b": _conversation(b),
            "turn": len(a) // 2,
            "anony": anonymous,
            "language": language,
            "tstamp": event.tstamp,
        }
        return row | measured(row)

    def _names(self, event: Event) -> tuple[list[str], bool]:
        """The models of both sides, and whether their names were hidden."""
        if any(name is None for name in event.models):
            raise _Dropped("no_model")
        shown = [_SHOWN.sub("", name or "").strip() for name in event.models]
        hidden = [s.model_name or n for s, n in zip(event.states, shown, strict=True)]
        blank = [name in _HIDDEN for name in shown]
        if blank[0] != blank[1] or not all(hidden):
            raise _Dropped("invalid")
        if not blank[0] and not all(h in s for h, s in zip(hidden, shown, strict=True)):
            raise _Dropped("invalid")
        first = event.states[0]
        if not 0 <= first.offset < len(first.messages):
            raise _Dropped("invalid")
        return (hidden if blank[0] else shown), blank[0]

    def _check_texts(self, a: list[tuple[str, str]], b: list[tuple[str, str]]) -> None:
        both = [text for _, text in (*a, *b)]
        if not a or not b or not all(both):
            raise _Dropped("none_msg")
        if self.rules.published:
            leaked = self._words.words_within(both)
        else:
            leaked = self._words.leaks([t for side in (a, b) for t in _answers(side)])
        self.report.leaked.update(leaked)
        if leaked:
            raise _Dropped("leaked_identity")
        if self._words.is_error(both):
            raise _Dropped("error")
        if self._words.is_unfinished(both):
            raise _Dropped("unfinished")

    def _check_voter(self, event: Event, names: list[str]) -> None:
        """Rules of ours about who votes when."""
        rules = self.rules
        before = rules.since is not None and event.tstamp < rules.since
        if before or (rules.until is not None and event.tstamp >= rules.until):
            raise _Dropped("out_of_time")
        if event.is_of_judge:
            raise _Dropped("judge_vote")
        if rules.published:
            return
        if names[0] == names[1]:
            raise _Dropped("same_model")
        key = "\0".join(state.conv_id for state in event.states).encode()
        digest = hashlib.blake2b(key, digest_size=16).digest()
        if digest in self._seen:
            raise _Dropped("repeated_vote")
        self._seen.add(digest)
        self._check_pace(event)

    def _check_pace(self, event: Event) -> None:
        rules = self.rules
        if rules.shortest_s is not None:
            known = [self._finished.get(state.conv_id) for state in event.states]
            finished = [moment for moment in known if moment is not None]
            if finished and event.tstamp - max(finished) < rules.shortest_s:
                raise _Dropped("too_quick")
        if rules.votes_per_hour is not None:
            recent = self._recent.get(event.ip, [])
            recent = [t for t in recent if event.tstamp - t < HOUR_S]
            self._recent[event.ip] = recent
            if len(recent) >= rules.votes_per_hour:
                raise _Dropped("too_many")
            recent.append(event.tstamp)

    def _judge(self, address: str) -> str:
        if self._keep_addresses:
            return f"arena_user_{address}"
        return f"arena_user_{hidden_name(self._key, address)}"


def _said(state: LoggedState) -> list[tuple[str, str]]:
    """Role and text of the messages that are the person's and the model's own."""
    return [(role, _text(content)) for role, content in state.messages[state.offset :]]


def _text(content: Any) -> str:
    """The text of a content; a picture without words is one mark."""
    if isinstance(content, list | tuple):
        text = str(content[0] or "") if content else ""
        return text or ("<image>" if len(content) > 1 and content[1] else "")
    return content if isinstance(content, str) else ""


def _answers(side: list[tuple[str, str]]) -> list[str]:
    return [text for _, text in side[1::2]]


def count_tokens(text: str) -> int:
    """About how many tokens a text has: words in pieces of six letters, signs, CJK characters."""
    return len(_TOKEN.findall(text))


def _conversation(side: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """The published list of messages."""
    return [
        {
            "role": "assistant" if i % 2 else "user",
            "content": text,
            "num_tokens": count_tokens(text),
        }
        for i, (_, text) in enumerate(side)
    ]


def measured(row: Mapping[str, Any]) -> dict[str, Any]:
    """What boards ask about the texts of a row, so that it outlives them."""
    metadata: dict[str, Any] = {}
    texts: list[str] = []
    asked: list[tuple[str, int]] = []
    for side in "ba":  # what the person asked is that of side a
        messages = [m for m in row[f"conversation_{side}"] if isinstance(m, dict)]
        answers = [_counted(m) for m in messages if m.get("role") == "assistant"]
        asked = [_counted(m) for m in messages if m.get("role") == "user"]
        said = "\n\n".join(text for text, _ in answers)
        metadata[f"sum_assistant_{side}_tokens"] = sum(n for _, n in answers)
        metadata |= count_markdown(said).to_metadata(side)
        texts.append(said)
    metadata["sum_user_tokens"] = sum(n for _, n in asked)
    return {
        "conv_metadata": metadata,
        "is_code": any("```" in text for text in (*texts, *(text for text, _ in asked))),
        "is_refusal": any(map(is_refusal, texts)),
    }


def _counted(message: Mapping[str, Any]) -> tuple[str, int]:
    """The text of a message and its tokens, counted where the row does not tell."""
    text = _text(message.get("content"))
    n = message.get("num_tokens")
    return text, n if isinstance(n, int) else count_tokens(text)


def battles_of_logs(
    paths: Iterable[Path], *, cleaner: Cleaner | None = None, no_urls: bool = False
) -> BattleTable:
    """The battles of published logs as a table, with what was left out.

    no_urls: leave out battles whose prompt holds an address of the web.
    """
    return table_of_events(read_events(paths), cleaner=cleaner, no_urls=no_urls)


def table_of_events(
    events: Iterable[Event | Unread], *, cleaner: Cleaner | None = None, no_urls: bool = False
) -> BattleTable:
    """The battles of events as a table, with what was left out."""
    cleaner = cleaner or Cleaner()
    counts = cleaner.report.dropped
    frame = frame_of_rows(cleaner.rows(events), counts, no_urls=no_urls)
    return battle_table(frame, counts)
