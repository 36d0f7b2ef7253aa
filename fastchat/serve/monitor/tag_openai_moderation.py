"""Adds what a moderation endpoint, or a file of patterns, says about people's prompts."""

import asyncio
import itertools
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fastchat.errors import DataError, UnavailableError, UsageError
from fastchat.settings import Env, alias, run_command

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from fastchat.arena.scratch import RowSpool, Scratch

TAG = "openai_moderation"
Row = dict[str, Any]
Moderate = Callable[[str], Awaitable[Row]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModerationSettings:
    """Adds `openai_moderation` to rows and writes them as NAME_tagged.json."""

    input: Path = tyro.MISSING
    """Battles or conversations with their texts."""
    parallel: int = 1
    """Requests in the air at once."""
    first_n: int | None = None
    """Tag only the first so many rows."""
    model: str = "omni-moderation-latest"
    """Moderation model."""
    pattern_file: Path | None = None
    """Flag by regular expressions, one a line, instead of asking an endpoint."""
    api_base: Annotated[str | None, Env("OPENAI_BASE_URL"), alias("--openai-api-base")] = None
    """Base URL of the endpoint, with its /v1; by default OpenAI's own."""
    api_key: Annotated[str | None, Env("OPENAI_API_KEY")] = None
    """Its key; better in the environment."""
    max_tries: int = 5
    """Tries of one request that may pass."""
    debug: bool = False
    """Show tracebacks."""


def tag_openai_moderation(settings: ModerationSettings) -> int:
    """Tags what has no tag yet, writes, and prints how many are flagged."""
    from fastchat.arena.row_files import input_rows, write_rows
    from fastchat.arena.scratch import RowSpool, Scratch
    from fastchat.llm_judge.running import say

    _check(settings)
    refused: Counter[str] = Counter()
    given = itertools.islice(input_rows(settings.input, refused), settings.first_n)
    output = settings.input.with_name(f"{settings.input.stem}_tagged.json")
    progress = output.with_suffix(".progress.jsonl")
    n_flagged = 0

    def tagged(rows: Iterable[Row], known: "Scratch") -> Iterator[Row]:
        nonlocal n_flagged
        for row in rows:
            if (tag := _tag_of(row, known)) is not None:
                n_flagged += bool(tag.get("flagged"))
                yield row | {TAG: tag}

    with RowSpool(given) as spool, Scratch() as known:
        told = asyncio.run(_tag_all(settings, spool, known, progress))
        n_tagged = write_rows(output, tagged(spool, known))
        is_complete = n_tagged == len(spool)
        print(f"tagged: {n_tagged} of {len(spool)}, flagged: {n_flagged}")
    if is_complete:
        progress.unlink(missing_ok=True)
    print(f"written: {output}")
    say(told + [f"left out, {reason}: {n}" for reason, n in refused.most_common()])
    return 0 if is_complete else 1


def _check(settings: ModerationSettings) -> None:
    if settings.parallel < 1 or settings.max_tries < 1:
        raise UsageError("--parallel and --max-tries are 1 or more.")
    if settings.first_n is not None and settings.first_n < 1:
        raise UsageError(f"--first-n {settings.first_n} is below 1.")


def _text(row: Row) -> str:
    from fastchat.arena.release import prompts

    return "\n".join(prompts(row))


def _tag_of(row: Row, known: "Scratch") -> Row | None:
    """The tag that a row came with, or that of its text; None where it has none yet."""
    import orjson

    from fastchat.arena.scratch import digest

    if isinstance(given := row.get(TAG), dict):
        return given
    if not (text := _text(row)).strip():
        return {"flagged": False}
    held = known.get(digest(text))
    return orjson.loads(held) if held else None


async def _tag_all(
    settings: ModerationSettings, rows: "RowSpool", known: "Scratch", progress: Path
) -> list[str]:
    """Tags the texts of the rows; what an earlier run was told stands in `progress`."""
    import orjson

    from fastchat.arena.row_files import read_rows
    from fastchat.arena.scratch import digest
    from fastchat.llm_judge.lines import Appender
    from fastchat.llm_judge.running import run_all

    moderate, client = _moderator(settings)
    if progress.exists():
        for told in read_rows(progress, Counter()):
            if TAG in told:
                known.put(digest(str(told.get("text"))), orjson.dumps(told[TAG]))
    waiting = array("q", (n for n, row in enumerate(rows) if _tag_of(row, known) is None))
    with Appender(progress) as file:

        async def work(number: int) -> None:
            if _tag_of(row := rows[number], known) is None:  # no row before had the same text
                tag = await moderate(text := _text(row))
                known.put(digest(text), orjson.dumps(tag))
                file.write({"text": text, TAG: tag})

        try:
            outcome = await run_all(
                waiting,
                work,
                name_of=lambda number: str(rows[number].get("question_id", "row")),
                concurrency=settings.parallel,
            )
        finally:
            if client is not None:
                await client.close()
    return outcome.report("Run the same command again: only what is missing is asked.")


def _moderator(settings: ModerationSettings) -> "tuple[Moderate, AsyncOpenAI | None]":
    """How a text is judged, and the client to close."""
    if settings.pattern_file is not None:
        return _patterns(settings.pattern_file), None
    from openai import APIError, AsyncOpenAI

    client = AsyncOpenAI(
        base_url=settings.api_base,
        api_key=settings.api_key or "EMPTY",
        max_retries=settings.max_tries - 1,
        timeout=60.0,
    )

    async def moderate(text: str) -> dict[str, Any]:
        try:
            reply = await client.moderations.create(input=text, model=settings.model)
            return reply.results[0].model_dump(by_alias=True, exclude_none=True)
        except (APIError, IndexError, AttributeError, TypeError) as error:
            status = getattr(error, "status_code", None)
            said = f"HTTP {status}" if status else type(error).__name__
            raise UnavailableError(f"the moderation endpoint failed: {said}") from None

    return moderate, client


def _patterns(path: Path) -> Moderate:
    """Flags what one of the expressions of a file finds.

    Raises:
        DataError: the file cannot be read, or a line is no expression.
    """
    import re

    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
        found = [re.compile(line, re.IGNORECASE) for line in lines if not line.startswith("#")]
    except (OSError, UnicodeDecodeError, re.error) as error:
        raise DataError(f"--pattern-file {path}: {error}.") from None

    async def moderate(text: str) -> dict[str, Any]:
        matched = [p.pattern for p in found if p.search(text)]
        return {"flagged": bool(matched), "categories": dict.fromkeys(matched, True)}

    return moderate


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        ModerationSettings,
        tag_openai_moderation,
        argv,
        prog="python3 -m fastchat.serve.monitor.tag_openai_moderation",
    )


if __name__ == "__main__":
    raise SystemExit(main())
