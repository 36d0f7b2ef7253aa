"""Counts what people did by the server's logs: actions, blind votes, models, hours, days."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastchat.settings import Env, alias, run_command

if TYPE_CHECKING:
    from fastchat.arena.activity import Activity


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicStatsSettings:
    """Prints chats and votes by kind, model, hour and day."""

    log_root: Annotated[Path, alias("--logdir")] = Path("~/fastchat_logs")
    """Folder of the logs, or of folders server0, server1, ... that hold them."""
    database_url: Annotated[str | None, Env("FASTCHAT_DATABASE_URL")] = None
    """Read the platform's store instead of logs: a SQLite file or a URL."""
    max_num_files: int | None = None
    """Read only the newest so many logs."""
    plot_file: Path | None = None
    """Write the chart of chats and votes a day to this HTML file."""
    debug: bool = False
    """Show tracebacks."""


def basic_stats(settings: BasicStatsSettings) -> None:
    """Prints the tables and draws the chart."""
    activity = activity_of(settings)
    print("\n".join(tables(activity)))
    if settings.plot_file is not None:
        from fastchat.arena.plots import activity_by_day
        from fastchat.arena.row_files import written_at_once

        page = activity_by_day(activity).to_html(include_plotlyjs=True)
        with written_at_once(settings.plot_file) as part:
            part.write_text(page, "utf-8")
        print(f"written: {settings.plot_file}")


def activity_of(settings: BasicStatsSettings) -> "Activity":
    """What the logs or the store tell; a store knows a conversation once, as it stood last.

    Raises:
        UsageError: there are no logs, or the store is not there.
        DataError, StoreError: they cannot be read.
    """
    from fastchat.arena.activity import Activity

    activity = Activity()
    if settings.database_url is None:
        from fastchat.arena.events import log_files, read_events

        files = log_files(settings.log_root, newest=settings.max_num_files)
        return activity.add(read_events(files))
    from fastchat.arena.store_battles import votes_of_store
    from fastchat.arena.store_chats import chats_of_store

    activity.add(chats_of_store(settings.database_url))
    return activity.add(votes_of_store(settings.database_url))


def tables(activity: "Activity") -> list[str]:
    """The four published tables and the days, as Markdown."""
    from fastchat.arena.activity import DAY_S, HOUR_S

    day, hour = activity.models_since(DAY_S), activity.models_since(HOUR_S)
    models = [(m, n, day[m], hour[m]) for m, n in activity.models.most_common()]
    days = sorted({d for d, _ in activity.days})
    by_day = [(d, activity.days[d, "chat"], activity.days[d, "vote"]) for d in days]
    lines = [
        *_table("Actions", ("action", "count"), activity.kinds.most_common()),
        *_table("Blind votes", ("vote", "count"), activity.blind_votes.most_common()),
        *_table("Model calls", ("model", "all", "last day", "last hour"), models),
        *_table(
            "Chats of the last 24 hours",
            ("hour (UTC)", "chats"),
            [(f"{moment:%m-%d %H:00}", n) for moment, n in activity.last_hours()],
        ),
        *_table("Days", ("day (UTC)", "chats", "votes"), by_day),
    ]
    if activity.unread:
        lines += _table("Lines that are no event", ("reason", "count"), activity.unread.items())
    return lines


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [f"### {title}", "", f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return [*lines, ""]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        BasicStatsSettings,
        basic_stats,
        argv,
        prog="python3 -m fastchat.serve.monitor.basic_stats",
    )


if __name__ == "__main__":
    raise SystemExit(main())
