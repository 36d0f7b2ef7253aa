"""Words that decide about a battle: names that give a model away, error texts, old names."""

import functools
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pydantic

from fastchat.errors import DataError
from fastchat.protocol.errors import SERVER_ERROR_MSG

_SENTENCE = re.compile(r"[.!?\n。！？]+\s")


class _Identity(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    words: list[str]
    ambiguous: list[str]
    self_reference: list[str]


class _Errors(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    texts: list[str]
    unfinished: list[str]


class _Data(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    identity: _Identity
    errors: _Errors
    renames: dict[str, str]
    dated_renames: dict[str, tuple[float, str, str]]


@dataclass(frozen=True, slots=True)
class Wording:
    """The words of `cleaning.toml`, ready to be looked for."""

    data: _Data
    _any: re.Pattern[str]
    _self: re.Pattern[str]

    def name(self, model: str, tstamp: float) -> str:
        """What the model is called today that was called `model` at `tstamp`."""
        if dated := self.data.dated_renames.get(model):
            moment, before, after = dated
            return after if tstamp > moment else before
        return self.data.renames.get(model, model)

    def words_within(self, texts: Sequence[str]) -> list[str]:
        """Identity words anywhere in the texts, as parts of words too: the published rule."""
        text = "\n".join(texts).lower()
        return [word for word in self.data.identity.words if word in text]

    def leaks(self, answers: Sequence[str]) -> list[str]:
        """Whole identity words that give a model away.

        A word with another meaning does so only in a sentence in which a model speaks of itself.
        """
        text = "\n".join(answers).lower().replace("’", "'")
        if not (found := set(self._any.findall(text))):
            return []
        ambiguous = found & set(self.data.identity.ambiguous)
        sure = found - ambiguous
        if ambiguous:
            for sentence in _SENTENCE.split(text):
                if self._self.search(sentence):
                    sure |= ambiguous & set(self._any.findall(sentence))
        return sorted(sure)

    def is_error(self, texts: Sequence[str]) -> bool:
        """Whether an answer is the text of an error, ours or a published one."""
        text = "\n".join(texts).lower()
        return any(error in text for error in (*self.data.errors.texts, SERVER_ERROR_MSG.lower()))

    def is_unfinished(self, texts: Sequence[str]) -> bool:
        """Whether the mark of an answer that is still being written stands in the texts."""
        return any(mark in text for mark in self.data.errors.unfinished for text in texts)


@functools.cache
def wording() -> Wording:
    """The words that ship."""
    text = resources.files("fastchat.arena").joinpath("cleaning.toml").read_text("utf-8")
    return _wording(text, "cleaning.toml")


def read_wording(path: Path) -> Wording:
    """The words of a person's own file, laid out as `cleaning.toml`.

    Raises:
        DataError: the file is missing or not what it should be.
    """
    try:
        return _wording(path.read_text("utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None


def _wording(text: str, name: str) -> Wording:
    try:
        data = _Data.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{name} is no TOML: {error}.") from None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{name}: {where}: {first['msg']}.") from None
    words = sorted(data.identity.words, key=len, reverse=True)
    return Wording(data, _whole(words), _any_of(data.identity.self_reference))


def _whole(words: Sequence[str]) -> re.Pattern[str]:
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, words)) + r")(?!\w)")


def _any_of(parts: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, parts)))
