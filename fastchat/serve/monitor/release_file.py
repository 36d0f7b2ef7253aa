"""The file that says what is released and how: TOML, checked before anything is read."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic

from fastchat.arena.release import ReleaseRules
from fastchat.errors import DataError


class Join(pydantic.BaseModel):
    """Fields of another file that are added by the row's id."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    file: str
    fields: list[str] = pydantic.Field(min_length=1)


class ReleaseFile(pydantic.BaseModel):
    """One release."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    input: list[str] = pydantic.Field(min_length=1)
    output_dir: str = "release"
    name: str = pydantic.Field(default="arena", pattern=r"^\w[\w.-]*$")
    format: Literal["json", "jsonl", "parquet", "csv"] = "jsonl"
    preset: str | None = None
    sample: int | None = pydantic.Field(default=None, ge=1)
    seed: int = 42
    block_models: list[str] = []
    block_words: list[str] = []
    block_words_file: str | None = None
    languages: list[str] = []
    drop_flagged: bool = True
    drop_short: bool = False
    drop_frequent: int = pydantic.Field(default=0, ge=0)
    drop_fields: list[str] = []
    redact: bool = True
    redaction_file: str | None = None
    key_file: str | None = None
    merge: list[Join] = []

    def rules(self) -> ReleaseRules:
        """What the steps need of it.

        Raises:
            DataError: the file of blocked words cannot be read.
        """
        words = list(self.block_words)
        if self.block_words_file:
            try:
                words += Path(self.block_words_file).read_text("utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                name = self.block_words_file
                raise DataError(f"block_words_file {name} cannot be read: {error}.") from None
        return ReleaseRules(
            sample=self.sample,
            seed=self.seed,
            block_models=frozenset(self.block_models),
            block_words=tuple(words),
            drop_flagged=self.drop_flagged,
            drop_short=self.drop_short,
            drop_frequent=self.drop_frequent,
            drop_fields=frozenset(self.drop_fields),
            languages=frozenset(self.languages),
        )


def read_release_file(path: Path, presets: Mapping[str, Mapping[str, Any]]) -> ReleaseFile:
    """The release of a file; what it does not say comes from its preset.

    Raises:
        DataError: the file is missing or not what it should be; the message says where.
    """
    try:
        own = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--config {path} cannot be read: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"--config {path} is no TOML: {error}.") from None
    name = own.get("preset")
    if name is not None and name not in presets:
        known = ", ".join(sorted(presets))
        raise DataError(f"{path.name}: preset {name!r} is not known; known are {known}.")
    try:
        return ReleaseFile.model_validate({**presets.get(name or "", {}), **own})
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path.name}: {where}: {first['msg']}.") from None
