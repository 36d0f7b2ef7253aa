"""Turns the server's logs into conversations, one row each, and says what was left out."""

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from fastchat.settings import Env, alias, run_command

if TYPE_CHECKING:
    from fastchat.arena.events import Event, Unread


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanChatDataSettings:
    """Writes the conversations of the logs, or of the store, as one file."""

    log_root: Annotated[Path, alias("--logdir")] = Path("~/fastchat_logs")
    """Folder of the logs, or of folders server0, server1, ... that hold them."""
    database_url: Annotated[str | None, Env("FASTCHAT_DATABASE_URL")] = None
    """Read the platform's store instead of logs: a SQLite file or a URL."""
    action_type: Literal["chat", "upvote", "downvote", "leftvote", "rightvote"] = "chat"
    """Conversations of these events; of a vote on a pair, the one that won."""
    max_num_files: int | None = None
    """Read only the newest so many logs."""
    num_parallel: int = 16
    """Accepted for old command lines; one core is enough."""
    output_dir: Path = Path(".")
    """Folder of the output."""
    format: Literal["json", "jsonl", "parquet"] = "json"
    """Kind of the output."""
    key_file: Path | None = None
    """Key of people's names; without one, voter.key in the folder of the logs, made at first."""
    debug: bool = False
    """Show tracebacks."""


def clean_chat_data(settings: CleanChatDataSettings) -> None:
    """Reads, cleans, writes, and prints what became of every event."""
    from fastchat.arena.chats import ChatReport, chat_rows
    from fastchat.arena.row_files import write_rows
    from fastchat.arena.voter_key import KEY_NAME, kept_key

    events = _events(settings)
    root = settings.output_dir if settings.database_url else settings.log_root.expanduser()
    report = ChatReport()
    key = kept_key(settings.key_file or root / KEY_NAME)
    rows = chat_rows(events, settings.action_type, report=report, key=key)
    unnamed = settings.output_dir / f".clean_{settings.action_type}_conv.{settings.format}"
    write_rows(unnamed, rows)
    path = unnamed.with_name(_name(settings, report.last))
    unnamed.replace(path)
    print(f"read: {report.read} {settings.action_type} events, kept: {report.kept} conversations")
    for reason, n in report.dropped.most_common():
        print(f"left out, {reason}: {n}")
    print(f"written: {path}")


def _events(settings: CleanChatDataSettings) -> "Iterator[Event | Unread]":
    if settings.database_url is None:
        from fastchat.arena.events import log_files, read_events

        return read_events(log_files(settings.log_root, newest=settings.max_num_files))
    if settings.action_type in ("leftvote", "rightvote"):
        from fastchat.arena.store_battles import votes_of_store

        return votes_of_store(settings.database_url)
    from fastchat.arena.store_chats import chats_of_store

    return chats_of_store(settings.database_url)


def _name(settings: CleanChatDataSettings, last: float | None) -> str:
    """The published name: the day of the last event on the coast of the Pacific."""
    import zoneinfo

    zone = zoneinfo.ZoneInfo("America/Los_Angeles")
    day = datetime.datetime.fromtimestamp(last, zone).strftime("%Y%m%d") if last else "empty"
    return f"clean_{settings.action_type}_conv_{day}.{settings.format}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        CleanChatDataSettings,
        clean_chat_data,
        argv,
        prog="python3 -m fastchat.serve.monitor.clean_chat_data",
    )


if __name__ == "__main__":
    raise SystemExit(main())
