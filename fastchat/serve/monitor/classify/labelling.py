"""Labels rows by tasks, many at once; each row is kept as soon as its labels are there.

Only tasks that a row does not have yet are asked, so that a run that was broken off goes on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fastchat.arena.release import prompts
from fastchat.arena.scratch import RowSpool
from fastchat.errors import FastChatError, ModelError
from fastchat.llm_judge.asking import Model, Request
from fastchat.llm_judge.lines import Appender
from fastchat.llm_judge.running import Outcome, run_all
from fastchat.message import Message
from fastchat.serve.monitor.classify.tasks import Task

TAG = "category_tag"


class Pictures(Protocol):
    """Where pictures of a row are."""

    def of(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """As `data:` addresses."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelling:
    """How rows are labelled."""

    tasks: tuple[Task, ...]
    temperature: float = 0.0
    max_tokens: int = 512
    pictures: Pictures | None = None
    bare_tag: str | None = None
    """Field that gets the labels of the one task themselves, instead of `category_tag`."""

    @property
    def tag(self) -> str:
        """The field that holds the labels."""
        return self.bare_tag or TAG

    def missing(self, row: Mapping[str, Any]) -> list[Task]:
        """The tasks that the row has no labels of."""
        if self.bare_tag is not None:
            return [] if isinstance(row.get(self.bare_tag), dict) else list(self.tasks)
        known = row.get(TAG)
        return [t for t in self.tasks if not isinstance(known, dict) or t.name not in known]

    async def labelled(self, row: Mapping[str, Any], model: Model) -> dict[str, Any]:
        """The row with the labels of all tasks.

        Raises FastChatError when a reply cannot be had or read; the labels before it are lost
        with it, but the cache of replies keeps what they cost.
        """
        if self.bare_tag is not None:
            return {**row, self.bare_tag: await self._ask(self.tasks[0], row, model)}
        known = row.get(TAG)
        tags: dict[str, Any] = dict(known) if isinstance(known, dict) else {}
        for task in self.missing(row):
            tags[task.name] = await self._ask(task, row, model)
        return {**row, TAG: tags}

    async def _ask(self, task: Task, row: Mapping[str, Any], model: Model) -> dict[str, Any]:
        images = self.pictures.of(row) if self.pictures and task.is_vision else ()
        message = Message(role="user", text=task.ask("\n".join(prompts(row))), images=images)
        for seed in (None, 1):  # what cannot be read is asked once more
            reply = await model.ask(
                Request(
                    messages=(message,),
                    temperature=self.temperature,
                    max_tokens=self.max_tokens,
                    seed=seed,
                )
            )
            if (labels := task.labels(reply.text)) is not None:
                return labels
        raise ModelError(f"{task.name}: the reply holds no answer")


def row_id(row: Mapping[str, Any]) -> str:
    """The published key of a row: its question and its moment."""
    return f"{row.get('question_id', row.get('conversation_id', ''))} {row.get('tstamp', '')}"


async def label_all(
    rows: RowSpool,
    labelling: Labelling,
    model: Model,
    output: Path,
    *,
    parallel: int,
    error_output: Path | None = None,
) -> Outcome:
    """Labels the rows and appends each to `output`; those that fail go to `error_output`."""
    errors = Appender(error_output) if error_output else None

    with Appender(output) as file:

        async def work(number: int) -> None:
            row = rows[number]
            try:
                file.write(await labelling.labelled(row, model))
            except FastChatError as error:
                if errors:
                    errors.write({**row, "error": error.message})
                raise

        try:
            return await run_all(
                range(len(rows)),
                work,
                name_of=lambda number: row_id(rows[number]),
                concurrency=parallel,
            )
        finally:
            if errors:
                errors.close()
