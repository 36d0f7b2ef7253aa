"""Categories: which battles a board is made of. The rules are data, and anybody may add some."""

import functools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic

from fastchat.errors import DataError, UsageError

if TYPE_CHECKING:
    import polars as pl

CRITERIA = "criteria_v0.1."


class _Rules(pydantic.BaseModel):
    """The conditions of one category, as `categories.toml` explains them."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    title: str
    description: str = ""
    languages: list[str] = []
    min_user_tokens: int | None = None
    min_side_tokens: int | None = None
    min_turns: int | None = None
    tags: list[str] = []
    min_criteria: int | None = None
    code: bool | None = None
    refusals: bool | None = None
    ties: bool | None = None
    votes_per_user: int | None = None
    deduplicated: bool = False
    where: dict[str, str | int | float | bool] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """One category.

    key: its name in files and flags. needs: columns whose values its rules ask for.
    """

    key: str
    title: str
    description: str
    needs: tuple[str, ...]
    _rules: _Rules = field(repr=False)

    def select(self, battles: "pl.DataFrame") -> "pl.DataFrame":
        """The battles of the category; those of which it cannot be told are left out.

        battles: as of `battle_files`, in the order of time.
        """
        import polars as pl

        battles = battles.filter(*_conditions(self._rules))
        if (n := self._rules.votes_per_user) is not None:
            place = pl.int_range(pl.len()).over("judge")
            battles = battles.filter(pl.col("judge").is_null() | (place < n))
        return battles

    def missing(self, battles: "pl.DataFrame") -> list[str]:
        """What it needs and no battle tells; then it has no board."""
        if not battles.height:
            return []
        columns = battles.columns
        return [c for c in self.needs if c not in columns or battles[c].is_null().all()]


def _conditions(rules: _Rules) -> "list[pl.Expr]":
    """What must hold of a battle; a value that is not known does not hold."""
    import polars as pl

    found: list[pl.Expr] = []
    if rules.languages:
        found.append(pl.col("language").is_in(rules.languages))
    if rules.min_user_tokens is not None:
        found.append(pl.col("user_tokens") >= rules.min_user_tokens)
    if rules.min_side_tokens is not None:
        longest = pl.max_horizontal("side_tokens_a", "side_tokens_b")
        found.append(longest >= rules.min_side_tokens)
    if rules.min_turns is not None:
        found.append(pl.col("turn") >= rules.min_turns)
    found += [pl.col("tags").list.contains(tag) for tag in rules.tags]
    if rules.min_criteria is not None:
        met = pl.col("tags").list.eval(pl.element().str.starts_with(CRITERIA)).list.sum()
        found.append(met >= rules.min_criteria)
    if rules.code is not None:
        found.append(pl.col("is_code") == rules.code)
    if rules.refusals is not None:
        found.append(pl.col("is_refusal") == rules.refusals)
    if rules.ties is not None:
        found.append(pl.col("winner").str.starts_with("tie") == rules.ties)
    if rules.deduplicated:
        frequent = pl.col("dedup_high_freq").fill_null(False)
        found.append(~frequent | pl.col("dedup_sampled").fill_null(False))
    found += [pl.col(name) == value for name, value in rules.where.items()]
    return found


def _needs(rules: _Rules) -> tuple[str, ...]:
    """Columns that the conditions ask for."""
    asked: Mapping[str, Any] = {
        "language": rules.languages,
        "user_tokens": rules.min_user_tokens is not None,
        "side_tokens_a": rules.min_side_tokens is not None,
        "turn": rules.min_turns is not None,
        "tags": rules.tags or rules.min_criteria is not None,
        "is_code": rules.code is not None,
        "is_refusal": rules.refusals is not None,
        "judge": rules.votes_per_user is not None,
        "dedup_high_freq": rules.deduplicated,
    }
    return (*(name for name, needed in asked.items() if needed), *rules.where)


@functools.cache
def known_categories() -> Mapping[str, Category]:
    """The categories that ship, by key."""
    text = resources.files("fastchat.arena").joinpath("categories.toml").read_text("utf-8")
    return _categories(text, "categories.toml")


def read_categories(path: Path) -> Mapping[str, Category]:
    """The categories of a person's own file, laid out as `categories.toml`.

    Raises:
        DataError: the file is missing or not what it should be; the message says where.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    return _categories(text, path.name)


def _categories(text: str, name: str) -> dict[str, Category]:
    try:
        entries = tomllib.loads(text).get("category", {})
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{name} is no TOML: {error}.") from None
    found: dict[str, Category] = {}
    for key, entry in entries.items():
        try:
            rules = _Rules.model_validate(entry)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise DataError(f"{name}: category {key}: {where}: {first['msg']}.") from None
        found[key] = Category(
            key=key,
            title=rules.title,
            description=rules.description,
            needs=_needs(rules),
            _rules=rules,
        )
    return found


def chosen_categories(keys: Sequence[str], more: Mapping[str, Category]) -> list[Category]:
    """The categories of these keys, the shipped ones and `more`, which may replace them.

    Raises:
        UsageError: a key is not known.
    """
    known = {**known_categories(), **more}
    if unknown := [key for key in keys if key not in known]:
        raise UsageError(
            f"category {unknown[0]!r} is not known; known are {', '.join(known)}. "
            "--category-file adds others."
        )
    return [known[key] for key in dict.fromkeys(keys)]
