"""What the ratings' command owes its reader: every source, every flag, odd data, old pickles."""

import csv
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from arena_votes import stored_vote
from voting import tool

from fastchat.arena.events import Event, LoggedState, append
from fastchat.arena.export import read_leaderboard
from fastchat.arena.leaderboard import Leaderboard
from fastchat.serve.monitor.elo_analysis import main
from fastchat.store.arena import ArenaStore
from fastchat.store.database import Database

T0 = 1_700_000_000.0
Rows = list[dict[str, Any]]


@pytest.fixture
def analysed(tmp_path: Path) -> Callable[..., Leaderboard]:
    """Runs the command on rows, or on what the flags name; gives the board that it wrote."""

    def run(rows: Rows | None, *flags: str, plots: bool = False) -> Leaderboard:
        out = tmp_path / "out"
        source: list[str] = []
        if rows is not None:
            (tmp_path / "battles.json").write_text(json.dumps(rows))
            source = ["--clean-battle-file", str(tmp_path / "battles.json")]
        drawn = [] if plots else ["--no-plots"]
        assert main([*source, "--output-dir", str(out), *drawn, *flags]) == 0
        return read_leaderboard(out / "ratings.json")

    return run


def battle(a: str, b: str, winner: str = "model_a", **more: Any) -> dict[str, Any]:
    return {"model_a": a, "model_b": b, "winner": winner, "judge": "u", "tstamp": T0, **more}


def random_rows(shared: Path, n: int = 2000, m: int = 6) -> Rows:
    return tool(shared, "gen_battles").gen_random(m, n, 3, 0.3, 0.8, 0.0)[0]


BEATEN_ALL_ROUND = [battle(a, b) for a, b in ("ab", "bc", "ca")] * 5
ODD: dict[str, tuple[Rows, str]] = {
    "groups that never met": (
        [*BEATEN_ALL_ROUND, *(battle("x", "y", w) for w in ("model_a", "model_b"))],
        "2 groups of models never met",
    ),
    "a model that never lost": (
        [*BEATEN_ALL_ROUND, *[battle("best", "a")] * 4],
        "never lost, so no upper bound from votes: best",
    ),
    "a model that never won": (
        [*BEATEN_ALL_ROUND, *[battle("b", "worst")] * 4],
        "never won, so no lower bound from votes: worst",
    ),
    "one group that won every battle against the others": (
        [*BEATEN_ALL_ROUND, *(battle(x, y) for x, y in ("xy", "yx", "ax", "by"))],
        "one group of models won every battle",
    ),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("flags", [[], ["--ties", "davidson"], ["--interval", "bootstrap"]])
def test_odd_battles_make_a_finite_board_that_says_so(
    analysed: Callable[..., Leaderboard],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    flags: list[str],
) -> None:
    rows, words = ODD[kind]
    board = analysed(rows, *flags)
    assert words in capsys.readouterr().out
    assert any(words in note for note in board.first.notes)
    assert any("ridge" in note for note in board.first.notes)
    battled = {row[side] for row in rows for side in ("model_a", "model_b")}
    assert {row.model for row in board.first.rows} == battled
    text = (tmp_path / "out" / "ratings.json").read_text().lower()
    assert "nan" not in text and "inf" not in text
    if "never lost" in words:
        assert board.first.rows[0].model == "best"
    if "never won" in words:
        assert board.first.rows[-1].model == "worst"


def test_the_anchor_is_stated_or_that_there_is_none(
    shared: Path, analysed: Callable[..., Leaderboard], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = random_rows(shared)
    free = analysed(rows)
    assert "mean rating 1000" in capsys.readouterr().out
    assert free.anchor is None
    mean = sum(row.rating for row in free.first.rows) / len(free.first.rows)
    assert mean == pytest.approx(1000.0)
    held = analysed(rows, "--anchor-model", "model-003", "--anchor-rating", "1114")
    assert "anchor model-003" in capsys.readouterr().out
    assert held.anchor == "model-003"
    assert {r.model: r.rating for r in held.first.rows}["model-003"] == pytest.approx(1114.0)


def logged(folder: Path, tstamp: float, model: str) -> None:
    """A blind vote for `model` against `other`, in the log of its day."""
    said = (("user", "How do I cook an egg?"), ("assistant", "Boil it."))
    states = tuple(
        LoggedState(conv_id=f"{tstamp}-{name}", model_name=name, messages=said)
        for name in (model, "other")
    )
    append(
        folder,
        Event(type="leftvote", tstamp=tstamp, models=("", ""), states=states, ip="1.1.1.1"),
    )


def test_without_a_file_the_newest_logs_are_read(
    tmp_path: Path, analysed: Callable[..., Leaderboard]
) -> None:
    for day, model in enumerate(("old", "newer", "newest")):
        logged(tmp_path / "logs", T0 + day * 86_400, model)
    flags = ["--log-root", str(tmp_path / "logs")]
    assert {r.model for r in analysed(None, *flags).first.rows} == {
        *("old", "newer", "newest", "other")
    }
    newest = analysed(None, *flags, "--max-num-files", "1")
    assert {r.model for r in newest.first.rows} == {"newest", "other"}
    two = analysed(None, "--logdir", str(tmp_path / "logs"), "--max-num-files", "2")
    assert two.first.n_votes == 2


def test_a_store_is_read(database_url: str, analysed: Callable[..., Leaderboard]) -> None:
    database = Database(database_url)
    votes = [stored_vote(str(i), ("leftvote", "rightvote")[i % 2]) for i in range(6)]
    ArenaStore(database).record([*votes, stored_vote("judge", "leftvote", origin="judge")])
    database.close()
    board = analysed(None, "--clean-battle-file", database_url)
    assert board.first.n_votes == 6
    assert {row.model for row in board.first.rows} == {"m-a", "m-b"}
    assert board.refused == {"judge_vote": 1}


@pytest.mark.parametrize(
    "flags", [["--rating-system", "elo"], ["--interval", "bootstrap"]], ids=["elo", "bootstrap"]
)
def test_the_seed_decides_the_resamples(
    shared: Path, analysed: Callable[..., Leaderboard], flags: list[str]
) -> None:
    rows = random_rows(shared, 400)
    few = [*flags, "--num-bootstrap", "12"]
    first, same, other = (analysed(rows, *few, "--seed", seed).first for seed in ("1", "1", "2"))
    assert [r.lower for r in first.rows] == [r.lower for r in same.rows]
    assert [r.lower for r in first.rows] != [r.lower for r in other.rows]
    alone = analysed(rows, *few, "--seed", "1", "--num-cpu", "1").first
    assert [r.lower for r in alone.rows] == [r.lower for r in first.rows]


def test_the_scale_says_how_many_models_a_figure_shows(
    tmp_path: Path, analysed: Callable[..., Leaderboard]
) -> None:
    models = [f"model-{i:02d}" for i in range(8)]
    rows = [battle(a, b, w) for w in ("model_a", "tie", "model_b") for a in models for b in models]
    rows = [row for row in rows if row["model_a"] != row["model_b"]]
    analysed(rows, "--scale", "0.2", "--moments", "2", plots=True)
    for name in ("intervals_full", "win_fraction_heatmap_full", "rating_over_time"):
        page = (tmp_path / "out" / f"{name}.html").read_text()
        assert sum(model in page for model in models) == 5


def test_categories_of_ones_own_and_the_published_ones(
    tmp_path: Path, analysed: Callable[..., Leaderboard]
) -> None:
    own = tmp_path / "more.toml"
    own.write_text('[category.at_one]\ntitle = "At one"\n[category.at_one.where]\nhour = 1\n')
    rows = [
        battle("a", "b", w, hour=h, language=lang)
        for w in ("model_a", "model_b")
        for h, lang in ((1, "English"), (13, "Chinese"), (20, "English"))
    ]
    names = "full,chinese,english,at_one"
    board = analysed(rows, "--category", names, "--category-file", str(own))
    assert [(key, one.n_votes) for key, one in board.boards.items()] == [
        ("full", 6),
        ("chinese", 2),
        ("english", 4),
        ("at_one", 2),
    ]
    untold = [battle("a", "b"), battle("b", "a")]
    for battles in (untold, []):
        board = analysed(battles, "--category", "at_one,full", "--category-file", str(own))
        assert [one.n_votes for one in board.boards.values()] == [0, len(battles)]


def test_voters_against_everybody_are_listed_and_left_out_and_hardly_any_honest_one(
    shared: Path, analysed: Callable[..., Leaderboard], capsys: pytest.CaptureFixture[str]
) -> None:
    rows, truth = tool(shared, "gen_battles").gen_random(8, 8000, 5, 0.2, 1.5, 0.0)
    for i, row in enumerate(rows):
        row["judge"] = f"honest-{i % 300}"
    for row in rows[:60]:
        row["judge"] = "planted"
        better = truth["ratings"][row["model_a"]] > truth["ratings"][row["model_b"]]
        row["winner"] = "model_b" if better else "model_a"
    board = analysed(rows, "--run-outlier-detect")
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("left out as")]
    assert any("planted: 60 votes, evidence" in line for line in lines)
    assert len([line for line in lines if "honest" in line]) <= 0.05 * 300
    assert board.refused["outlier_voter"] >= 60


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "it ran")


@pytest.mark.parametrize("name", ["battles.pkl", "battles.json", "battles.parquet", "battles.csv"])
def test_a_pickle_is_refused_unread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path, mark = tmp_path / name, tmp_path / "mark"
    path.write_bytes(pickle.dumps(Trap(mark)))
    assert main(["--clean-battle-file", str(path), "--output-dir", str(tmp_path / "out")]) != 0
    assert name in capsys.readouterr().err
    assert not mark.exists() and not (tmp_path / "out").exists()


def test_tables_have_the_published_columns_best_model_first(
    shared: Path, tmp_path: Path, analysed: Callable[..., Leaderboard]
) -> None:
    board = analysed(random_rows(shared)).first
    with (tmp_path / "out" / "ratings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:6] == [
        *("model", "rating", "rating_q025", "rating_q975", "rank", "num_battles")
    ]
    for row, one in zip(rows, board.rows, strict=True):
        wanted = 1 + sum(float(r["rating_q025"]) > float(row["rating_q975"]) for r in rows)
        assert (row["model"], int(row["rank"])) == (one.model, wanted)
        assert float(row["rating_q025"]) < float(row["rating"]) < float(row["rating_q975"])
    assert [float(r["rating"]) for r in rows] == sorted(
        (float(r["rating"]) for r in rows), reverse=True
    )


@pytest.mark.slow
def test_intervals_of_many_votes_hold_the_truth_where_named_votes_are_left_out(
    shared: Path, analysed: Callable[..., Leaderboard]
) -> None:
    """200,000 votes on 60 models, of which 5 % are named and inverted."""
    rows, truth = tool(shared, "gen_battles").gen_random(60, 200_000, 0, 0.3, 0.8, 0.05)

    def share_held(board: Leaderboard) -> float:
        held = [r.lower <= truth["ratings"][r.model] <= r.upper for r in board.first.rows]
        return sum(held) / 60

    assert share_held(analysed(rows)) >= 0.88
    for row in rows:
        row["anony"] = True
    assert share_held(analysed(rows)) < 0.5
