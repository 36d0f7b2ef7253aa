"""The published table of models: who made them, under which licence, and scores elsewhere."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastchat.errors import DataError

MISSING = ("", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """One row of the table; empty where it does not tell."""

    key: str
    name: str
    organization: str = ""
    license: str = ""
    link: str = ""
    knowledge_cutoff: str = ""
    arena_rating: float | None = None
    mt_bench: float | None = None
    mt_bench_win_rate: float | None = None
    """Per cent."""
    mmlu: float | None = None
    """Share of right answers, 0 to 1."""
    deprecated: bool = False


def read_model_table(path: Path) -> Mapping[str, ModelInfo]:
    """The rows of a published leaderboard table, by key; quoted commas are part of their field.

    Raises:
        DataError: the file cannot be read, has no column `key`, or a number is none.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            if "key" not in (reader.fieldnames or ()):
                raise DataError(f"{path.name} has no column key; it begins {reader.fieldnames}.")
            return {info.key: info for info in (_info(row, path.name) for row in reader)}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None


def _info(row: Mapping[str, str | None], file: str) -> ModelInfo:
    def text(name: str) -> str:
        value = (row.get(name) or "").strip()
        return "" if value in MISSING else value

    def number(name: str) -> float | None:
        if not (value := text(name)):
            return None
        try:
            return float(value)
        except ValueError:
            raise DataError(f"{file}: {name} of {row['key']!r} is {value!r}.") from None

    key = text("key")
    link = text("Link")
    return ModelInfo(
        key=key,
        name=text("Model") or key,
        organization=text("Organization"),
        license=text("License"),
        link=link if link.startswith(("https://", "http://")) else "",
        knowledge_cutoff=text("Knowledge cutoff date"),
        arena_rating=number("Arena Elo rating"),
        mt_bench=number("MT-bench (score)"),
        mt_bench_win_rate=number("MT-bench (win rate %)"),
        mmlu=number("MMLU"),
        deprecated=text("Deprecated").lower() in ("1", "true", "yes"),
    )
