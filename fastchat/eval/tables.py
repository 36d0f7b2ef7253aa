"""The tables of the pipeline: files of JSON lines, checked row by row."""

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from fastchat.errors import DataError
from fastchat.llm_judge.lines import read_rows
from fastchat.llm_judge.records import FAILURES, Row

PACKAGED = Path(__file__).parent / "table"
FOLDERS = ("table", "tables")
"""Published: how the folder of tables was called, in this order of time."""

UNPARSED = (-1.0, -1.0)
"""Published: the score of a review that does not begin with two numbers."""


class Question(Row):
    """What every model is asked."""

    question_id: int
    text: str
    category: str


class Answer(Row):
    """A model's answer."""

    answer_id: str
    question_id: int
    model_id: str
    text: str
    metadata: dict[str, Any] = Field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether it is an answer, and not what a program wrote in place of one."""
        return self.text not in FAILURES


class Review(Row):
    """What a reviewer says of two answers, and the scores of the first and the second."""

    review_id: str
    question_id: int
    answer1_id: str
    answer2_id: str
    text: str
    score: tuple[float, float]
    reviewer_id: str
    metadata: dict[str, Any] = Field(default_factory=dict)

    @property
    def is_parsed(self) -> bool:
        return self.score != UNPARSED

    @property
    def key(self) -> tuple[object, ...]:
        return (self.question_id, self.answer1_id, self.answer2_id, self.reviewer_id)


class ModelRow(Row):
    """A model and its version."""

    model_id: str
    """Published: `NAME:VERSION`."""
    model_name: str
    model_version: str
    model_metadata: Any = None


class Prompt(Row):
    """How a reviewer is asked."""

    prompt_id: int
    system_prompt: str
    prompt_template: str
    """With the gaps question, answer_1, answer_2 and those of `defaults`."""
    defaults: dict[str, str] = Field(default_factory=dict)
    description: str = ""

    def fill(self, question: str, answer_1: str, answer_2: str) -> str:
        """What the reviewer is asked.

        Raises:
            DataError: the template has a gap that nothing fills.
        """
        values = {"question": question, "answer_1": answer_1, "answer_2": answer_2}
        try:
            return self.prompt_template.format_map({**self.defaults, **values})
        except (KeyError, IndexError, ValueError) as error:
            raise DataError(
                f"The template of prompt {self.prompt_id} asks for {error}; it may hold question, "
                "answer_1, answer_2 and what its defaults name. Write a brace of the text twice."
            ) from None


class ReviewerMetadata(Row):
    """How a reviewer is asked."""

    temperature: float = Field(default=0.2, ge=0, le=2)
    """Published: 0.2."""
    max_tokens: int | None = None


class Reviewer(Row):
    """Who reviews which questions, with which prompt."""

    reviewer_id: str
    prompt_id: int
    metadata: ReviewerMetadata = Field(default_factory=ReviewerMetadata)
    description: str = ""
    category: str = "general"


R = TypeVar("R", bound=Row)

KEYS: dict[type[Row], Callable[[Any], Hashable]] = {
    Question: lambda row: row.question_id,
    Answer: lambda row: row.question_id,
    Review: lambda row: row.key,
    ModelRow: lambda row: row.model_id,
    Prompt: lambda row: row.prompt_id,
    Reviewer: lambda row: row.reviewer_id,
}
"""What makes two rows of a table the same; the last one counts."""


def read_table(path: Path, kind: type[R]) -> tuple[R, ...]:
    """The rows of a table; a path that begins with `table/` is looked for in the package as well.

    Raises:
        DataError: there is no such file, it is empty, or a row lacks a field; with the line.
    """
    path = find_table(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such table.")
    held = read_rows(path, kind, KEYS[kind])
    if held.faults or held.n_torn:
        told = [*held.faults, *([f"{held.n_torn} lines are no JSON"] if held.n_torn else [])]
        raise DataError(f"{path}: {told[0]}. {len(told)} to correct in all.")
    if not held.rows:
        raise DataError(f"{path}: the table is empty.")
    return held.rows


def find_table(path: Path) -> Path:
    """The file itself, else the table of that name that ships with the package."""
    if path.exists() or path.is_absolute() or path.parts[0] not in FOLDERS:
        return path
    packaged = PACKAGED.joinpath(*path.parts[1:])
    return packaged if packaged.exists() else path
