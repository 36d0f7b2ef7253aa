"""Answers the table of questions with a checkpoint, on as many accelerators as there are copies.

python3 -m fastchat.eval.get_model_answer --model-path vicuna-tiny --model-id vicuna-tiny:1
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastchat.errors import UsageError
from fastchat.llm_judge.extras import needing_extras
from fastchat.settings import run_command

PROG = "python3 -m fastchat.eval.get_model_answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAnswerSettings:
    """Answers a table of questions; a second run answers what is missing."""

    model_path: str = ""
    """Must be given: folder or hub id; `vicuna-tiny` is the model that ships in the package."""
    model_id: str = ""
    """Must be given: name and version in the table."""
    question_file: Path = Path("table/question.jsonl")
    """Table of questions; `table/question.jsonl` ships with the package."""
    answer_file: Path = Path("answer.jsonl")
    """Table of answers to write."""
    num_gpus: int = 1
    """Copies of the model, each on an accelerator of its own; more than one by ray."""
    temperature: float = 0.7
    """How freely it answers; 0 always takes the most probable token."""
    max_new_tokens: int = 1024
    """Longest answer, in tokens."""
    device: Literal["auto", "cpu", "cuda", "mps", "xpu", "npu"] = "auto"
    """Where it runs."""
    debug: bool = False
    """Show tracebacks."""


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0 when every question has an answer."""
    return run_command(ModelAnswerSettings, needing_extras(_run), argv, prog=PROG)


def _run(settings: ModelAnswerSettings) -> int:
    from fastchat.eval.answering import AnswerPlan
    from fastchat.eval.checkpoint import answer_with
    from fastchat.eval.tables import Question, read_table
    from fastchat.model.load import ModelSettings

    for name in ("model_path", "model_id"):
        if not getattr(settings, name):
            raise UsageError(f"Give --{name.replace('_', '-')}.")
    plan = AnswerPlan(
        questions=read_table(settings.question_file, Question),
        model_id=settings.model_id,
        path=settings.answer_file,
        temperature=settings.temperature,
        max_tokens=settings.max_new_tokens,
        metadata={"temperature": settings.temperature, "max_new_tokens": settings.max_new_tokens},
    )
    model = ModelSettings(model_path=settings.model_path, device=settings.device)
    return answer_with(model, plan, n_copies=settings.num_gpus)


if __name__ == "__main__":
    sys.exit(main())
