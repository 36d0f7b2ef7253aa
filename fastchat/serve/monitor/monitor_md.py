"""Prints a leaderboard as Markdown, for a page or a post."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastchat.settings import CommaList, alias, run_command

if TYPE_CHECKING:
    from fastchat.arena.leaderboard import Leaderboard


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorMdSettings:
    """Prints the boards of a results file as Markdown tables."""

    elo_results_file: Annotated[Path, alias("--elo")] = Path("ratings.json")
    """ratings.json of elo_analysis."""
    leaderboard_table_file: Path | None = None
    """CSV of models: organization, license, link."""
    category: CommaList = ()
    """Boards to print; all without it."""
    show_deprecated: bool = False
    """Show models that the table of models calls deprecated."""
    debug: bool = False
    """Show tracebacks."""


def monitor_md(settings: MonitorMdSettings) -> None:
    """Prints the tables."""
    from fastchat.arena.export import markdown_of, read_leaderboard
    from fastchat.arena.model_table import read_model_table
    from fastchat.errors import UsageError

    leaderboard = read_leaderboard(settings.elo_results_file)
    table = settings.leaderboard_table_file
    infos = read_model_table(table) if table else {}
    if unknown := [key for key in settings.category if key not in leaderboard.boards]:
        known = ", ".join(leaderboard.boards)
        raise UsageError(f"--category {unknown[0]!r} is not in the file, which has {known}.")
    for key in settings.category or leaderboard.boards:
        beside = compared(leaderboard, key)
        board = leaderboard.boards[key]
        print(markdown_of(board, infos, beside=beside, deprecated=settings.show_deprecated))
    print(f"Last vote: {leaderboard.updated}.")


def compared(leaderboard: "Leaderboard", key: str) -> tuple[str, dict[str, str]] | None:
    """The published second column: the rank with style control, or how a category differs.

    None where there is nothing to compare with.
    """
    from fastchat.arena.leaderboard import STYLE_SUFFIX

    board, first = leaderboard.boards[key], leaderboard.first
    if key == first.key:
        styled = leaderboard.boards.get(key + STYLE_SUFFIX)
        if styled is None:
            return None
        return "Rank (StyleCtrl)", {row.model: str(row.rank) for row in styled.rows}
    overall = {row.model: row.rank for row in first.rows}
    moved = {r.model: f"{overall[r.model] - r.rank:+d}" for r in board.rows if r.model in overall}
    return "Delta", moved


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        MonitorMdSettings, monitor_md, argv, prog="python3 -m fastchat.serve.monitor.monitor_md"
    )


if __name__ == "__main__":
    raise SystemExit(main())
