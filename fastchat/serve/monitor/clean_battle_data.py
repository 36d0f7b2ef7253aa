"""Turns the server's logs into battles that can be rated, and says why the other votes cannot."""

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastchat.errors import DataError, UsageError
from fastchat.settings import Env, NameList, alias, run_command

if TYPE_CHECKING:
    from fastchat.arena.battles import Cleaner, CleaningReport, CleaningRules
    from fastchat.arena.events import Event, Unread

SHOWN_ADDRESSES = 30
_DROPPED_BY_SIMPLE = ("question_id", "conversation_a", "conversation_b")


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanBattleDataSettings:
    """Cleans votes of the server's logs and writes them as battles."""

    log_root: Annotated[Path, alias("--logdir")] = Path("~/fastchat_logs")
    """Folder of the logs, or of folders server0, server1, ... that hold them."""
    database_url: Annotated[str | None, Env("FASTCHAT_DATABASE_URL")] = None
    """Read the platform's store instead of logs: a SQLite file or a URL."""
    max_num_files: int | None = None
    """Read only the newest so many logs."""
    mode: Literal["simple", "conv_release"] = "simple"
    """simple: without texts and ids; conv_release: blind votes with their conversations."""
    output_dir: Path = Path(".")
    """Folder of the output."""
    format: Literal["json", "jsonl", "parquet"] = "json"
    """Kind of the output."""
    exclude_model_names: NameList = ()
    """Models whose battles are left out."""
    ban_ip_file: Path | None = None
    """JSON list of addresses whose votes are left out."""
    sanitize_ip: bool = True
    """Name voters by a keyed hash; --no-sanitize-ip writes their addresses."""
    key_file: Path | None = None
    """Key of that hash; without one, voter.key in the folder of the logs, made at first."""
    upstream_rules: bool = False
    """Exactly the published rules: parts of words give models away, repeated votes count."""
    words_file: Path | None = None
    """TOML file of identity words, error texts and renames instead of those that ship."""
    since: str | None = None
    """Votes from this day on (YYYY-MM-DD, UTC)."""
    until: str | None = None
    """Votes before this day (YYYY-MM-DD, UTC)."""
    min_vote_seconds: float | None = None
    """Leave out votes sooner than this after the slower answer."""
    max_votes_per_hour: int | None = None
    """Leave out a voter's votes past so many within an hour."""
    debug: bool = False
    """Show tracebacks."""


def clean_battle_data(settings: CleanBattleDataSettings) -> None:
    """Reads, cleans, writes, and prints what became of every vote."""
    from fastchat.arena.battles import Cleaner
    from fastchat.arena.wording import read_wording

    rules, events = _rules(settings), _events(settings)
    cleaner = Cleaner(
        rules,
        words=read_wording(settings.words_file) if settings.words_file else None,
        key=_key(settings) if settings.sanitize_ip else None,
        keep_addresses=not settings.sanitize_ip,
    )
    path = _write(settings, cleaner, events)
    for line in report_lines(cleaner.report, addresses=not settings.sanitize_ip):
        print(line)
    print(f"written: {path}")


def _rules(settings: CleanBattleDataSettings) -> "CleaningRules":
    from fastchat.arena.battles import CleaningRules

    if settings.max_votes_per_hour is not None and settings.max_votes_per_hour < 1:
        raise UsageError(f"--max-votes-per-hour {settings.max_votes_per_hour} is below 1.")
    if settings.min_vote_seconds is not None and not settings.min_vote_seconds >= 0:
        raise UsageError(f"--min-vote-seconds {settings.min_vote_seconds} is below 0.")
    return CleaningRules(
        published=settings.upstream_rules,
        exclude_models=frozenset(settings.exclude_model_names),
        banned_ips=read_banned(settings.ban_ip_file),
        since=_day(settings.since, "--since"),
        until=_day(settings.until, "--until"),
        shortest_s=settings.min_vote_seconds,
        votes_per_hour=settings.max_votes_per_hour,
    )


def read_banned(path: Path | None) -> frozenset[str]:
    """The addresses of a --ban-ip-file; none without one."""
    import orjson

    if path is None:
        return frozenset()
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise DataError(f"--ban-ip-file {path} cannot be read: {error}.") from None
    if not isinstance(value, list) or not all(isinstance(ip, str) for ip in value):
        raise DataError(f"--ban-ip-file {path} is no JSON list of addresses.")
    return frozenset(value)


def _day(text: str | None, flag: str) -> float | None:
    """The beginning of a day, seconds UTC."""
    if text is None:
        return None
    try:
        day = datetime.date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{flag} {text!r} is no day; write YYYY-MM-DD.") from None
    return datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp()


def _key(settings: CleanBattleDataSettings) -> bytes:
    """The key of voters' names, kept beside the logs so that every run names them the same."""
    from fastchat.arena.voter_key import KEY_NAME, kept_key

    path = settings.key_file
    if path is None:
        root = settings.output_dir if settings.database_url else settings.log_root.expanduser()
        path = root / KEY_NAME
    return kept_key(path)


def _events(settings: CleanBattleDataSettings) -> "Iterator[Event | Unread]":
    from fastchat.arena.events import log_files, read_events

    if settings.database_url is None:
        return read_events(log_files(settings.log_root, newest=settings.max_num_files))
    from fastchat.arena.store_battles import votes_of_store

    return votes_of_store(settings.database_url)


def _write(
    settings: CleanBattleDataSettings, cleaner: "Cleaner", events: "Iterator[Event | Unread]"
) -> Path:
    """Writes the battles in the order of time, holding only their times and places in memory."""
    from fastchat.arena.row_files import write_rows
    from fastchat.arena.scratch import RowSpool

    with RowSpool(_wanted(settings, cleaner, events)) as spool:
        path = settings.output_dir / _name(settings, cleaner.report.last)
        write_rows(path, spool.in_order_of("tstamp"))
    return path


def _wanted(
    settings: CleanBattleDataSettings, cleaner: "Cleaner", events: "Iterator[Event | Unread]"
) -> Iterator[dict[str, Any]]:
    """The rows that the mode asks for."""
    for row in cleaner.rows(events):
        if settings.mode == "simple":
            yield {k: v for k, v in row.items() if k not in _DROPPED_BY_SIMPLE}
        elif row["anony"]:
            yield row
        else:
            cleaner.report.dropped["named"] += 1
            cleaner.report.kept -= 1


def _name(settings: CleanBattleDataSettings, last: float | None) -> str:
    """The published name: the day of the last vote on the coast of the Pacific."""
    import zoneinfo

    stem = "clean_battle_conv" if settings.mode == "conv_release" else "clean_battle"
    zone = zoneinfo.ZoneInfo("America/Los_Angeles")
    day = datetime.datetime.fromtimestamp(last, zone).strftime("%Y%m%d") if last else "empty"
    return f"{stem}_{day}.{settings.format}"


def report_lines(report: "CleaningReport", *, addresses: bool) -> list[str]:
    """What became of the votes, a line each; the busiest voters' addresses only where wanted."""
    lines = [f"kept: {report.kept} votes, of them {report.anonymous} blind"]
    lines += [f"left out, {reason}: {n}" for reason, n in report.dropped.most_common()]
    if report.leaked:
        lines.append("names in the texts: " + _counted(report.leaked.most_common()))
    if report.last is not None:
        moment = datetime.datetime.fromtimestamp(report.last, datetime.UTC)
        lines.append(f"last vote: {moment:%Y-%m-%d %H:%M UTC}")
    busiest = report.addresses.most_common(SHOWN_ADDRESSES)
    if busiest and addresses:
        lines.append("most votes by address: " + _counted(busiest))
    elif busiest:
        shown = ", ".join(str(n) for _, n in busiest)
        lines.append(f"votes of the busiest of {len(report.addresses)} addresses: {shown}")
    return lines


def _counted(pairs: list[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {n}" for name, n in pairs)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        CleanBattleDataSettings,
        clean_battle_data,
        argv,
        prog="python3 -m fastchat.serve.monitor.clean_battle_data",
    )


if __name__ == "__main__":
    raise SystemExit(main())
