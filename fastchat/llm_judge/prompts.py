"""Judge prompts: data in judge_prompts.jsonl, chosen by mode, reference and turn."""

import hashlib
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import orjson
from pydantic import ConfigDict

from fastchat.errors import DataError
from fastchat.llm_judge.folders import PACKAGED
from fastchat.llm_judge.lines import read_rows
from fastchat.llm_judge.records import Row
from fastchat.llm_judge.verdicts import OutputFormat
from fastchat.message import Message

PROMPT_FILE = "judge_prompts.jsonl"

Kind = Literal["single", "pairwise"]

FIELDS = {
    ("single", 1): {"question", "answer"},
    ("single", 2): {"question_1", "question_2", "answer_1", "answer_2"},
    ("pairwise", 1): {"question", "answer_a", "answer_b"},
    ("pairwise", 2): {
        *("question_1", "question_2", "answer_a_1", "answer_b_1", "answer_a_2", "answer_b_2"),
    },
}
"""Published: what a template is filled with, by kind and turn, beside references."""


class JudgePrompt(Row):
    """How a judge is asked."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    type: Kind
    system_prompt: str
    prompt_template: str
    description: str = ""
    category: str = "general"
    output_format: OutputFormat

    @property
    def hash(self) -> str:
        """What changes when the judge is told something else."""
        told = orjson.dumps([self.system_prompt, self.prompt_template, self.output_format])
        return hashlib.sha256(told).hexdigest()[:16]

    def fields(self) -> set[str]:
        """Names of the template's gaps."""
        return {name for _, name, _, _ in string.Formatter().parse(self.prompt_template) if name}

    def fill(self, values: Mapping[str, str]) -> str:
        """What the judge is asked.

        Raises:
            DataError: the template has a gap that nothing fills.
        """
        try:
            return self.prompt_template.format_map(values)
        except (KeyError, IndexError, ValueError) as error:
            raise DataError(
                f"The judge prompt {self.name} asks for {error}; it may hold "
                f"{', '.join(sorted(values))}. Write a brace of the text twice."
            ) from None

    def messages(self, asked: str) -> tuple[Message, ...]:
        """The conversation that the judge answers."""
        user = Message(role="user", text=asked)
        if not self.system_prompt:
            return (user,)
        return (Message(role="system", text=self.system_prompt), user)


def prompt_name(mode: str, *, is_reference: bool, turn: int) -> str:
    """Published: the prompt of each of the four judges of a mode."""
    general, with_reference = (
        ("single-v1", "single-math-v1") if mode == "single" else ("pair-v2", "pair-math-v1")
    )
    name = with_reference if is_reference else general
    return name if turn == 1 else f"{name}-multi-turn"


def load_prompts(path: Path | None, data_dir: Path) -> dict[str, JudgePrompt]:
    """Prompts by name: those of the file, else of the data folder, else the shipped ones.

    Raises:
        DataError: the file is not there, or a row is no prompt.
    """
    if path is None:
        own = data_dir / PROMPT_FILE
        path = own if own.exists() else PACKAGED / PROMPT_FILE
    if not path.exists():
        raise DataError(f"--judge-file {path}: there is no such file.")
    held = read_rows(path, JudgePrompt, lambda prompt: prompt.name)
    if told := [*held.faults, *(held.report() if held.n_torn else [])]:
        raise DataError(f"{told[0]}. Correct the judge prompts first.")
    return {prompt.name: prompt for prompt in held.rows}
