"""Adds what a moderation endpoint, or a file of patterns, says about people's prompts."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fastchat.errors import DataError, UnavailableError, UsageError
from fastchat.settings import Env, alias, run_command

if TYPE_CHECKING:
    from openai import AsyncOpenAI

TAG = "openai_moderation"
Moderate = Callable[[str], Awaitable[dict[str, Any]]]


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
    from fastchat.arena.row_files import read_rows, write_rows
    from fastchat.llm_judge.running import say

    if settings.parallel < 1 or settings.max_tries < 1:
        raise UsageError("--parallel and --max-tries are 1 or more.")
    refused: Counter[str] = Counter()
    rows = list(read_rows(settings.input, refused))[: settings.first_n]
    output = settings.input.with_name(f"{settings.input.stem}_tagged.json")
    progress = output.with_suffix(".progress.jsonl")
    told = asyncio.run(_tag_all(settings, rows, progress))
    told += [f"left out, {reason}: {n}" for reason, n in refused.most_common()]
    tagged = [row for row in rows if TAG in row]
    write_rows(output, tagged)
    if len(tagged) == len(rows):
        progress.unlink(missing_ok=True)
    print(f"tagged: {len(tagged)} of {len(rows)}, flagged: {sum(_is_flagged(r) for r in tagged)}")
    print(f"written: {output}")
    say(told)
    return 0 if len(tagged) == len(rows) else 1


def _is_flagged(row: dict[str, Any]) -> bool:
    return bool(row[TAG].get("flagged"))


async def _tag_all(
    settings: ModerationSettings, rows: Sequence[dict[str, Any]], progress: Path
) -> list[str]:
    """Tags the rows; what an earlier run was told stands in `progress`."""
    from fastchat.arena.release import prompts
    from fastchat.arena.row_files import read_rows
    from fastchat.llm_judge.lines import Appender
    from fastchat.llm_judge.running import run_all

    known: dict[str, Any] = {}
    if progress.exists():
        known = {r["text"]: r[TAG] for r in read_rows(progress, Counter()) if TAG in r}
    moderate, client = _moderator(settings)
    with Appender(progress) as file:

        async def work(row: dict[str, Any]) -> None:
            text = "\n".join(prompts(row))
            if text not in known:
                known[text] = await moderate(text) if text.strip() else {"flagged": False}
                file.write({"text": text, TAG: known[text]})
            row[TAG] = known[text]

        waiting = [row for row in rows if not isinstance(row.get(TAG), dict)]
        name_of: Callable[[dict[str, Any]], str] = lambda row: str(row.get("question_id", "row"))  # noqa: E731
        try:
            outcome = await run_all(waiting, work, name_of=name_of, concurrency=settings.parallel)
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
