"""Leaderboards as files: CSV, JSON and one HTML page, and back from JSON."""

import csv
import html
import io
from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any, cast

import orjson

from fastchat.arena.leaderboard import Board, Interval, Leaderboard, Row, System, Ties
from fastchat.arena.model_table import ModelInfo
from fastchat.arena.rating import TieParameter
from fastchat.errors import DataError

COLUMNS = (
    *("model", "rating", "rating_q025", "rating_q975", "rank", "num_battles"),
    *("variance", "average_win_rate"),
)
FORMAT = "fastchat-leaderboard-1"

_DATA_MARK, _TABLE_MARK, _TITLE_MARK = "{{data}}", "{{table}}", "{{title}}"


def csv_of(board: Board) -> str:
    """The board as CSV, its columns those of `COLUMNS`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(record.values() for record in map(_record, board.rows))
    return text.getvalue()


def _record(row: Row) -> dict[str, Any]:
    values = (row.model, row.rating, row.lower, row.upper, row.rank, row.n_battles)
    return dict(zip(COLUMNS, (*values, row.variance, row.win_rate), strict=True))


def json_of(leaderboard: Leaderboard) -> bytes:
    """The whole leaderboard; `ratings` repeats the rows of the first board for plain readers."""
    return orjson.dumps(
        {
            "format": FORMAT,
            "ratings": [_record(row) for row in leaderboard.first.rows],
            "updated": leaderboard.updated,
            **_plain(leaderboard),
        },
        option=orjson.OPT_INDENT_2,
    )


def _plain(leaderboard: Leaderboard) -> dict[str, Any]:
    plain = asdict(leaderboard)
    plain["boards"] = list(plain["boards"].values())
    return plain


def leaderboard_from_json(data: bytes) -> Leaderboard:
    """The leaderboard that `json_of` wrote.

    Raises:
        DataError: the bytes are no such leaderboard.
    """
    if data[:1] == b"\x80":
        raise DataError(
            "this results file is a pickle, which could run any code; make a new one with "
            "`python3 -m fastchat.serve.monitor.elo_analysis`, which writes ratings.json."
        )
    try:
        value = orjson.loads(data)
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise DataError("this is no leaderboard; elo_analysis writes one, ratings.json.")
        boards = [_board(board) for board in value["boards"]]
        return Leaderboard(
            boards={board.key: board for board in boards},
            updated_at=value["updated_at"],
            system=cast(System, value["system"]),
            interval=cast(Interval, value["interval"]),
            ties=cast(Ties, value.get("ties", "half")),
            anchor=value["anchor"],
            history=tuple((moment, ratings) for moment, ratings in value["history"]),
            refused=value["refused"],
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        what = f"the field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(f"the leaderboard is damaged: {what}.") from None


def _board(value: Mapping[str, Any]) -> Board:
    return Board(
        key=value["key"],
        title=value["title"],
        description=value["description"],
        rows=tuple(Row(**row) for row in value["rows"]),
        n_votes=value["n_votes"],
        win_fractions=tuple(map(tuple, value["win_fractions"])),
        battles=tuple(map(tuple, value["battles"])),
        coefficients={k: (v[0], v[1], v[2]) for k, v in value["coefficients"].items()},
        tie=TieParameter(**value["tie"]) if value.get("tie") else None,
        notes=tuple(value["notes"]),
    )


def read_leaderboard(path: Path) -> Leaderboard:
    """The leaderboard of a file that elo_analysis wrote.

    Raises:
        DataError: the file is missing or is none; a pickle is refused unread.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        return leaderboard_from_json(data)
    except DataError as error:
        raise DataError(f"{path.name}: {error.message}") from None


def html_of(leaderboard: Leaderboard, *, title: str = "Leaderboard") -> str:
    """One page that asks for nothing else: tables, intervals and win fractions of all boards.

    Without scripts it shows the first board's table.
    """
    page = resources.files("fastchat.arena").joinpath("board_page.html").read_text("utf-8")
    plain = _plain(leaderboard) | {"updated": leaderboard.updated}
    data = orjson.dumps(plain).decode().replace("<", "\\u003c").replace("&", "\\u0026")
    before, after = page.split(_DATA_MARK)
    table = "\n".join(map(_table_row, leaderboard.first.rows))
    before = before.replace(_TITLE_MARK, html.escape(title)).replace(_TABLE_MARK, table)
    return before + data + after


def _table_row(row: Row) -> str:
    cells = (
        str(row.rank),
        row.model,
        f"{row.rating:.0f}",
        f"+{row.upper - row.rating:.0f}/-{row.rating - row.lower:.0f}",
        f"{row.n_battles:,}",
    )
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def markdown_of(
    board: Board,
    infos: Mapping[str, ModelInfo],
    *,
    beside: tuple[str, Mapping[str, str]] | None = None,
    deprecated: bool = True,
) -> str:
    """The board as a Markdown table under its title.

    beside: title and cells, by model, of a second column.
    deprecated: show models that the table of models calls so.
    """
    more = [beside[0]] if beside else []
    heads = ["Rank", *more, "Model", "Rating", "95 % interval", "Votes"]
    heads += ["Organization", "License", "Knowledge cutoff"]
    is_text = ("Model", *heads[-3:])
    marks = ["---" if head in is_text else "--:" for head in heads]
    lines = [f"## {board.title}", "", f"| {' | '.join(heads)} |", f"| {' | '.join(marks)} |"]
    for row in board.rows:
        info = infos.get(row.model, ModelInfo(key=row.model, name=row.model))
        if info.deprecated and not deprecated:
            continue
        name = f"[{info.name}]({info.link})" if info.link else info.name
        interval = f"+{row.upper - row.rating:.0f}/-{row.rating - row.lower:.0f}"
        cells = [str(row.rank), *([beside[1].get(row.model, "")] if beside else []), name]
        cells += [f"{row.rating:.0f}", interval, str(row.n_battles)]
        cells += [info.organization, info.license, info.knowledge_cutoff]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, *(f"\nNote: {note}" for note in board.notes), ""])
