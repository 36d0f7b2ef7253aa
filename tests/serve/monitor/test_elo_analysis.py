import csv
import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from voting import tool

from fastchat.arena.export import read_leaderboard
from fastchat.serve.monitor.elo_analysis import main


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


def made(shared: Path, tmp_path: Path, kind: str, *more: Any) -> tuple[Path, dict[str, Any]]:
    """A file of battles of known strengths, and the truth."""
    rows, truth = getattr(tool(shared, "gen_battles"), f"gen_{kind}")(*more)
    path = tmp_path / "battles.json"
    path.write_text(json.dumps(rows))
    return path, truth


def run(path: Path, out: Path, *flags: str) -> None:
    assert main(["--clean-battle-file", str(path), "--output-dir", str(out), *flags]) == 0


@pytest.mark.parametrize(("kind", "m"), [("exact", 6), ("style", 3)])
def test_the_command_recovers_the_true_ratings(
    shared: Path, tmp_path: Path, kind: str, m: int
) -> None:
    path, truth = made(shared, tmp_path, kind, m)
    run(path, tmp_path / "out", *(["--style-control"] if kind == "style" else []))
    found = rows_of(tmp_path / "out" / "ratings.csv")
    for model, rating in truth["ratings"].items():
        assert float(found[model]["rating"]) == pytest.approx(rating, abs=1e-3)
    written = json.loads((tmp_path / "out" / "ratings.json").read_text())
    assert {r["model"] for r in written["ratings"]} == set(truth["ratings"])
    for name in ("intervals", "average_win_rate", "win_fraction_heatmap", "battle_count_heatmap"):
        assert (tmp_path / "out" / f"{name}_full.html").stat().st_size > 1000
    assert (tmp_path / "out" / "rating_over_time.html").exists()
    assert (tmp_path / "out" / "leaderboard.html").exists()


def test_votes_that_do_not_count_are_left_out_and_told(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, truth = made(shared, tmp_path, "random", 8, 4000, 0, 0.3, 0.8, 0.2)
    path.write_text(path.read_text()[:-1] + ', {"model_a": "x", "model_b": "y", "winner": "?"}]')
    run(path, tmp_path / "out", "--no-plots", "--run-outlier-detect", "--moments", "0")
    said = capsys.readouterr().out
    assert f"left out, named: {4000 - truth['n_anonymous']}" in said
    assert "left out, unknown_outcome: 1" in said
    held = [
        float(row["rating_q025"]) <= truth["ratings"][m] <= float(row["rating_q975"])
        for m, row in rows_of(tmp_path / "out" / "ratings.csv").items()
    ]
    assert sum(held) >= 6


def test_filters_and_methods(shared: Path, tmp_path: Path) -> None:
    path, _ = made(shared, tmp_path, "random", 6, 3000, 1, 0.3, 0.8, 0.0)
    out = tmp_path / "out"
    flags = ["--langs", "English,German", "--exclude-models", "model-001", "--exclude-tie"]
    flags += ["--exclude-unknown-lang", "--daily-vote-per-user", "20", "--anchor-model"]
    flags += ["model-002", "--anchor-rating", "1114", "--category", "full,english,math"]
    run(path, out, *flags, "--rating-system", "elo", "--num-bootstrap", "10", "--no-plots")
    found = rows_of(out / "ratings.csv")
    assert "model-001" not in found
    assert float(found["model-002"]["rating"]) == pytest.approx(1114)
    assert rows_of(out / "ratings_english.csv")
    assert rows_of(out / "ratings_math.csv") == {}
    run(path, out, "--interval", "bootstrap", "--num-bootstrap", "20", "--reweight", "--no-plots")
    assert len(rows_of(out / "ratings.csv")) == 6


def battles_with_a_bias(n: int = 600) -> list[dict[str, Any]]:
    """Equal models, of which the quicker wins three times of four; which one is told twice."""
    rows: list[dict[str, Any]] = []
    for i in range(n):
        quick = 1 if i % 2 else -1
        won = quick if i % 8 < 6 else -quick
        pair = [("x", "y"), ("y", "z"), ("z", "x")][i % 3]
        row = {"model_a": pair[0], "model_b": pair[1], "tstamp": i, "quicker": quick}
        row |= {"speed_a": 3 + quick, "speed_b": 3 - quick}
        rows.append(row | {"winner": "model_a" if won > 0 else "model_b"})
    return rows


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet"])
@pytest.mark.parametrize("name", ["quicker", "speed"])
def test_columns_of_ones_own_are_held_apart(tmp_path: Path, kind: str, name: str) -> None:
    path, rows = tmp_path / f"battles.{kind}", battles_with_a_bias()
    if kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        frame = pl.DataFrame(rows)
        _ = frame.write_csv(path) if kind == "csv" else frame.write_parquet(path)
    run(path, tmp_path / "out", "--features", name, "--no-plots")
    board = read_leaderboard(tmp_path / "out" / "ratings.json")
    assert list(board.boards) == ["full_features", "full"]
    assert board.first.title == f"Overall, {name}"
    value, lower, upper = board.first.coefficients[name]
    assert value == pytest.approx(math.log(3), abs=1e-3) and lower < value < upper
    run(path, tmp_path / "shrunk", "--features", name, "--feature-ridge", "1", "--no-plots")
    shrunk = read_leaderboard(tmp_path / "shrunk" / "ratings.json")
    assert 0 < shrunk.first.coefficients[name][0] < value / 2


def test_style_and_columns_of_ones_own_go_together_by_every_interval(
    shared: Path, tmp_path: Path
) -> None:
    path, truth = made(shared, tmp_path, "style", 3)
    rows = json.loads(path.read_text())
    for i, row in enumerate(rows):
        row["late"] = i % 2
    path.write_text(json.dumps(rows))
    flags = ["--style-control", "--features", "late", "--no-plots"]
    found = {}
    for more in ("sandwich", "bootstrap"):
        run(path, tmp_path / more, *flags, "--interval", more, "--num-bootstrap", "5")
        found[more] = read_leaderboard(tmp_path / more / "ratings.json").first
    assert found["sandwich"].key == "full_style_control"
    assert {"late", "header_count"} <= set(found["sandwich"].coefficients)
    for row in found["sandwich"].rows:
        assert row.rating == pytest.approx(truth["ratings"][row.model], abs=0.5)
    lower = {kind: [row.lower for row in board.rows] for kind, board in found.items()}
    assert lower["sandwich"] != lower["bootstrap"]
    run(path, tmp_path / "weighed", *flags, "--reweight")
    weighed = read_leaderboard(tmp_path / "weighed" / "ratings.json").first
    assert [row.variance for row in weighed.rows] != [
        row.variance for row in found["sandwich"].rows
    ]


@pytest.mark.parametrize(("ties", "name"), [("davidson", "nu"), ("rao-kupper", "kappa")])
def test_ties_as_an_outcome_of_their_own_are_rated_and_told(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ties: str, name: str
) -> None:
    path, _ = made(shared, tmp_path, "random", 6, 3000, 1, 0.3, 0.8, 0.0)
    run(path, tmp_path / "half", "--no-plots")
    run(path, tmp_path / "out", "--no-plots", "--ties", ties, "--category", "full,english")
    half, found = (rows_of(tmp_path / folder / "ratings.csv") for folder in ("half", "out"))
    assert list(half) == list(found)
    assert half["model-001"]["rating"] != found["model-001"]["rating"]
    assert f"how often equal models tie: {name} " in capsys.readouterr().out
    board = read_leaderboard(tmp_path / "out" / "ratings.json")
    assert board.ties == ties
    for one in board.boards.values():
        assert one.tie is not None and one.tie.lower is not None and one.tie.upper is not None
        assert one.tie.name == name and one.tie.lower < one.tie.value < one.tie.upper
    run(path, tmp_path / "resampled", "--no-plots", "--ties", ties, "--interval", "bootstrap")
    resampled = rows_of(tmp_path / "resampled" / "ratings.csv")
    assert resampled["model-001"]["rating"] == found["model-001"]["rating"]
    assert resampled["model-001"]["rating_q025"] != found["model-001"]["rating_q025"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num-bootstrap", "1"], "--num-bootstrap"),
        (["--rating-system", "elo", "--style-control"], "--style-control"),
        (["--rating-system", "elo", "--ties", "davidson"], "--ties davidson"),
        (["--style-control", "--ties", "rao-kupper"], "--ties rao-kupper"),
        (["--features", "speed"], "no column speed, nor speed_a and speed_b"),
        (["--features", "winner"], "winner holds no numbers"),
        (["--features", "turn", "--ties", "davidson"], "--features"),
        (["--features", "turn", "--rating-system", "elo"], "--features"),
        (["--features", "turn", "--feature-ridge", "-1"], "--feature-ridge -1"),
        (["--category", "medicine"], "medicine"),
        (["--anchor-model", "nobody"], "nobody"),
        (["--exclude-url"], "no texts"),
        (["--daily-vote-per-user", "0"], "daily-vote-per-user"),
        (["--daily-vote-per-user", "1", "--time-zone", "Mars"], "Mars"),
    ],
)
def test_what_cannot_be_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    path = tmp_path / "battles.json"
    path.write_text('[{"model_a": "x", "model_b": "y", "winner": "tie"}]')
    argv = ["--clean-battle-file", str(path), "--output-dir", str(tmp_path / "out"), "--no-plots"]
    assert main([*argv, *flags]) != 0
    assert words in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "battles.json"
    path.write_text('[{"model_a": "x", "model_b": "y", "winner": "tie"}]')
    argv = ["--clean-battle-file", str(path), "--output-dir", str(path / "out"), "--no-plots"]
    assert main(argv) == 1
    said = capsys.readouterr().err
    assert "cannot be written" in said and "Traceback" not in said


@pytest.mark.parametrize(
    "rows",
    ["[]", '[{"model_a": "x", "model_b": "y", "winner": "model_a"}]'],
)
def test_hardly_any_battles_make_files_without_nan(tmp_path: Path, rows: str) -> None:
    (tmp_path / "battles.json").write_text(rows)
    run(tmp_path / "battles.json", tmp_path / "out", "--style-control")
    for name in ("ratings.csv", "ratings.json", "leaderboard.html"):
        text = (tmp_path / "out" / name).read_text().lower()
        assert "nan" not in text.replace("nan'", "") and "infinity" not in text


def test_texts_with_an_address_of_the_web_can_be_left_out(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "see https://example.org"}]
    base = {"model_a": "x", "model_b": "y", "winner": "tie", "conversation_b": []}
    other = [{"role": "user", "content": "see there"}]
    rows = [base | {"conversation_a": said}, base | {"conversation_a": other}]
    (tmp_path / "b.json").write_text(json.dumps(rows))
    run(tmp_path / "b.json", tmp_path / "out", "--exclude-url", "--no-plots")
    assert rows_of(tmp_path / "out" / "ratings.csv")["x"]["num_battles"] == "1"
