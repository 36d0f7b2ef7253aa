"""A benchmark in one YAML file: its questions, and how their answers are scored."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fastchat.errors import DataError
from fastchat.llm_judge.endpoints import Endpoint
from fastchat.llm_judge.lines import read_rows
from fastchat.llm_judge.records import Question
from fastchat.llm_judge.scoring import Judged, Scoring


class Part(BaseModel):
    """A mapping of the file; names that we do not know are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelPart(Part):
    """A model that answers or judges: in this process, or behind a server."""

    name: str = Field(min_length=1)
    """Under which its results stand."""
    model_path: str | None = None
    """Folder or hub id of a model in this process."""
    device: str = "auto"
    api_base: str | None = None
    """Base URL of a server; by default that of the flags."""
    api_key_env: str | None = None
    """Environment variable with the server's key."""
    model_name: str | None = None
    """The server's own name of the model."""
    price_input: float | None = None
    price_output: float | None = None

    @property
    def shown(self) -> dict[str, str]:
        """What a manifest says of it: no keys, and no secrets in addresses."""
        place = Endpoint(api_base=self.api_base).shown if self.api_base else None
        held = {"name": self.name, "model_path": self.model_path, "endpoint": place}
        return {name: value for name, value in held.items() if value}

    @model_validator(mode="after")
    def _one_place(self) -> "ModelPart":
        if self.model_path and self.api_base:
            raise ValueError("give model_path or api_base, not both")
        return self


class PromptPart(Part):
    """What a judge is told; gaps: conversation, question, answer, reference."""

    system: str = ""
    template: str


class CategoryPart(Part):
    """What the questions of a category share."""

    scoring: Scoring | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)


class QuestionPart(Part):
    """A question of one or more turns."""

    id: int | None = None
    category: str = "general"
    turns: tuple[str, ...] = Field(min_length=1)
    reference: tuple[str, ...] | None = None
    scoring: Scoring | tuple[Scoring | None, ...] | None = None
    """One rule for every turn, or a list of one for each, null for none."""
    temperature: float | None = Field(default=None, ge=0, le=2)

    @model_validator(mode="after")
    def _fits(self) -> "QuestionPart":
        for name, held in (("reference", self.reference), ("scoring", self.scoring)):
            if isinstance(held, tuple) and len(held) != len(self.turns):
                raise ValueError(f"{len(held)} {name} for {len(self.turns)} turns")
        return self


class BenchmarkFile(Part):
    """The whole file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    """Of the folder in the data folder."""
    description: str = ""
    system_message: str = ""
    """Said to every model before the first turn."""
    turn_template: str = "{turn}"
    """Around every message of the user."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    max_tokens: int = Field(default=1024, ge=1)
    scoring: Scoring = Field(default_factory=lambda: Judged(kind="judge"))
    """Where neither the question nor its category says."""
    prompts: dict[str, PromptPart] = Field(default_factory=dict)
    categories: dict[str, CategoryPart] = Field(default_factory=dict)
    models: tuple[ModelPart, ...] = ()
    judge: ModelPart | None = None
    questions: tuple[QuestionPart, ...] = ()
    questions_file: Path | None = None
    """JSON lines with the same fields, or those of question.jsonl; beside this file."""

    @model_validator(mode="after")
    def _is_whole(self) -> "BenchmarkFile":
        if "{turn}" not in self.turn_template:
            raise ValueError("turn_template must hold {turn}")
        ids = [number for number, _ in self.numbered()]
        if len(set(ids)) != len(ids):
            raise ValueError("two questions have the same id")
        names = [model.name for model in self.models]
        if len(set(names)) != len(names):
            raise ValueError("two models have the same name")
        for number, question in self.numbered():
            for turn in range(len(question.turns)):
                self._check_rule(number, question, turn)
        return self

    def _check_rule(self, number: int, question: QuestionPart, turn: int) -> None:
        rule = self.rule(question, turn)
        if isinstance(rule, Judged) and rule.prompt and rule.prompt not in self.prompts:
            raise ValueError(f"question {number}: there is no prompt {rule.prompt}")
        if rule and rule.kind == "exact" and not any(question.reference or ()):
            raise ValueError(f"question {number}: exact match needs a reference")

    def numbered(self) -> list[tuple[int, QuestionPart]]:
        """The questions with their ids; those without one are numbered by their place."""
        return [
            (place if part.id is None else part.id, part)
            for place, part in enumerate(self.questions, 1)
        ]

    def rule(self, question: QuestionPart, turn: int) -> Scoring | None:
        """How the answer to a turn, counted from 0, is scored; None where it is not.

        An exact match without a reference for that turn is no match to make.
        """
        if isinstance(question.scoring, tuple):
            return question.scoring[turn]
        category = self.categories.get(question.category)
        rule = question.scoring or (category.scoring if category else None) or self.scoring
        if rule.kind == "exact" and any(question.reference or ()):
            return rule if (question.reference or ())[turn] else None
        return rule

    def rows(self) -> list[Question]:
        """The questions as the published file holds them."""
        return [self._row(number, part) for number, part in self.numbered()]

    def _row(self, number: int, part: QuestionPart) -> Question:
        category = self.categories.get(part.category)
        given = [part.temperature, category.temperature if category else None, self.temperature]
        value: dict[str, Any] = {
            "question_id": number,
            "category": part.category,
            "turns": [self.turn_template.replace("{turn}", turn) for turn in part.turns],
            "required_temperature": next(t for t in given if t is not None),
        }
        if part.reference:
            value["reference"] = part.reference
        return Question.model_validate(value)


def load_benchmark(path: Path) -> BenchmarkFile:
    """Reads and checks the file.

    Raises:
        DataError: it cannot be read, is no YAML, or says what cannot be; with the place.
    """
    import yaml

    try:
        value = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(f"--config {path}: cannot be read ({error.strerror}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"--config {path}: no YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(value, dict):
        raise DataError(f"--config {path}: the file must hold a mapping with name and questions.")
    name, own = value.get("questions_file"), value.get("questions") or []
    if isinstance(name, str) and isinstance(own, list):
        value = {**value, "questions": [*own, *_more(path.parent / name)]}
    try:
        made = BenchmarkFile.model_validate(value)
    except ValidationError as error:
        raise DataError(f"--config {path}: {_told(error.errors())}") from None
    if not made.questions:
        raise DataError(f"--config {path}: there are no questions.")
    return made


def _more(path: Path) -> list[dict[str, Any]]:
    """Questions of a file of JSON lines, ours or the published."""
    if not path.is_file():
        raise DataError(f"questions_file {path}: there is no such file.")
    held = read_rows(path, _Loose, id)
    if held.faults or held.n_torn:
        raise DataError(f"questions_file {path}: {(*held.faults, 'a line is no JSON')[0]}.")
    return [_published(row.model_dump()) for row in held.rows]


class _Loose(BaseModel):
    model_config = ConfigDict(extra="allow")


def _published(row: dict[str, Any]) -> dict[str, Any]:
    names = {"question_id": "id", "required_temperature": "temperature"}
    return {names.get(name, name): value for name, value in row.items()}


def _told(errors: Sequence[Mapping[str, Any]]) -> str:
    """The first fault with its place, and how many more there are."""
    first = errors[0]
    place = ".".join(map(str, first["loc"])) or "the file"
    message = str(first["msg"]).removeprefix("Value error, ")
    more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{place}: {message}{more}."
