"""Battles as a table, read from JSON, JSON Lines, CSV or Parquet, and written again.

One column for each thing that ratings and categories ask about a battle; whatever the file's
layout, the table is the same. Texts do not travel further than this file: what is asked of them
(style, code, refusals) becomes numbers here. Broken rows are counted by reason.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastchat.arena.refusals import is_refusal
from fastchat.arena.row_files import SUFFIXES, input_rows
from fastchat.arena.style import FEATURES, count_markdown
from fastchat.arena.votes import LABELS
from fastchat.errors import DataError

if TYPE_CHECKING:
    import polars as pl

TEXTS = ("question_id", "model_a", "model_b", "winner", "judge", "language")
NUMBERS = (
    *("tstamp", "turn", "user_tokens", "side_tokens_a", "side_tokens_b"),
    *(f"{name}_{side}" for side in "ab" for name in FEATURES),
)
_BATCH = 8192
"""Rows that are held as objects, before they become columns."""
SWITCHES = ("anony", "is_code", "is_refusal", "dedup_high_freq", "dedup_sampled")
"""Columns that are true, false or not known; `tags` is a list of `task.label` beside them."""
COLUMNS = (*TEXTS, *NUMBERS, *SWITCHES, "tags")
"""The columns of every table of battles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BattleTable:
    """Battles that can be rated, and what was left out while reading.

    frame: columns `TEXTS`, `NUMBERS`, `SWITCHES` and `tags`, and any scalar ones of the file;
        sorted by time. Values that the file does not tell are null.
    refused: rows that are no battle, by reason.
    """

    frame: "pl.DataFrame"
    refused: Counter[str] = field(default_factory=Counter)


def read_battles(path: Path, *, no_urls: bool = False, more: Sequence[str] = ()) -> BattleTable:
    """The battles of a file.

    more: columns that are wanted beside the published ones.
    no_urls: leave out battles whose prompt holds an address of the web, which only files with
        texts tell.

    Raises:
        DataError: the file is missing, of no known kind, or not what its name says.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path.name} is no file of battles; known are {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise DataError(f"{path} is not there; name a file that clean_battle_data wrote.")
    import polars as pl

    refused: Counter[str] = Counter()
    if no_urls and suffix not in (".json", ".jsonl"):
        raise DataError(f"{path.name} holds no texts, so that --exclude-url cannot be told.")
    try:
        if suffix in (".json", ".jsonl"):
            is_plain = suffix == ".json" and not no_urls and not more
            raw = _quick(path) if is_plain else None
            if raw is None:
                raw = frame_of_rows(input_rows(path, refused), refused, no_urls=no_urls)
        else:
            raw = pl.read_csv(path) if suffix == ".csv" else pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        shown = str(error).splitlines()[0][:200]
        raise DataError(f"{path.name} cannot be read: {shown}") from None
    return battle_table(raw, refused)


def _quick(path: Path) -> "pl.DataFrame | None":
    """The table of an array of rows without texts, parsed as columns; None where that fails."""
    import polars as pl

    with path.open("rb") as file:
        if b'"conversation_a"' in (head := file.read(1 << 20)) or not head.strip():
            return None
    counts = {"header": [f"h{i}" for i in range(1, 7)], "list": ["ordered", "unordered"]}
    counts["bold"] = ["**", "__"]
    metadata: dict[str, Any] = {"sum_user_tokens": pl.Float64}
    for side in "ab":
        metadata[f"sum_assistant_{side}_tokens"] = pl.Float64
        for name, keys in counts.items():
            metadata[f"{name}_count_{side}"] = pl.Struct(dict.fromkeys(keys, pl.Float64))
    schema: dict[str, Any] = dict.fromkeys(TEXTS, pl.String)
    schema |= {"tstamp": pl.Float64, "turn": pl.Float64, "anony": pl.Boolean}
    if any(f'"{key}"'.encode() in head for key in ("category_tag", "dedup_tag")):
        return None
    schema |= {k: pl.Boolean for k in ("is_code", "is_refusal") if f'"{k}"'.encode() in head}
    if b'"conv_metadata"' in head:
        schema["conv_metadata"] = pl.Struct(metadata)
    try:
        return pl.read_json(path, schema=schema)
    except pl.exceptions.PolarsError:
        return None


def frame_of_rows(
    rows: Iterable[Any], refused: Counter[str], *, no_urls: bool = False
) -> "pl.DataFrame":
    """The table of published rows, texts turned into numbers; what is left out is counted.

    Raises:
        DataError: `no_urls` is asked of rows without texts.
    """
    import polars as pl

    def kept() -> Iterator[dict[str, Any]]:
        for row in rows:
            if not isinstance(row, dict):
                refused["not_a_battle"] += 1
            elif no_urls and _has_url(row):
                refused["url"] += 1
            else:
                yield flat_row(row)

    flat = kept()
    frames = [pl.DataFrame()]
    while batch := list(itertools.islice(flat, _BATCH)):
        names = dict.fromkeys(name for row in batch for name in row)
        frames.append(
            pl.DataFrame({name: _series(name, [row.get(name) for row in batch]) for name in names})
        )
    return pl.concat(frames, how="diagonal_relaxed")


def _has_url(row: Mapping[str, Any]) -> bool:
    """Whether the person's words hold an address of the web."""
    if not isinstance(said := row.get("conversation_a"), list):
        raise DataError("the battles hold no texts, so that --exclude-url cannot be told.")
    asked = [m.get("content") for m in said if isinstance(m, dict) and m.get("role") == "user"]
    return any("http://" in text or "https://" in text for text in map(str, asked))


def _series(name: str, values: list[Any]) -> "pl.Series":
    import polars as pl

    if name in TEXTS:
        return pl.Series(name, [None if v is None else str(v) for v in values], pl.String)
    if name in NUMBERS:
        return pl.Series(name, [_number(v) for v in values], pl.Float64)
    if name == "tags":
        return pl.Series(name, values, pl.List(pl.String))
    return pl.Series(name, values, strict=False)


def _number(value: Any) -> float | None:
    """The number, or None for what is none."""
    return float(value) if isinstance(value, int | float) else None


def flat_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """One published row as values of columns."""
    flat = {k: v for k, v in row.items() if not isinstance(v, dict | list)}
    for side in "ab":
        if isinstance(said := row.get(f"conversation_{side}"), list):
            flat |= _said(said, side)
    if "conversation_a" in row:
        texts = [flat.pop(f"_text_{side}", "") for side in "ab"]
        flat.setdefault("is_refusal", any(map(is_refusal, texts)))
        flat.setdefault("is_code", any("```" in t for t in (*texts, flat.pop("_asked", ""))))
        flat.pop("_asked", None)
    if isinstance(metadata := row.get("conv_metadata"), dict):
        flat |= _from_metadata(metadata)
    if isinstance(tags := row.get("category_tag"), dict):
        flat["tags"] = sorted(_tags(tags))
    if isinstance(dedup := row.get("dedup_tag"), dict):
        flat |= {f"dedup_{k}": bool(dedup.get(k)) for k in ("high_freq", "sampled")}
    return flat


def _said(messages: list[Any], side: str) -> dict[str, Any]:
    """What one side's texts come to."""
    asked, answered, tokens = [], [], {"user": 0.0, "assistant": 0.0}
    for message in messages:
        if not isinstance(message, dict):
            continue
        content = message.get("content")
        text = content[0] if isinstance(content, list) and content else content
        (asked if message.get("role") == "user" else answered).append(str(text or ""))
        role = "user" if message.get("role") == "user" else "assistant"
        tokens[role] += _number(message.get("num_tokens")) or 0.0
    said = "\n\n".join(answered)
    counts = count_markdown(said).to_metadata(side)
    flat = {name: float(sum(by.values())) for name, by in counts.items()}
    flat |= {f"_text_{side}": said, "_asked": "\n\n".join(asked)}
    if any(tokens.values()):
        flat |= {
            "user_tokens": tokens["user"],
            f"side_tokens_{side}": sum(tokens.values()),
            f"sum_assistant_tokens_{side}": tokens["assistant"],
        }
    return flat


def _from_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of the published `conv_metadata`."""
    flat: dict[str, Any] = {}
    user = _number(metadata.get("sum_user_tokens"))
    if user is not None:
        flat["user_tokens"] = user
    for side in "ab":
        tokens = _number(metadata.get(f"sum_assistant_{side}_tokens"))
        if tokens is not None:
            flat[f"sum_assistant_tokens_{side}"] = tokens
            flat[f"side_tokens_{side}"] = tokens + (user or 0.0)
        for name in FEATURES[1:]:
            value = metadata.get(f"{name}_{side}")
            if isinstance(value, dict):
                value = sum(v for v in value.values() if isinstance(v, int | float))
            if (number := _number(value)) is not None:
                flat[f"{name}_{side}"] = number
    return flat


def _tags(tags: Mapping[str, Any]) -> Iterator[str]:
    """`task.label` for every label that is true."""
    for task, labels in tags.items():
        if isinstance(labels, dict):
            yield from (f"{task}.{label}" for label, value in labels.items() if value is True)


def battle_table(raw: "pl.DataFrame", refused: Counter[str] | None = None) -> BattleTable:
    """The table of a frame of any published layout; rows that are no battle are counted.

    Raises:
        DataError: a column without which nothing can be rated is missing.
    """
    import polars as pl

    refused = Counter() if refused is None else refused
    for name in ("model_a", "model_b", "winner"):
        if name not in raw.columns and (raw.height or raw.columns):
            raise DataError(f"the battles have no column {name}; they have {raw.columns}.")
    frame = _flat_structs(raw)
    kinds = dict.fromkeys(TEXTS, pl.String) | dict.fromkeys(NUMBERS, pl.Float64)
    kinds |= dict.fromkeys(SWITCHES, pl.Boolean) | {"tags": pl.List(pl.String)}
    frame = frame.with_columns(
        pl.col(name).cast(kind, strict=False)
        if name in frame.columns
        else pl.lit(None, kind).alias(name)
        for name, kind in kinds.items()
    )
    frame = frame.with_columns(
        pl.col("anony").fill_null(True), pl.col("language").fill_null("unknown")
    )
    return BattleTable(frame=_battles_only(frame, refused), refused=refused)


def _flat_structs(frame: "pl.DataFrame") -> "pl.DataFrame":
    """The frame with `conv_metadata` as columns of its own."""
    import polars as pl

    kind = frame.schema.get("conv_metadata")
    if not isinstance(kind, pl.Struct):
        return frame
    inner = {f.name: f.dtype for f in kind.fields}

    def number(name: str) -> pl.Expr:
        found = pl.col("conv_metadata").struct.field(name)
        part = inner[name]
        if isinstance(part, pl.Struct):
            parts = [found.struct.field(f.name) for f in part.fields]
            return pl.when(found.is_not_null()).then(pl.sum_horizontal(parts))
        return found

    made = {
        f"{name}_{side}": (f"sum_assistant_{side}_tokens" if "tokens" in name else f"{name}_{side}")
        for side in "ab"
        for name in FEATURES
    } | {"user_tokens": "sum_user_tokens"}
    made |= {f"side_tokens_{side}": f"sum_assistant_{side}_tokens" for side in "ab"}
    frame = frame.with_columns(
        number(source).cast(pl.Float64).alias(name)
        for name, source in made.items()
        if source in inner and name not in frame.columns
    )
    if "user_tokens" in frame.columns:
        frame = frame.with_columns(
            (pl.col(name) + pl.col("user_tokens").fill_null(0.0)).alias(name)
            for name in ("side_tokens_a", "side_tokens_b")
            if name in frame.columns and name in made
        )
    return frame.drop("conv_metadata")


def _battles_only(frame: "pl.DataFrame", refused: Counter[str]) -> "pl.DataFrame":
    """The rows that are battles, in the order of time."""
    import polars as pl

    rules: dict[str, Callable[[], pl.Expr]] = {
        "no_model": lambda: (
            pl.col("model_a").fill_null("").ne("") & pl.col("model_b").fill_null("").ne("")
        ),
        "unknown_outcome": lambda: pl.col("winner").is_in(list(LABELS)).fill_null(False),
        "same_model": lambda: pl.col("model_a") != pl.col("model_b"),
    }
    for reason, rule in rules.items():
        kept = frame.filter(rule())
        if kept.height != frame.height:
            refused[reason] += frame.height - kept.height
        frame = kept
    return frame.sort("tstamp", maintain_order=True, nulls_last=True)
