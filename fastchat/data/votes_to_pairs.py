"""Turns the votes of battles into preference pairs, which `train_dpo` learns from.

python3 -m fastchat.data.votes_to_pairs --in 2026-05-01-conv.json --out pairs.jsonl

Votes come from logs, from files of cleaned battles with their texts, or from the arena's store.
"""

import functools
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
from fastchat.data.output import open_writer
from fastchat.data.pair_filters import Agreement, by_agreement, by_category, by_language
from fastchat.errors import DataError, UsageError
from fastchat.message import Message
from fastchat.settings import CommaList, alias, run_command

logger = logging.getLogger(__name__)

LEFT, RIGHT = "leftvote", "rightvote"
NO_WINNER = {"tievote": "tie", "bothbad_vote": "both bad"}
UNKNOWN = "unknown outcome"
ERROR_TEXTS = ("**network error", "**api request error", "api request error.")
"""How a reply begins, in lower case, that is no answer of the model."""
BOM = b"\xef\xbb\xbf"
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
    """Logs of the arena, `YYYY-MM-DD-conv.json`; folders of logs; files of cleaned battles
    (.json, .jsonl, .parquet); stores, by file (.db) or URL."""
    out_file: Annotated[str, alias("--out")] = tyro.MISSING
    """JSON Lines to write: id, prompt, chosen, rejected."""
    rounds: Literal["one", "first"] = "one"
    """Of battles with several rounds: none (`one`), or the first round (`first`)."""
    anonymous_only: bool = False
    """Leave out battles whose models were shown by name."""
    judge_votes: bool = False
    """Take votes that judges gave as well; people's only without it."""
    min_agreement: float | None = None
    """Count votes on the same answers together and keep those on which this share agrees."""
    min_votes: int = 1
    """With --min-agreement: leave out answers with fewer votes."""
    langs: CommaList = ()
    """Keep questions in these languages: English,Chinese,..."""
    category: CommaList = ()
    """Keep what these of the arena's categories hold: coding,hard_6,no_refusal,..."""
    report: str | None = None
    """File for what was read, kept and dropped, as JSON."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    logs.setup()
    return run_command(
        VotesToPairsSettings, _run, argv, prog="python3 -m fastchat.data.votes_to_pairs"
    )


def _run(settings: VotesToPairsSettings) -> None:
    _check(settings)
    report = Report()
    with open_writer(settings.out_file, "jsonl") as file:
        for pair in _selected(settings, report):
            file.write(pair.as_json())
        report.kept = file.n_values
        if not file.n_values:
            raise DataError(f"no vote gives a pair: {_reasons(report)}.")
    if settings.report is not None:
        _write_report(Path(settings.report), report)
    logger.info("votes=%d pairs=%d dropped %s", report.read, report.kept, _reasons(report))


def _write_report(path: Path, report: Report) -> None:
    content = {"read": report.read, "kept": report.kept, "dropped": report.dropped}
    try:
        path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise UsageError(f"--report {path} cannot be written: {error.strerror}.") from None


def _check(settings: VotesToPairsSettings) -> None:
    """Raises UsageError for values that cannot be."""
    least = settings.min_agreement
    if least is not None and not 0 < least <= 1:
        raise UsageError(f"--min-agreement {least} is no share; give more than 0, at most 1.")
    if settings.min_votes < 1:
        raise UsageError(f"--min-votes {settings.min_votes} is below 1.")
    if settings.min_votes > 1 and least is None:
        raise UsageError("--min-votes needs --min-agreement, which counts votes together.")


def _selected(settings: VotesToPairsSettings, report: Report) -> Iterator[PreferencePair]:
    """The pairs that the flags ask for; the others are counted by reason."""
    from fastchat.arena.scratch import Scratch

    with Scratch() as counts:
        least = settings.min_agreement
        agreement = Agreement(counts) if least is not None else None
        found = _voted(
            (line for source in settings.in_file for line in vote_lines(source)),
            report,
            rounds=settings.rounds,
            anonymous_only=settings.anonymous_only,
            judge_votes=settings.judge_votes,
            agreement=agreement,
        )
        if agreement is not None and least is not None:
            votes = settings.min_votes
            found = by_agreement(found, agreement, report, least=least, min_votes=votes)
        if settings.langs:
            found = by_language(found, settings.langs, report)
        if settings.category:
            found = by_category(found, settings.category, report)
        for pair, _ in found:
            yield pair


def vote_lines(source: str) -> Iterator[Any]:
    """The votes of a log, a folder of logs, a file of battles or a store, as lines of a log.

    None stands for a line that cannot be read.

    Raises:
        UsageError, DataError: the source cannot be used; the message names it.
    """
    from fastchat.arena.sources import is_store
    from fastchat.arena.store_battles import votes_of_store

    if is_store(source):
        yield from (event.to_row() for event in votes_of_store(source))
        return
    path = Path(source).expanduser()
    if path.is_dir():
        from fastchat.arena.events import log_files

        for log in log_files(path):
            yield from read_lines(log)
        return
    rows = read_lines(path) if not _is_table(path) else _table_rows(path)
    for row in rows:
        is_battle = isinstance(row, dict) and "conversation_a" in row and "winner" in row
        yield _as_vote(row) if is_battle else row


def _is_table(path: Path) -> bool:
    """Whether the file is no JSON Lines."""
    if path.suffix in (".parquet", ".csv"):
        return True
    try:
        with path.open("rb") as file:
            return file.read(64).removeprefix(BOM).lstrip()[:1] == b"["
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from None


def _table_rows(path: Path) -> Iterator[Any]:
    """The rows of a file of battles, and None for each that cannot be read."""
    from collections import Counter

    from fastchat.arena.row_files import read_rows

    refused: Counter[str] = Counter()
    yield from read_rows(path, refused)
    yield from [None] * refused.total()


WINNERS = {"model_a": LEFT, "model_b": RIGHT, "tie": "tievote", "tie (bothbad)": "bothbad_vote"}


def _as_vote(row: dict[str, Any]) -> dict[str, Any]:
    """A row of cleaned battles as a line of the log, with what was found out about it."""
    states = [
        {
            "conv_id": str(row.get("question_id") or row.get("tstamp")),
            "model_name": row.get(f"model_{side}"),
            "messages": [
                [m.get("role"), m.get("content")] if isinstance(m, dict) else m
                for m in _list(row.get(f"conversation_{side}"))
            ],
        }
        for side in "ab"
    ]
    shown = ["", ""] if row.get("anony", True) else [row.get("model_a"), row.get("model_b")]
    kind = WINNERS.get(str(row.get("winner")), UNKNOWN)
    return {**row, "type": kind, "models": shown, "states": states}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


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
                        yield orjson.loads(line.removeprefix(BOM))
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
    """The pairs that people's votes among the lines of a log give, one a battle at most."""
    found = _voted(lines, report, rounds=rounds, anonymous_only=anonymous_only)
    return (pair for pair, _ in found)


def _voted(
    lines: Iterable[Any],
    report: Report,
    *,
    rounds: Literal["one", "first"],
    anonymous_only: bool,
    judge_votes: bool = False,
    agreement: Agreement | None = None,
) -> Iterator[tuple[PreferencePair, dict[str, Any]]]:
    """Each pair with the line that it comes from.

    agreement: is told of every vote, ties too; then votes of several people on a battle count.
    """
    from fastchat.arena.scratch import Scratch, digest

    made = functools.partial(_pair, rounds=rounds, anonymous_only=anonymous_only)
    with Scratch() as seen:
        for line in lines:
            if line is None:
                report.read += 1
                report.drop("not valid JSON")
                continue
            kind = line.get("type") if isinstance(line, dict) else None
            if kind not in (LEFT, RIGHT, *NO_WINNER, UNKNOWN):
                continue
            report.read += 1
            if kind == UNKNOWN:
                found = kind
            elif not judge_votes and line.get("origin", "human") != "human":
                found = "a judge's vote"
            else:
                is_tie, voter = kind in NO_WINNER, ""
                found = decided = made(line)
                if agreement is not None:
                    voter = str(line.get("judge") or line.get("ip"))
                    decided = made({**line, "type": LEFT}) if is_tie else found
                if isinstance(decided, PreferencePair):
                    if not seen.is_new(digest(*_battle_of(decided), voter)):
                        found = "voted twice"
                    elif agreement is not None:
                        agreement.add(decided, is_tie=is_tie)
            if isinstance(found, str):
                report.drop(found)
            else:
                report.kept += 1
                yield found, line


def _battle_of(pair: PreferencePair) -> tuple[str, ...]:
    """What two votes on one battle have in common, whichever answer won."""
    models = sorted(str(name) for name in (pair.chosen_model, pair.rejected_model))
    return (pair.id, pair.prompt[-1].text, *models)


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
