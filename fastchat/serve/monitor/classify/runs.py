"""One run of labelling: what is there already, what is asked, what is written."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastchat.arena.row_files import read_rows, write_rows
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
) -> list[dict[str, Any]]:
    """The rows that lack a label, with what earlier runs gave; those complete by then are written.

    Raises:
        DataError: a file cannot be used.
    """
    done = {row_id(row): row for row in _held(run.output, refused)}
    known = {row_id(row): row for row in _held(run.cache, refused)} | done
    waiting: list[dict[str, Any]] = []
    complete: list[dict[str, Any]] = []
    seen: set[str] = set()
    for row in battle_rows(run.input, refused):
        if bool(picture_names(row)) != run.with_pictures:
            refused["pictures"] += 1
        elif (key := row_id(row)) in seen:
            refused["duplicate"] += 1
        else:
            seen.add(key)
            row = _with_labels(row, known.get(key), labelling)
            if labelling.missing(row):
                waiting.append(row)
            elif key not in done or labelling.missing(done[key]):
                complete.append(row)
        if run.first_n is not None and len(seen) == run.first_n:
            break
    if complete:
        write_rows(run.output, [*done.values(), *complete])
    return waiting


def _held(path: Path | None, refused: Counter[str]) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    return list(read_rows(path, refused))


def _with_labels(
    row: dict[str, Any], known: dict[str, Any] | None, labelling: Labelling
) -> dict[str, Any]:
    """The row with the labels of an earlier one of the same key."""
    if known is None:
        return row
    name = labelling.bare_tag or "category_tag"
    tags = [tag for tag in (known.get(name), row.get(name)) if isinstance(tag, dict)]
    return row | ({name: {k: v for tag in tags for k, v in tag.items()}} if tags else {})


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
    rows = rows_to_label(run, labelling, refused)
    run.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        outcome = await label_all(
            rows, labelling, model, run.output, parallel=parallel, error_output=error_output
        )
    finally:
        await model.close()
    newest = {row_id(row): row for row in _held(run.output, Counter())}
    write_rows(run.output, newest.values())
    if to_json:
        write_rows(run.output.with_suffix(".json"), newest.values())
    told = [f"left out, {reason}: {n}" for reason, n in refused.most_common()]
    told += outcome.report("Run the same command again: only what is missing is asked.")
    return len(newest), len(rows) - outcome.n_done, told
