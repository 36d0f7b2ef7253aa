"""From the log to conversations: one row a conversation, as it stood last, people by hidden names.

For data sets of conversations, where `battles` makes comparisons. Every event of the kind asked
for is kept or counted under one reason.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from fastchat.arena.events import Event, Unread
from fastchat.arena.languages import detect
from fastchat.arena.scratch import RowSpool, Scratch, digest
from fastchat.arena.voter_key import hidden_name
from fastchat.arena.wording import Wording, wording

Action = Literal["chat", "upvote", "downvote", "leftvote", "rightvote"]
_PREFERRED = {"leftvote": 0, "rightvote": 1}


@dataclass(slots=True, kw_only=True)
class ChatReport:
    """What became of the events."""

    read: int = 0
    """Events of the kind that was asked for."""
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    last: float | None = None
    """When the last kept event was."""


def chat_rows(
    events: Iterable[Event | Unread],
    action: Action,
    *,
    report: ChatReport,
    key: bytes,
    words: Wording | None = None,
) -> Iterator[dict[str, Any]]:
    """The rows in the order of time; of a vote on a pair, the conversation that won.

    Rows wait on the disk: only their times and places are in memory.

    key: of the hash that names people.
    """
    known = words or wording()
    with RowSpool() as spool, Scratch() as newest:
        for row in _rows(events, action, report, known, key):
            name = digest(row["conversation_id"])
            before = newest.get(name)
            report.dropped["earlier_state"] += before is not None
            if before is None or row["tstamp"] >= orjson.loads(before)[0]:
                newest.put(name, orjson.dumps((row["tstamp"], len(spool))))
                spool.append(row)
        report.dropped = +report.dropped
        for number in spool.numbers_in_order_of("tstamp"):
            row = spool[number]
            if orjson.loads(newest.get(digest(row["conversation_id"])))[1] == number:
                report.kept += 1
                report.last = row["tstamp"]
                yield row


def _rows(
    events: Iterable[Event | Unread], action: Action, report: ChatReport, words: Wording, key: bytes
) -> Iterator[dict[str, Any]]:
    """The row of every event of the kind that gives one."""
    for event in events:
        if isinstance(event, Unread):
            report.dropped[event.reason] += 1
        elif event.type == action:
            report.read += 1
            row = "judge_vote" if event.is_of_judge else _row(event, words, key)
            if isinstance(row, str):
                report.dropped[row] += 1
            else:
                yield row


def _row(event: Event, words: Wording, key: bytes) -> dict[str, Any] | str:
    """The row of an event, or the reason why it gives none."""
    side = _PREFERRED.get(event.type, 0)
    state = event.states[side]
    model = state.model_name or event.models[side]
    if not state.conv_id:
        return "no_conversation_id"
    if not model:
        return "no_model"
    said = state.messages[state.offset :] if 0 <= state.offset <= len(state.messages) else ()
    if not said:
        return "empty"
    if said[-1][1] is None:  # the answer is awaited still
        said = said[:-1]
    texts = [content for _, content in said]
    if not all(isinstance(text, str) for text in texts):
        return "not_text"
    if words.is_error(texts):
        return "error"
    if len(texts) < 2:
        return "no_answer"
    return {
        "conversation_id": state.conv_id,
        "model": words.name(model, event.tstamp),
        "conversation": [
            {"role": "assistant" if i % 2 else "user", "content": text}
            for i, text in enumerate(texts)
        ],
        "turn": len(texts) // 2,
        "language": detect(texts[0]),
        "user_id": hidden_name(key, event.ip) if event.ip else "",
        "tstamp": event.tstamp,
    }
