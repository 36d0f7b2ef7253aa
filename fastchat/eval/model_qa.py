"""Answers the table of questions with a checkpoint in this process.

python3 -m fastchat.eval.model_qa --model-name vicuna-tiny --answer-file answer_vicuna.jsonl
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastchat.llm_judge.extras import needing_extras
from fastchat.model.load import ModelSettings
from fastchat.settings import Group, alias, run_command

PROG = "python3 -m fastchat.eval.model_qa"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSettings(ModelSettings):
    """Which model, under the flags that named it here."""

    model_path: Annotated[str, alias("--model", "--model-name")] = "vicuna-tiny"
    """Folder or hub id; `vicuna-tiny` is the model that ships in the package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelQaSettings:
    """Answers a table of questions with a checkpoint; a second run answers what is missing."""

    question_file: Annotated[Path, alias("-q")] = Path("tables/question.jsonl")
    """Table of questions; `tables/question.jsonl` ships with the package."""
    answer_file: Annotated[Path, alias("-o")] = Path("answer.jsonl")
    """Table of answers to write."""
    model_id: str | None = None
    """Name and version in the table; by default the checkpoint's name."""
    temperature: float = 0.7
    """How freely it answers; 0 always takes the most probable token."""
    max_new_tokens: int = 1024
    """Longest answer, in tokens."""
    debug: bool = False
    """Show tracebacks."""
    model: Group[CheckpointSettings] = field(default_factory=CheckpointSettings)


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0 when every question has an answer."""
    return run_command(ModelQaSettings, needing_extras(_run), argv, prog=PROG)


def _run(settings: ModelQaSettings) -> int:
    from fastchat.eval.answering import AnswerPlan
    from fastchat.eval.checkpoint import answer_with
    from fastchat.eval.tables import Question, read_table

    sampling = {
        "do_sample": settings.temperature > 0,
        "temperature": settings.temperature,
        "max_new_tokens": settings.max_new_tokens,
    }
    plan = AnswerPlan(
        questions=read_table(settings.question_file, Question),
        model_id=settings.model_id or Path(settings.model.model_path).name,
        path=settings.answer_file,
        temperature=settings.temperature,
        max_tokens=settings.max_new_tokens,
        metadata={"huggingface_argument": sampling},
    )
    return answer_with(settings.model, plan)


if __name__ == "__main__":
    sys.exit(main())
