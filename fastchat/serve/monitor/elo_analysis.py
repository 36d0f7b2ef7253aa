"""Rates models from battles: tables, plots and a page of the leaderboard."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from fastchat.errors import UsageError
from fastchat.settings import CommaList, alias, run_command

if TYPE_CHECKING:
    import polars as pl

    from fastchat.arena.battle_files import BattleTable
    from fastchat.arena.categories import Category
    from fastchat.arena.leaderboard import Board, Leaderboard


@dataclass(frozen=True, slots=True, kw_only=True)
class EloAnalysisSettings:
    """Rates the models of a file of battles and writes the leaderboard as CSV, JSON and HTML."""

    clean_battle_file: str | None = None
    """Battles: .json, .jsonl, .csv, .parquet, or the URL of a store; without it logs are read."""
    log_root: Annotated[Path, alias("--logdir")] = Path("~/fastchat_logs")
    """Folder of the server's logs, where no file of battles is given."""
    max_num_files: int | None = None
    """Read only the newest so many logs."""
    output_dir: Path = Path(".")
    """Folder for ratings.csv, ratings.json, leaderboard.html and the plots."""
    rating_system: Literal["bt", "elo"] = "bt"
    """Bradley-Terry, or Elo in the order of the votes."""
    interval: Literal["sandwich", "bootstrap"] = "sandwich"
    """How intervals of Bradley-Terry are made."""
    ties: Literal["half", "davidson", "rao-kupper"] = "half"
    """A tie as half a win for each, or as an outcome with a parameter of its own."""
    num_bootstrap: int = 100
    """Resamples, of bootstrap intervals and of Elo."""
    seed: int = 42
    """Seed of the resamples."""
    anchor_model: str | None = None
    """Model whose rating is set; without one the mean is 1000."""
    anchor_rating: float = 1000.0
    """What the anchor is rated."""
    category: CommaList = ("full",)
    """Categories, with commas between; a board is made of each."""
    category_file: Path | None = None
    """TOML file of further categories."""
    style_control: bool = False
    """Add a board of each category with style held apart."""
    features: CommaList = ()
    """Columns of the battles to hold apart: numbers of A against B, or pairs NAME_a and NAME_b."""
    feature_ridge: float = 0.0
    """Penalty on the coefficients of style and features beside a vote's mean loss."""
    reweight: bool = False
    """Let pairs that met often count as pairs that met at least 50 times."""
    exclude_models: CommaList = ()
    """Models to leave out."""
    langs: CommaList = ()
    """Languages to keep; all without it."""
    exclude_tie: bool = False
    """Leave ties out."""
    exclude_unknown_lang: bool = False
    """Leave battles of unknown language out."""
    exclude_url: bool = False
    """Leave battles out whose prompt holds an address of the web (files with texts only)."""
    daily_vote_per_user: int | None = None
    """Keep each voter's first so many votes of a day."""
    time_zone: str = "UTC"
    """Where a day of --daily-vote-per-user begins and ends."""
    run_outlier_detect: bool = False
    """Leave out voters whose votes do not fit everybody's."""
    moments: int = 20
    """Points in time of the plot of ratings over time; 0 leaves it out."""
    scale: float = 1.0
    """Show 25 times so many models in the plots."""
    no_plots: bool = False
    """Write tables only."""
    num_cpu: int = 12
    """Resamples of --interval bootstrap fitted at a time, no more than there are processors."""
    debug: bool = False
    """Show tracebacks."""


def elo_analysis(settings: EloAnalysisSettings) -> None:
    """Reads, filters, rates and writes; prints the first board and where the files are."""
    from fastchat.arena.categories import chosen_categories, read_categories
    from fastchat.arena.leaderboard import Method, build

    _check(settings)
    more = read_categories(settings.category_file) if settings.category_file else {}
    categories = chosen_categories(settings.category, more)
    table = _battles(settings, categories)
    battles = _filtered(settings, table.frame, table.refused)
    anchor = (settings.anchor_model, settings.anchor_rating) if settings.anchor_model else None
    method = Method(
        system=settings.rating_system,
        interval=settings.interval,
        ties=settings.ties,
        rounds=settings.num_bootstrap,
        seed=settings.seed,
        threads=min(settings.num_cpu, os.cpu_count() or 1),
        anchor=anchor,
        reweight=settings.reweight,
        style=settings.style_control,
        features=settings.features,
        feature_ridge=settings.feature_ridge,
        moments=settings.moments,
    )
    board = build(battles, categories, method=method, refused=table.refused)
    written = _write(settings, board)
    _print(board, written, settings.output_dir)


def _check(settings: EloAnalysisSettings) -> None:
    """Raises UsageError for values that cannot be."""
    if settings.num_bootstrap < 2:
        raise UsageError(f"--num-bootstrap {settings.num_bootstrap} is too few; give 2 or more.")
    if settings.rating_system == "elo" and settings.style_control:
        raise UsageError("--style-control is of Bradley-Terry; leave --rating-system elo away.")
    if settings.rating_system == "elo" and settings.reweight:
        raise UsageError("--reweight is of Bradley-Terry; leave --rating-system elo away.")
    if settings.rating_system == "elo" and settings.ties != "half":
        raise UsageError(f"--ties {settings.ties} is of Bradley-Terry; Elo has --ties half only.")
    if settings.rating_system == "elo" and settings.features:
        raise UsageError("--features is of Bradley-Terry; leave --rating-system elo away.")
    if (settings.style_control or settings.features) and settings.ties != "half":
        flag = "--style-control" if settings.style_control else "--features"
        raise UsageError(f"{flag} takes a tie as half a win; leave --ties {settings.ties} away.")
    if not 0 <= settings.feature_ridge < 1e9:
        raise UsageError(f"--feature-ridge {settings.feature_ridge} is no penalty; give 0 or more.")
    if not settings.category:
        raise UsageError("--category names no category; full is that of all battles.")
    for name in ("scale", "daily_vote_per_user", "num_cpu"):
        value = getattr(settings, name)
        if value is not None and value <= 0:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} {value} is too small; give more than 0.")
    if settings.moments < 0:
        raise UsageError(f"--moments {settings.moments} is too small; 0 leaves the plot out.")
    if settings.daily_vote_per_user is not None:
        import zoneinfo

        try:
            zoneinfo.ZoneInfo(settings.time_zone)
        except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
            raise UsageError(f"--time-zone {settings.time_zone!r} is not known.") from None


def _battles(settings: EloAnalysisSettings, categories: "Sequence[Category]") -> "BattleTable":
    """The battles of the file, the store, or the logs."""
    from fastchat.arena.battle_files import COLUMNS, read_battles
    from fastchat.arena.battles import battles_of_logs
    from fastchat.arena.events import log_files

    source = settings.clean_battle_file
    if source is None:
        logs = log_files(settings.log_root, newest=settings.max_num_files)
        return battles_of_logs(logs, no_urls=settings.exclude_url)
    if "://" in source or source.endswith((".db", ".sqlite", ".sqlite3")):
        from fastchat.arena.store_battles import battles_of_store

        return battles_of_store(source, no_urls=settings.exclude_url)
    asked = [name for category in categories for name in category.needs if name not in COLUMNS]
    more = [*settings.features, *asked]
    return read_battles(Path(source), no_urls=settings.exclude_url, more=more)


def _filtered(
    settings: EloAnalysisSettings, battles: "pl.DataFrame", refused: Counter[str]
) -> "pl.DataFrame":
    """The battles that count, those left out counted by reason."""
    import polars as pl

    from fastchat.arena.outliers import first_votes_a_day

    excluded = list(settings.exclude_models)
    rules: dict[str, pl.Expr] = {}
    if settings.langs:
        rules["language"] = pl.col("language").is_in(list(settings.langs))
    if settings.exclude_unknown_lang:
        rules["unknown_language"] = pl.col("language") != "unknown"
    if excluded:
        rules["excluded_model"] = ~(
            pl.col("model_a").is_in(excluded) | pl.col("model_b").is_in(excluded)
        )
    rules["named"] = pl.col("anony")
    if settings.exclude_tie:
        rules["tie"] = ~pl.col("winner").str.starts_with("tie")
    for reason, rule in rules.items():
        battles = _counted(battles, battles.filter(rule), reason, refused)
    if (n := settings.daily_vote_per_user) is not None:
        kept = first_votes_a_day(battles, n, time_zone=settings.time_zone)
        battles = _counted(battles, kept, "daily_limit", refused)
    if settings.run_outlier_detect:
        battles = _counted(battles, _without_outliers(battles), "outlier_voter", refused)
    return battles


def _counted(
    before: "pl.DataFrame", after: "pl.DataFrame", reason: str, refused: Counter[str]
) -> "pl.DataFrame":
    if after.height != before.height:
        refused[reason] += before.height - after.height
    return after


def _without_outliers(battles: "pl.DataFrame") -> "pl.DataFrame":
    """The battles without those of outlying voters, who are printed."""
    import numpy as np
    import polars as pl

    from fastchat.arena.outliers import outliers
    from fastchat.arena.votes import votes_from_frame

    if not battles.height:
        return battles
    judges = battles["judge"].fill_null("")
    names = judges.unique().sort().to_list()
    codes = judges.cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int64)
    found = [o for o in outliers(votes_from_frame(battles), codes) if names[o.judge]]
    for outlier in found:
        shown = f"{names[outlier.judge]}: {outlier.n_votes} votes"
        print(f"left out as an outlier: {shown}, evidence {outlier.evidence:.3g}")
    return battles.filter(~judges.is_in([names[o.judge] for o in found]))


def _write(settings: EloAnalysisSettings, board: "Leaderboard") -> list[str]:
    """Writes all files; gives their names."""
    from fastchat.arena.export import csv_of, html_of, json_of
    from fastchat.arena.row_files import written_at_once

    files = {"ratings.csv": csv_of(board.first).encode(), "ratings.json": json_of(board)}
    files |= {
        f"ratings_{key}.csv": csv_of(b).encode()
        for key, b in board.boards.items()
        if b is not board.first
    }
    files["leaderboard.html"] = html_of(board).encode()
    if not settings.no_plots:
        files |= _plots(settings, board)
    for name, data in files.items():
        with written_at_once(settings.output_dir / name) as part:
            part.write_bytes(data)
    return list(files)


def _plots(settings: EloAnalysisSettings, board: "Leaderboard") -> dict[str, bytes]:
    """The plots of every board, as pages that share one copy of the plotting library."""
    from plotly.offline import get_plotlyjs

    from fastchat.arena.plots import FIGURES, rating_over_time

    shown = max(1, round(25 * settings.scale))
    script = "plotly.min.js"
    files = {script: get_plotlyjs().encode()}
    for key, one in board.boards.items():
        for name, draw in FIGURES.items():
            figure = draw(one, shown=shown)
            files[f"{name}_{key}.html"] = figure.to_html(include_plotlyjs=script).encode()
    if board.history:
        figure = rating_over_time(board, shown=shown)
        files["rating_over_time.html"] = figure.to_html(include_plotlyjs=script).encode()
    return files


def _print(board: "Leaderboard", written: list[str], folder: Path) -> None:
    for one in board.boards.values():
        _print_board(one)
    for reason, n in board.refused.items():
        print(f"left out, {reason}: {n}")
    anchor = f"anchor {board.anchor}" if board.anchor else "mean rating 1000"
    print(f"last vote: {board.updated}; {anchor}; {board.interval} intervals")
    print(f"written to {folder}: {', '.join(written[:8])}{', ...' if len(written) > 8 else ''}")


def _print_board(board: "Board") -> None:
    print(f"{board.title}: {board.n_votes} votes, {len(board.rows)} models")
    for row in board.rows:
        width = f"+{row.upper - row.rating:.1f}/-{row.rating - row.lower:.1f}"
        print(f"{row.rank:4d}  {row.rating:8.2f}  {width:>16}  {row.n_battles:8d}  {row.model}")
    for name, (value, lower, upper) in board.coefficients.items():
        print(f"      {name}: {value:.4f} ({lower:.4f} to {upper:.4f}) a standard deviation")
    for note in board.notes:
        print(f"note: {note}")
    print()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        EloAnalysisSettings,
        elo_analysis,
        argv,
        prog="python3 -m fastchat.serve.monitor.elo_analysis",
    )


if __name__ == "__main__":
    raise SystemExit(main())
