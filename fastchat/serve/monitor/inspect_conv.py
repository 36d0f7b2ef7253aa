"""Shows the votes between two models, one after another."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fastchat.errors import DataError, UsageError
from fastchat.settings import CommaList, run_command

if TYPE_CHECKING:
    from fastchat.arena.events import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectConvSettings:
    """Steps through votes of given models: Enter shows the next one, q ends."""

    source: str = "~/fastchat_logs"
    """A log, a folder of logs, or a store's URL."""
    winner: CommaList = ()
    """Models that won; any without it."""
    loser: CommaList = ()
    """Models that lost; any without it."""
    type: Literal["win", "tie", "bothbad", "all"] = "win"
    """Votes with a winner, ties, those in which both were bad, or all."""
    limit: int | None = None
    """Show at most so many."""
    debug: bool = False
    """Show tracebacks."""


def inspect_conv(settings: InspectConvSettings) -> None:
    """Prints the votes; stops after each one only on a terminal."""
    if settings.limit is not None and settings.limit < 1:
        raise UsageError(f"--limit {settings.limit} is below 1.")
    shown, left_out = 0, Counter[str]()
    for event in _votes(settings, left_out):
        if shown == settings.limit:
            break
        shown += 1
        print("\n".join(lines_of(event, shown)))
        if sys.stdin.isatty() and input("Enter: next, q: end ").strip().lower() == "q":
            break
    print(f"shown: {shown} votes")
    for reason, n in left_out.most_common():
        print(f"left out, {reason}: {n}")


def _votes(settings: InspectConvSettings, left_out: Counter[str]) -> "Iterator[Event]":
    """The votes that were asked for; lines that are no event are counted by reason.

    Raises:
        DataError: there are lines, and none is an event.
    """
    from fastchat.arena.events import VOTES, Unread
    from fastchat.arena.sources import events_of

    n_events = 0
    for event in events_of(settings.source):
        if isinstance(event, Unread):
            left_out[event.reason] += 1
            continue
        n_events += 1
        if event.type in VOTES and _is_wanted(event, settings):
            yield event
    if left_out and not n_events:
        reasons = ", ".join(f"{reason} {n}" for reason, n in left_out.most_common())
        raise DataError(f"{settings.source} holds no event of a log: {reasons}.")


def _is_wanted(event: "Event", settings: InspectConvSettings) -> bool:
    kinds = {"leftvote": "win", "rightvote": "win", "tievote": "tie", "bothbad_vote": "bothbad"}
    if settings.type not in ("all", kinds[event.type]):
        return False
    first, second = (state.model_name or "" for state in event.states)
    orders = [(first, second), (second, first)]
    if event.type in ("leftvote", "rightvote"):
        orders = [orders[event.type == "rightvote"]]
    return any(
        (not settings.winner or winner in settings.winner)
        and (not settings.loser or loser in settings.loser)
        for winner, loser in orders
    )


def lines_of(event: "Event", number: int) -> list[str]:
    """A vote in words."""
    import datetime

    moment = datetime.datetime.fromtimestamp(event.tstamp, datetime.UTC)
    voter = " of a judge" if event.is_of_judge else ""
    lines = ["=" * 72, f"{number}. {event.type}{voter}, {moment:%Y-%m-%d %H:%M:%S UTC}"]
    for letter, state in zip("AB", event.states, strict=True):
        lines += ["", f"--- {letter}: {state.model_name} (conversation {state.conv_id})"]
        lines += [f"[{role}] {content}" for role, content in state.messages[state.offset :]]
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        InspectConvSettings,
        inspect_conv,
        argv,
        prog="python3 -m fastchat.serve.monitor.inspect_conv",
    )


if __name__ == "__main__":
    raise SystemExit(main())
