"""Alpaca's instructions as conversations; Dolly's, OpenAssistant's trees and OpenAI's form too."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, assert_never

import tyro

from fastchat.data.light import LightSettings
from fastchat.data.naming import beside
from fastchat.data.pipeline import announce, run
from fastchat.data.pool import Parse
from fastchat.data.records import GPT, HUMAN, Record, Rejected, Turn, parse_record
from fastchat.data.steps import Outcome, RecordStep, StreamStep
from fastchat.errors import UsageError
from fastchat.settings import run_command

Form = Literal["alpaca", "dolly", "oasst", "openai"]

_TREE = "tree"
_TREE_SPEAKERS = {"prompter": HUMAN, "assistant": GPT}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertAlpacaSettings(LightSettings):
    """Writes instructions and their answers as conversations."""

    form: Annotated[Form, tyro.conf.arg(name="from")] = "alpaca"
    """What the input holds: Alpaca's or Dolly's instructions, OpenAssistant's message trees, or
    OpenAI's messages."""
    all_paths: bool = False
    """Of each tree all conversations, not only the one of the best answers."""


class Number:
    """Names records by their number."""

    name = "convert_alpaca"

    def __init__(self, stem: str) -> None:
        self.stem = stem
        self.n_named = 0

    def apply_all(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records with their new ids."""
        for record in records:
            yield dataclasses.replace(record, id=f"{self.stem}_{self.n_named}")
            self.n_named += 1

    def resume(self, kept: Iterable[Record]) -> None:
        """Goes on after those that are written."""
        self.n_named = sum(1 for _ in kept)


@dataclass(slots=True, kw_only=True)
class TreePaths:
    """A tree of messages becomes one conversation, or one for each of its last answers."""

    all_paths: bool = False
    name: str = "convert_alpaca"

    def prepare(self) -> None:
        """Needs nothing beforehand."""

    def apply(self, record: Record) -> Outcome:
        """The conversations of a tree, each ending with an answer."""
        extra = {name: value for name, value in record.extra.items() if name != _TREE}
        paths = list(_answered_paths(record.extra[_TREE]))
        if not paths:
            return Outcome(dropped="no answer in the tree")
        if not self.all_paths:
            return Outcome(records=(dataclasses.replace(record, turns=paths[0], extra=extra),))
        return Outcome(
            records=[
                dataclasses.replace(record, id=f"{record.id}_{i}", turns=path, extra=extra)
                for i, path in enumerate(paths)
            ]
        )


def parse_alpaca(value: object, *, where: str, need_id: bool) -> Record | Rejected:
    """The record of an instruction."""
    if isinstance(value, dict) and not {"instruction", "output"} <= value.keys():
        return _unfit(value, "no instruction and output", where=where)
    return parse_record(value, where=where, need_id=need_id)


def parse_dolly(value: object, *, where: str, need_id: bool) -> Record | Rejected:
    """The record of an instruction whose context and response have Dolly's names."""
    if not isinstance(value, dict):
        return Rejected(where=where, reason="not an object")
    if not {"instruction", "response"} <= value.keys():
        return _unfit(value, "no instruction and response", where=where)
    fields = {name: x for name, x in value.items() if name not in ("context", "response")}
    fields |= {"input": value.get("context"), "output": value["response"]}
    return parse_record(fields, where=where, need_id=need_id)


def parse_tree(value: object, *, where: str, need_id: bool) -> Record | Rejected:
    """The record of a tree of messages, which `TreePaths` makes conversations of."""
    if not isinstance(value, dict):
        return Rejected(where=where, reason="not an object")
    tree = value.get("prompt")
    if not isinstance(tree, dict) or not isinstance(tree.get("text"), str):
        return _unfit(value, "no message tree", where=where)
    id = value.get("message_tree_id") or tree.get("message_id") or where
    extra = {"lang": tree["lang"]} if isinstance(tree.get("lang"), str) else {}
    return Record(id=str(id), turns=(), extra={_TREE: tree, **extra})


def parse_openai(value: object, *, where: str, need_id: bool) -> Record | Rejected:
    """The record of a list of messages."""
    if isinstance(value, dict) and "messages" not in value:
        return _unfit(value, "no messages", where=where)
    return parse_record(value, where=where, need_id=need_id)


def _unfit(value: Mapping[str, Any], reason: str, *, where: str) -> Rejected:
    id = value.get("id")
    return Rejected(where=where, reason=reason, id=None if id is None else str(id)[:200])


def steps_of(settings: ConvertAlpacaSettings) -> tuple[Parse, list[RecordStep | StreamStep]]:
    """What parses a value of the form, and the steps after it."""
    match settings.form:
        case "alpaca":
            return parse_alpaca, [Number("alpaca")]
        case "dolly":
            return parse_dolly, [Number("dolly")]
        case "openai":
            return parse_openai, []
        case "oasst":
            return parse_tree, [TreePaths(all_paths=settings.all_paths)]
        case form:
            assert_never(form)


def convert_alpaca(settings: ConvertAlpacaSettings) -> None:
    """Writes the conversations and prints their number."""
    if settings.all_paths and settings.form != "oasst":
        raise UsageError("--all-paths is about trees; add --from oasst or leave it out.")
    parse, steps = steps_of(settings)
    out_file = beside(settings, "conversation")
    report = run(settings, steps, out_file=out_file, need_id=False, parse=parse)
    announce(settings, f"#out: {report.kept}", out_file=out_file)


def _answered_paths(tree: Mapping[str, Any]) -> Iterator[tuple[Turn, ...]]:
    """The ways from the first message to a last answer, the best-ranked first."""
    waiting: list[tuple[Mapping[str, Any], tuple[Turn, ...]]] = [(tree, ())]
    while waiting:
        message, before = waiting.pop()
        turn = _tree_turn(message)
        path = (*before, turn) if turn else before
        replies = [] if turn is None else _ranked(message.get("replies"))
        # A question that nobody answered adds nothing: the way ends before it.
        answered = [reply for reply in replies if _leads_to_answer(reply)]
        if turn is not None and turn.speaker == GPT and not answered:
            yield path
        waiting += [(reply, path) for reply in reversed(answered)]


def _tree_turn(message: Mapping[str, Any]) -> Turn | None:
    """The message of a node, unless it was taken back."""
    speaker = _TREE_SPEAKERS.get(str(message.get("role")))
    text = message.get("text")
    if speaker is None or not isinstance(text, str) or message.get("deleted"):
        return None
    return Turn(speaker=speaker, text=text)


def _ranked(replies: object) -> list[Mapping[str, Any]]:
    """The replies, the best first; those without a rank last."""
    found = [x for x in replies if isinstance(x, dict)] if isinstance(replies, list) else []

    def rank(reply: Mapping[str, Any]) -> float:
        given = reply.get("rank")
        return float("inf") if given is None else float(given)

    return sorted(found, key=rank)


def _leads_to_answer(message: Mapping[str, Any]) -> bool:
    """Whether the message is an answer, or a question that has one."""
    turn = _tree_turn(message)
    if turn is None:
        return False
    return turn.speaker == GPT or any(map(_leads_to_answer, _ranked(message.get("replies"))))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        ConvertAlpacaSettings,
        convert_alpaca,
        argv,
        prog="python3 -m fastchat.data.convert_alpaca",
    )


if __name__ == "__main__":
    raise SystemExit(main())
