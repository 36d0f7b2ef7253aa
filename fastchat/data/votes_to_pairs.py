"""Turns the votes of battles into preference pairs, which `train_dpo` learns from.

python3 -m fastchat.data.votes_to_pairs --in 2026-05-01-conv.json --out pairs.jsonl
"""

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import tyro

from fastchat import logs
from fastchat.errors import DataError
from fastchat.message import Message
from fastchat.settings import alias, run_command

logger = logging.getLogger(__name__)

LEFT, RIGHT = "leftvote", "rightvote"
NO_WINNER = {"tievote": "tie", "bothbad_vote": "both bad"}
ERROR_TEXTS = ("**network error", "**api request error", "api request error.")
"""How a reply begins, in lower case, that is no answer of the model."""
UNFINISHED = ("▌", '<span class="cursor">')


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePair:
    """What was said, and the better and the worse answer to it."""

    id: str
    prompt: tuple[Message, ...]
    """Ends with a message of the user."""
    chosen: str
    rejected: str
    chosen_model: str | None = None
    rejected_model: str | None = None
    tstamp: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The pair as a line of a file."""
        given: dict[str, Any] = {
            "id": self.id,
            "prompt": [{"role": m.role, "content": m.text} for m in self.prompt],
            "chosen": self.chosen,
            "rejected": self.rejected,
        }
        if self.chosen_model is not None:
            given |= {"chosen_model": self.chosen_model, "rejected_model": self.rejected_model}
        if self.tstamp is not None:
            given["tstamp"] = self.tstamp
        return given


@dataclass(slots=True, kw_only=True)
class Report:
    """What became of the lines of a log."""

    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """By reason; lines that are no votes are not counted at all."""

    def drop(self, reason: str) -> None:
        """Counts a vote that gives no pair."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class VotesToPairsSettings:
    """Turns the votes of battles into preference pairs for train_dpo."""

    in_file: Annotated[tuple[str, ...], alias("--in")] = tyro.MISSING
    """Logs of the arena, `YYYY-MM-DD-conv.json`, one JSON object a line."""
    out_file: Annotated[str, alias("--out")] = tyro.MISSING
    """JSON Lines to write: id, prompt, chosen, rejected."""
    rounds: Literal["one", "first"] = "one"
    """Of battles with several rounds: none (`one`), or the first round (`first`)."""
    anonymous_only: bool = False
    """Leave out battles whose models were shown by name."""
    report: str | None = None
    """File for what was read, kept and dropped, as JSON."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    logs.setup()
    return run_command(
        VotesToPairsSettings, _run, argv, prog="python3 -m fastchat.data.votes_to_pairs"
    )


def _run(settings: VotesToPairsSettings) -> None:
    report = Report()
    lines = (line for path in settings.in_file for line in read_lines(path))
    pairs = list(
        pairs_from_votes(
            lines, report, rounds=settings.rounds, anonymous_only=settings.anonymous_only
        )
    )
    if not pairs:
        raise DataError(f"no vote gives a pair: {_reasons(report)}.")
    out = Path(settings.out_file)
    part = out.with_name(f".{out.name}.part")
    with part.open("wb") as file:
        for pair in pairs:
            file.write(orjson.dumps(pair.as_json()) + b"\n")
    part.replace(out)
    if settings.report is not None:
        content = {"read": report.read, "kept": report.kept, "dropped": report.dropped}
        Path(settings.report).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    logger.info("votes=%d pairs=%d dropped %s", report.read, report.kept, _reasons(report))


def _reasons(report: Report) -> str:
    """What was dropped, in words."""
    return ", ".join(f"{reason}: {n}" for reason, n in sorted(report.dropped.items())) or "none"


def read_lines(path: str | Path) -> Iterator[Any]:
    """The JSON values of a log, None for a line that is none.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            for line in file:
                if line.strip():
                    try:
                        yield orjson.loads(line)
                    except orjson.JSONDecodeError:
                        yield None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from None


def pairs_from_votes(
    lines: Iterable[Any],
    report: Report,
    *,
    rounds: Literal["one", "first"] = "one",
    anonymous_only: bool = False,
) -> Iterator[PreferencePair]:
    """The pairs that the votes among the lines of a log give, one a battle at most."""
    seen: set[tuple[str, str]] = set()
    for line in lines:
        kind = line.get("type") if isinstance(line, dict) else None
        if line is not None and kind not in (LEFT, RIGHT, *NO_WINNER):
            continue
        report.read += 1
        found = (
            "not valid JSON"
            if line is None
            else _pair(line, rounds=rounds, anonymous_only=anonymous_only)
        )
        if isinstance(found, PreferencePair):
            battle = (found.id, found.prompt[-1].text)
            if battle in seen:
                found = "voted twice"
            seen.add(battle)
        if isinstance(found, str):
            report.drop(found)
        else:
            report.kept += 1
            yield found


def _pair(
    vote: dict[str, Any], *, rounds: Literal["one", "first"], anonymous_only: bool
) -> PreferencePair | str:
    """The pair of a vote, or the reason why it gives none."""
    kind = vote["type"]
    if kind in NO_WINNER:
        return NO_WINNER[kind]
    states = vote.get("states")
    if not isinstance(states, list) or len(states) != 2:
        return "not two conversations"
    if anonymous_only and any(_is_shown(name) for name in vote.get("models") or []):
        return "models were shown"
    sides = [_messages(state) for state in states]
    for side in sides:
        if isinstance(side, str):
            return side
    a, b = [side for side in sides if not isinstance(side, str)]
    if rounds == "one" and max(len(a), len(b)) > 2:
        return "more than one round"
    if a[0].text != b[0].text:
        return "different questions"
    better, worse = (0, 1) if kind == LEFT else (1, 0)
    replies = (a[1].text, b[1].text)
    if replies[0] == replies[1]:
        return "equal answers"
    models = [state.get("model_name") for state in states]
    if models[0] is not None and models[0] == models[1]:
        return "one model against itself"
    system = str(states[0].get("system_message") or "")
    if system != str(states[1].get("system_message") or ""):
        system = ""  # each side had its model's own, which is no part of the question
    tstamp = vote.get("tstamp")
    return PreferencePair(
        id=str(states[0].get("conv_id") or f"vote-{tstamp}"),
        prompt=((Message(role="system", text=system),) if system else ()) + (a[0],),
        chosen=replies[better],
        rejected=replies[worse],
        chosen_model=models[better],
        rejected_model=models[worse],
        tstamp=float(tstamp) if isinstance(tstamp, int | float) else None,
    )


def _is_shown(name: object) -> bool:
    """Whether a name of the vote told the voter which model it was."""
    return (
        isinstance(name, str)
        and bool(name.strip())
        and "Model A" not in name
        and ("Model B" not in name)
    )


def _messages(state: object) -> list[Message] | str:
    """What was said after the template's examples, or what is wrong with it."""
    if not isinstance(state, dict) or not isinstance(state.get("messages"), list):
        return "not a conversation"
    given = state["messages"]
    offset = state.get("offset") or 0
    if not isinstance(offset, int) or not 0 <= offset < len(given):
        return "offset outside of the messages"
    messages: list[Message] = []
    for i, message in enumerate(given[offset:]):
        if not isinstance(message, list | tuple) or len(message) < 2:
            return "not a conversation"
        text = message[1]
        if isinstance(text, list | tuple):
            return "pictures"
        if not isinstance(text, str) or not text.strip():
            return "empty message"
        if i % 2 and text.strip().lower().startswith(ERROR_TEXTS):
            return "an error in place of an answer"
        if text.rstrip().endswith(UNFINISHED[0]) or UNFINISHED[1] in text:
            return "unfinished answer"
        messages.append(Message(role="assistant" if i % 2 else "user", text=text))
    if len(messages) < 2:
        return "no answer"
    return messages


if __name__ == "__main__":
    sys.exit(main())
