"""Votes on pairs by people and judges, from vote files or judgment files."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from fastchat.errors import DataError
from fastchat.llm_judge.folders import read_pairs
from fastchat.llm_judge.jury import in_order

Label = Literal["model_a", "model_b", "tie"]

GPT4 = "gpt4-pair"
HUMAN = "human"
"""Published: experts; the authors' own votes are another judge, `author`."""


class Vote(BaseModel):
    """Who preferred what. Fields that are not named here are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    question_id: int
    model_a: str
    model_b: str
    winner: str
    judge: str | tuple[str, ...]
    turn: int

    @property
    def judge_name(self) -> str:
        """The kind of judge: all experts are one, and so are all names of the GPT-4 judge."""
        name = self.judge if isinstance(self.judge, str) else self.judge[0]
        if name.startswith("expert"):
            return HUMAN
        if name.startswith("author"):
            return "author"
        if name in ("gpt4_pair", "gpt4-pair", "gpt-4"):
            return GPT4
        return name

    @property
    def label(self) -> Label | None:
        """Who won, with the models in the order of their names; None without a verdict.

        Published: every label that contains "tie" is a tie.
        """
        if "tie" in self.winner:
            return "tie"
        if self.winner not in ("model_a", "model_b"):
            return None
        is_first = (self.winner == "model_a") == (self.model_a <= self.model_b)
        return "model_a" if is_first else "model_b"

    @property
    def pair(self) -> tuple[int, str, str]:
        """What was voted on, the turn aside."""
        first, second = sorted((self.model_a, self.model_b))
        return (self.question_id, first, second)


def read_votes(paths: Iterable[Path]) -> tuple[list[Vote], list[str]]:
    """All votes of the files, and what was wrong with them.

    A file is a JSON list, JSON lines, or a judgment file of pairs.

    Raises:
        DataError: a file cannot be read, or holds no vote.
    """
    votes: list[Vote] = []
    notes: list[str] = []
    for path in paths:
        values = _values(path)
        if values and "g1_winner" in values[0]:
            held = read_pairs(path)
            notes += held.report()
            votes += [
                Vote(
                    question_id=row.question_id,
                    model_a=row.model_1,
                    model_b=row.model_2,
                    winner=row.winner.replace("_1", "_a").replace("_2", "_b"),
                    judge=row.judge[0],
                    turn=row.turn,
                )
                for row in map(in_order, held.rows)
            ]
            continue
        n_before, faults = len(votes), 0
        for value in values:
            try:
                votes.append(Vote.model_validate(value))
            except ValidationError:
                faults += 1
        if faults:
            notes.append(f"{path.name}: {faults} rows are no votes and were left out")
        if len(votes) == n_before:
            raise DataError(f"{path}: holds no vote (question_id, model_a, model_b, winner, …).")
    return votes, notes


def _values(path: Path) -> Sequence[dict[str, object]]:
    """The objects of a JSON list or of JSON lines."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    try:
        if data.lstrip().startswith(b"["):
            found = orjson.loads(data)
        else:
            found = [orjson.loads(line) for line in data.splitlines() if line.strip()]
    except orjson.JSONDecodeError:
        raise DataError(f"{path}: is neither a JSON list nor JSON lines.") from None
    return [value for value in found if isinstance(value, dict)]
