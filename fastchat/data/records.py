"""The training record, `id` and `conversations[from, value]`, in every form it comes in.

Knows the shape of a record and nothing of templates, tokens or files. A value that is not what
it should be does not stop the reading: it becomes a `Rejected` with the reason, so that the
reader of the file decides what too many of them means.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastchat.data import files

HUMAN, GPT, SYSTEM = "human", "gpt", "system"

OPENAI_SPEAKERS = {"user": HUMAN, "assistant": GPT, "developer": SYSTEM}
"""Roles of OpenAI's form whose name differs from ours; `system` and `tool` do not."""

_NOTHING: Mapping[str, Any] = {}
_OWN = frozenset(("id", "conversations", "system"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message of a record."""

    speaker: str
    """The field `from`: `human` or `gpt`; other names are kept and judged by the reader."""
    text: str
    """The field `value`."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields that are not ours; they travel unchanged."""

    def to_json(self) -> dict[str, Any]:
        """The message as it stands in a file."""
        return {"from": self.speaker, "value": self.text, **self.extra}

    def __reduce__(self) -> tuple[Any, ...]:
        # Between processes: a third of the time that pickling by fields takes.
        return _turn, (self.speaker, self.text, self.extra)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One conversation."""

    id: str
    turns: tuple[Turn, ...]
    system: str | None = None
    """The record's own system message, from its field or from a first turn of that role."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields that are not ours; they travel unchanged."""
    chosen: tuple[Turn, ...] | None = None
    """In a preference record, the better continuation of the turns."""
    rejected: tuple[Turn, ...] | None = None
    """In a preference record, the worse continuation."""

    @property
    def is_text(self) -> bool:
        """Whether it is known to hold nothing but text; quick to tell for nearly all records."""
        return (
            self.chosen is None
            and self.rejected is None
            and not any([turn.extra for turn in self.turns])
            and all([type(x) is str for x in self.extra.values()])
        )

    def to_json(self) -> dict[str, Any]:
        """The record as it stands in a file, whatever form it was read from."""
        fields: dict[str, Any] = {"id": self.id}
        if self.system is not None:
            fields["system"] = self.system
        fields["conversations"] = [turn.to_json() for turn in self.turns]
        for name, turns in (("chosen", self.chosen), ("rejected", self.rejected)):
            if turns is not None:
                fields[name] = [turn.to_json() for turn in turns]
        return fields | dict(self.extra)

    def __reduce__(self) -> tuple[Any, ...]:
        return _record, (
            *(self.id, self.turns, self.system),
            *(self.extra, self.chosen, self.rejected),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """What stood where a record should be."""

    where: str
    """`file:line` in JSON Lines, `file[index]` in an array."""
    reason: str
    id: str | None = None
    """The record's id, if it had one."""


def read_records(path: str | Path) -> Iterator[Record | Rejected]:
    """Every record of a file in its order, those that are not records as `Rejected`.

    Raises:
        DataError: the file is missing, damaged, or an array is not valid JSON.
    """
    for found in files.read_values([str(path)]):
        if isinstance(found.value, files.Broken):
            yield Rejected(where=found.where, reason=found.value.reason)
        else:
            yield parse_record(found.value, where=found.where)


def parse_record(value: object, *, where: str, need_id: bool = False) -> Record | Rejected:
    """The record that a decoded JSON value stands for, or why it stands for none.

    Forms: `conversations`; OpenAI's `messages`; `prompt` with `completion`; preferences
    (`chosen` and `rejected`, beside `conversations`, a `prompt`, or alone with the prompt in
    both); Alpaca's `instruction`, `input`, `output`.

    Args:
        value: what the file held.
        where: its place, for messages; also the id of a record that has none.
        need_id: whether a record with `conversations` must have an id. Forms that were not made
            for ids never need one.
    """
    if not isinstance(value, dict):
        return Rejected(where=where, reason="not an object")
    given = value.get("id")
    try:
        if "conversations" in value:
            if given is None and need_id:
                raise _Unfit("no id")
            record = _from_conversations(value, where)
        elif "messages" in value:
            record = _from_messages(value, where)
        elif "chosen" in value and "rejected" in value:
            record = _from_preference(value, where)
        elif "prompt" in value and "completion" in value:
            record = _from_completion(value, where)
        elif "instruction" in value and "output" in value:
            record = _from_alpaca(value, where)
        else:
            raise _Unfit("no conversations")
    except _Unfit as unfit:
        return Rejected(
            where=where, reason=str(unfit), id=None if given is None else str(given)[:200]
        )
    return record


class _Unfit(Exception):
    """A value is no record; the text says why."""


def _from_conversations(value: Mapping[str, Any], where: str) -> Record:
    given = value["conversations"]
    if not isinstance(given, list):
        raise _Unfit("conversations is not a list")
    turns = [_own_turn(turn) for turn in given]
    chosen = rejected = None
    own = _OWN
    if "chosen" in value and "rejected" in value:
        chosen, rejected = _turns(value["chosen"], GPT), _turns(value["rejected"], GPT)
        own = _OWN | {"chosen", "rejected"}
    return _assembled(value, turns, where=where, own=own, pair=(chosen, rejected))


def _from_messages(value: Mapping[str, Any], where: str) -> Record:
    turns = _turns(value["messages"], HUMAN)
    return _assembled(value, turns, where=where, own=_OWN | {"messages"})


def _from_completion(value: Mapping[str, Any], where: str) -> Record:
    turns = [*_turns(value["prompt"], HUMAN), *_turns(value["completion"], GPT)]
    return _assembled(value, turns, where=where, own=_OWN | {"prompt", "completion"})


def _from_alpaca(value: Mapping[str, Any], where: str) -> Record:
    text, given, output = (value.get(name) for name in ("instruction", "input", "output"))
    if not isinstance(text, str) or not isinstance(output, str):
        raise _Unfit("instruction or output is not text")
    if isinstance(given, str) and len(given.strip()) > 1:
        text = f"{text}\nInput:\n{given}"
    turns = [Turn(speaker=HUMAN, text=text), Turn(speaker=GPT, text=output)]
    return _assembled(value, turns, where=where, own=_OWN | {"instruction", "input", "output"})


def _from_preference(value: Mapping[str, Any], where: str) -> Record:
    prompt = _turns(value["prompt"], HUMAN) if "prompt" in value else []
    chosen, rejected = _turns(value["chosen"], GPT), _turns(value["rejected"], GPT)
    if not prompt:
        # Both hold the whole conversation; what they share is the prompt.
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        prompt = chosen[:shared]
    if chosen[: len(prompt)] == prompt and rejected[: len(prompt)] == prompt:
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    if not chosen or not rejected:
        raise _Unfit("chosen and rejected do not differ")
    own = _OWN | {"prompt", "chosen", "rejected"}
    return _assembled(value, prompt, where=where, own=own, pair=(chosen, rejected))


def _assembled(
    value: Mapping[str, Any],
    turns: list[Turn],
    *,
    where: str,
    own: frozenset[str],
    pair: tuple[Sequence[Turn] | None, Sequence[Turn] | None] = (None, None),
) -> Record:
    """The record of `turns`, with the fields of `value` that are not `own`."""
    system = value.get("system")
    if turns and turns[0].speaker == SYSTEM:
        system = turns.pop(0).text
    if system is not None and not isinstance(system, str):
        raise _Unfit("system message is not text")
    given = value.get("id")
    chosen, rejected = pair
    return Record(
        id=given if type(given) is str else where if given is None else str(given),
        turns=tuple(turns),
        system=system,
        extra={name: x for name, x in value.items() if name not in own},
        chosen=None if chosen is None else tuple(chosen),
        rejected=None if rejected is None else tuple(rejected),
    )


def _turns(value: object, speaker: str) -> list[Turn]:
    """Messages given as text of `speaker`, as one message, or as a list of messages."""
    if isinstance(value, str):
        return [Turn(speaker=speaker, text=value)]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise _Unfit("messages are neither text nor a list")
    return [_openai_turn(x) if isinstance(x, dict) and "role" in x else _own_turn(x) for x in value]


def _own_turn(turn: object) -> Turn:
    if not isinstance(turn, dict):
        raise _Unfit("message is not an object")
    speaker, text = turn.get("from"), turn.get("value")
    if not isinstance(speaker, str):
        raise _Unfit("message without from")
    if not isinstance(text, str):
        raise _Unfit("message without text" if text is None else "message text is not a string")
    if len(turn) == 2:
        return Turn(speaker=speaker, text=text, extra=_NOTHING)
    extra = {name: x for name, x in turn.items() if name not in ("from", "value")}
    return Turn(speaker=speaker, text=text, extra=extra)


def _openai_turn(message: Mapping[str, Any]) -> Turn:
    """A message with `role` and `content`; the text parts of a list are joined.

    What else the message holds (tool calls, images) stays in `extra`.
    """
    role, content = message["role"], message.get("content")
    if not isinstance(role, str):
        raise _Unfit("message without role")
    extra = {name: x for name, x in message.items() if name not in ("role", "content")}
    if isinstance(content, list):
        texts = [x.get("text") for x in content if isinstance(x, dict) and x.get("type") == "text"]
        if len(texts) < len(content):
            extra["content"] = content
        text = "".join(x for x in texts if isinstance(x, str))
    elif content is None and extra.get("tool_calls"):
        text = ""
    elif isinstance(content, str):
        text = content
    else:
        raise _Unfit("message without text" if content is None else "message text is not a string")
    return Turn(speaker=OPENAI_SPEAKERS.get(role, role), text=text, extra=extra)


def _turn(speaker: str, text: str, extra: Mapping[str, Any]) -> Turn:
    return Turn(speaker=speaker, text=text, extra=extra)


def _record(
    id: str,
    turns: tuple[Turn, ...],
    system: str | None,
    extra: Mapping[str, Any],
    chosen: tuple[Turn, ...] | None,
    rejected: tuple[Turn, ...] | None,
) -> Record:
    return Record(id=id, turns=turns, system=system, extra=extra, chosen=chosen, rejected=rejected)
