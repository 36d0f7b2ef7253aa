"""Many pieces of work at once, each kept as it comes; failures are counted, not raised."""

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from fastchat.errors import FastChatError, UnavailableError
from fastchat.llm_judge.account import CeilingError
from fastchat.llm_judge.asking import RefusedError

T = TypeVar("T")

SHOWN = 5


@dataclass(slots=True, kw_only=True)
class Outcome:
    """How a run over many pieces of work ended."""

    n_done: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Which piece, and why."""
    stopped: FastChatError | None = None
    """What ended the run before its end."""

    def report(self, remedy: str) -> list[str]:
        """What a person should know; empty when everything was done."""
        lines: list[str] = []
        for reason, count in Counter(reason for _, reason in self.failures).most_common():
            which = [name for name, why in self.failures if why == reason]
            more = f" and {len(which) - SHOWN} more" if len(which) > SHOWN else ""
            lines.append(f"{count} failed: {reason} ({', '.join(which[:SHOWN])}{more})")
        if self.stopped:
            lines.append(self.stopped.message)
        return [*lines, remedy] if lines else []


async def run_all(
    items: Sequence[T],
    work: Callable[[T], Awaitable[None]],
    *,
    name_of: Callable[[T], str],
    concurrency: int,
    is_quiet: bool = False,
) -> Outcome:
    """Does `work` on every item, `concurrency` at a time.

    A refused key, a reached ceiling or an endpoint that is dead ends the run: what is in the air
    comes to its end, nothing new begins.
    """
    outcome = Outcome()
    patience = max(8, 2 * concurrency)
    waiting = iter(items)
    failed_in_a_row = 0

    async def worker(advance: Callable[[], None]) -> None:
        nonlocal failed_in_a_row
        for item in waiting:
            if outcome.stopped:
                return
            try:
                await work(item)
                outcome.n_done += 1
                failed_in_a_row = 0
            except (RefusedError, CeilingError) as error:
                outcome.stopped = error
            except FastChatError as error:
                outcome.failures.append((name_of(item), error.message))
                failed_in_a_row += isinstance(error, UnavailableError)
                if failed_in_a_row >= patience and not outcome.stopped:
                    outcome.stopped = UnavailableError(
                        f"Stopped after {failed_in_a_row} failures without an answer."
                    )
            advance()

    with _progress(len(items), is_quiet=is_quiet) as advance:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(items))):
                group.create_task(worker(advance))
    return outcome


def say(lines: Iterable[str]) -> None:
    """Tells what a person should know, beside a command's result."""
    for line in lines:
        print(line, file=sys.stderr)


@contextmanager
def _progress(total: int, *, is_quiet: bool) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, nothing elsewhere."""
    if is_quiet or not total or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)
