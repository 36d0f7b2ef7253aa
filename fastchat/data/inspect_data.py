"""Shows records one message at a time, in a terminal or through a pipe."""

import dataclasses
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from fastchat.data.light import LightSettings
from fastchat.data.pipeline import Report, flow
from fastchat.data.records import Record
from fastchat.data.spool import Spool
from fastchat.errors import DataError, UsageError
from fastchat.settings import run_command

RULE = "=" * 40
HELP = "Enter: go on, n: next record, p: previous, /TEXT: search, q: quit"


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectDataSettings(LightSettings):
    """Shows records one message at a time. At a pause: Enter goes on, n and p go to the next and
    the previous record, /TEXT searches, q quits."""

    random_n: int | None = None
    """Show so many records, drawn at random."""
    seed: int | None = None
    """Seed of the draw; another one each time unless given."""
    id: str | None = None
    """Show only the record with this id."""
    no_pause: bool = False
    """Do not wait after each message; nor does it where no terminal is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A record with its place in the file."""

    number: int
    record: Record

    def messages(self) -> Iterator[str]:
        """The texts to show, the first with the heading."""
        heading = f"{RULE}\nno: {self.number}, id: {self.record.id}\n"
        turns = [(turn.speaker, turn.text) for turn in self.record.turns]
        if self.record.system is not None:
            turns.insert(0, ("system", self.record.system))
        for turns_of, name in ((self.record.chosen, "chosen"), (self.record.rejected, "rejected")):
            turns += [(f"{turn.speaker} ({name})", turn.text) for turn in turns_of or ()]
        if not turns:
            yield heading + "(no messages)"
        for i, (speaker, text) in enumerate(turns):
            yield heading * (i == 0) + f"{speaker}: \n{text}"

    def holds(self, text: str) -> bool:
        """Whether the id or a message holds the text, in letters of either case."""
        texts = (self.record.id, self.record.system or "", *(t.text for t in self.record.turns))
        return any(text.casefold() in one.casefold() for one in texts)


def browse(
    n_records: int,
    get: Callable[[int], Shown],
    *,
    ask: Callable[[], str],
    show: Callable[[str], None],
) -> None:
    """Shows records and does what `ask` answers after each message, until the last or `q`."""
    place = 0
    while 0 <= place < n_records:
        step = 1
        for message in get(place).messages():
            show(message)
            answer = ask().strip()
            if answer == "q":
                return
            if answer == "n":
                break
            if answer == "p":
                step = -1 if place else 0
                break
            if answer.startswith("/"):
                wanted = answer[1:]
                found = next((i for i in range(place + 1, n_records) if get(i).holds(wanted)), None)
                if found is not None:
                    step = found - place
                    break
                show(f"(no later record holds {wanted!r})")
            elif answer:
                show(f"({HELP})")
        place += step


def inspect_data(settings: InspectDataSettings) -> None:
    """Shows the records."""
    _check(settings)
    records = _records(settings)
    is_paused = not settings.no_pause and sys.stdin.isatty() and sys.stdout.isatty()
    if settings.id is not None:
        records = (one for one in records if one.record.id == settings.id)
    if not is_paused and settings.random_n is None:
        _show_all(records, wanted=settings.id)
        return
    with Spool() as spool:
        numbers: list[int] = []
        for one in records:
            spool.append(one.record)
            numbers.append(one.number)
        if settings.id is not None and not numbers:
            raise _no_such(settings.id)
        places = list(range(len(numbers)))
        if settings.random_n is not None:
            rng = random.Random(settings.seed)
            places = rng.sample(places, min(settings.random_n, len(places)))

        def get(i: int) -> Shown:
            return Shown(number=numbers[places[i]], record=spool[places[i]])

        if not is_paused:
            _show_all(map(get, range(len(places))), wanted=None)
            return
        print(HELP)
        browse(len(places), get, ask=_ask, show=print)


def _records(settings: InspectDataSettings) -> Iterator[Shown]:
    """The records with their places. Values that are none are counted at the end."""
    report = Report()
    begin = settings.begin or 0
    settings = dataclasses.replace(settings, quiet=True)
    for number, record in enumerate(flow(settings, [], report, need_id=False), start=max(begin, 0)):
        yield Shown(number=number, record=record)
    for reason, n in report.dropped.items():
        print(f"note: {n} values are no records: {reason}", file=sys.stderr)


def _show_all(records: Iterable[Shown], *, wanted: str | None) -> None:
    """Shows records without a pause; a reader that has seen enough ends it."""
    n_shown = 0
    try:
        for one in records:
            for message in one.messages():
                print(message)
            n_shown += 1
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the pipe has gone; nothing may be flushed into it at exit.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return
    if wanted is not None and not n_shown:
        raise _no_such(wanted)


def _ask() -> str:
    try:
        return input()
    except EOFError:
        return "q"


def _no_such(id: str) -> DataError:
    return DataError(f"no record has the id {id!r}.")


def _check(settings: InspectDataSettings) -> None:
    if settings.out_file is not None or settings.format is not None:
        raise UsageError("records are shown, not written; leave --out-file and --format out.")
    if settings.resume or settings.report:
        raise UsageError("--resume and --report have no meaning here; leave them out.")
    if settings.random_n is not None and settings.random_n < 1:
        raise UsageError(f"--random-n {settings.random_n} is too small; give 1 or more.")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        InspectDataSettings, inspect_data, argv, prog="python3 -m fastchat.data.inspect_data"
    )


if __name__ == "__main__":
    raise SystemExit(main())
