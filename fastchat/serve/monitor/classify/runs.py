"""One run of labelling: what is there already, what is asked, what is written."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from fastchat.arena.row_files import read_rows, write_rows
from fastchat.arena.scratch import RowSpool, Scratch, digest
from fastchat.arena.sources import battle_rows
from fastchat.errors import DataError
from fastchat.llm_judge.asking import Cache, Model, Reply, Request
from fastchat.serve.monitor.classify.labelling import Labelling, label_all, row_id
from fastchat.serve.monitor.classify.pictures import picture_names


class SharedCache(Cache):
    """Replies that several models keep together; the first that closes it closes it for all."""

    _is_closed = False

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            super().close()


class Rotation:
    """Several endpoints of one model, asked in turn."""

    def __init__(self, models: list[Model]) -> None:
        self._models = models
        self._next = 0
        self.name = models[0].name
        self.account = models[0].account

    async def ask(self, request: Request) -> Reply:
        """The reply of the next endpoint."""
        model = self._models[self._next % len(self._models)]
        self._next += 1
        return await model.ask(request)

    async def close(self) -> None:
        for model in self._models:
            await model.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRun:
    """Files of a run."""

    input: str
    output: Path
    """JSON Lines; rows in it are done."""
    cache: Path | None = None
    """Rows of another run, whose labels are taken."""
    first_n: int | None = None
    with_pictures: bool = False
    """Only rows with a picture, where otherwise those without."""

    def __post_init__(self) -> None:
        if self.output.suffix != ".jsonl":
            raise DataError(
                f"the output {self.output} must end in .jsonl; rows are appended to it."
            )


def rows_to_label(
    run: LabelRun, labelling: Labelling, refused: Counter[str]
) -> Iterator[dict[str, Any]]:
    """The rows that lack a label, with what earlier runs gave; those complete by then are written.

    Raises:
        DataError: a file cannot be used.
    """
    with Scratch() as known, Scratch() as done, Scratch() as seen, RowSpool() as complete:
        for row in read_rows(run.cache, refused) if run.cache else ():
            _remember(known, row, labelling)
        for row in _held(run.output, refused):
            _remember(known, row, labelling)
            done.put(_key(row), bool(labelling.missing(row)))
        for row in battle_rows(run.input, refused):
            if bool(picture_names(row)) != run.with_pictures:
                refused["pictures"] += 1
            elif not seen.is_new(key := _key(row)):
                refused["duplicate"] += 1
            elif labelling.missing(row := row | _labels(known, row, labelling)):
                yield row
            elif done.get(key) != 0:  # not there, or not with all labels
                complete.append(row)
            if run.first_n is not None and len(seen) == run.first_n:
                break
        if len(complete):
            write_rows(run.output, itertools.chain(_held(run.output, Counter()), complete))


def _held(path: Path, refused: Counter[str]) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from read_rows(path, refused)


def _key(row: Mapping[str, Any]) -> bytes:
    return digest(row_id(row))


def _remember(known: Scratch, row: Mapping[str, Any], labelling: Labelling) -> None:
    """Keeps the labels of a row; later ones come before earlier ones."""
    if isinstance(given := row.get(labelling.tag), dict):
        before = orjson.loads(known.get(_key(row)) or "{}")
        known.put(_key(row), orjson.dumps(before | given))


def _labels(known: Scratch, row: Mapping[str, Any], labelling: Labelling) -> dict[str, Any]:
    """The field of labels with those of earlier runs; the row's own come first."""
    before: dict[str, Any] = orjson.loads(known.get(_key(row)) or "{}")
    own = row.get(labelling.tag)
    made = before | (own if isinstance(own, dict) else {})
    return {labelling.tag: made} if made else {}


def _newest(path: Path) -> Iterator[dict[str, Any]]:
    """The last row of each key."""
    with Scratch() as last:
        for number, row in enumerate(_held(path, Counter())):
            last.put(_key(row), number)
        for number, row in enumerate(_held(path, Counter())):
            if last.get(_key(row)) == number:
                yield row


async def run_labels(
    run: LabelRun,
    labelling: Labelling,
    model: Model,
    *,
    parallel: int,
    error_output: Path | None = None,
    to_json: bool = False,
) -> tuple[int, int, list[str]]:
    """Labels what lacks labels: rows that are done, rows that are not, and what to tell."""
    refused: Counter[str] = Counter()
    try:
        with RowSpool(rows_to_label(run, labelling, refused)) as rows:
            n_rows = len(rows)
            outcome = await label_all(
                rows, labelling, model, run.output, parallel=parallel, error_output=error_output
            )
    finally:
        await model.close()
    n_done = write_rows(run.output, _newest(run.output))
    if to_json:
        write_rows(run.output.with_suffix(".json"), _held(run.output, Counter()))
    told = [f"left out, {reason}: {n}" for reason, n in refused.most_common()]
    told += outcome.report("Run the same command again: only what is missing is asked.")
    return n_done, n_rows - outcome.n_done, told
