import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from arena_votes import stored_vote

from fastchat.arena.battle_files import read_battles
from fastchat.arena.events import Event, LoggedState, append
from fastchat.serve.monitor import basic_stats, clean_battle_data, elo_analysis
from fastchat.store.arena import ArenaStore
from fastchat.store.database import Database

T0 = 1_700_000_000.0


def state(key: str, model: str, answer: str = "Boil it for three minutes.") -> LoggedState:
    said = (("user", "How do I cook an egg in water?"), ("assistant", answer))
    return LoggedState(conv_id=key, model_name=model, messages=said)


def vote(i: int, kind: Any = "leftvote", *, ip: str = "9.9.9.9", **more: Any) -> Event:
    values: dict[str, Any] = {"models": ("", ""), "tstamp": T0 + i}
    values["states"] = (state(f"a{i}", "m-a"), state(f"b{i}", "m-b"))
    return Event(type=kind, ip=ip, **(values | more))


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Logs of two servers, out of order."""
    folder = tmp_path / "logs"
    append(folder / "server0", vote(5, "rightvote"))
    append(folder / "server0", vote(6, models=("m-a", "m-b")))
    append(folder / "server1", vote(1))
    append(folder / "server1", vote(2, states=(state("x", "m-a", "I am Vicuna."), state("y", "b"))))
    append(
        folder / "server1",
        Event(type="chat", tstamp=T0, models=("m-a",), states=(state("a1", "m-a"),)),
    )
    path = append(folder / "server1", vote(3, "bothbad_vote", ip="6.6.6.6"))
    with path.open("ab") as file:
        file.write(b'{"type": "le')
    return folder


def cleaned(logs: Path, tmp_path: Path, *flags: str) -> Path:
    out = tmp_path / "out"
    argv = ["--log-root", str(logs), "--output-dir", str(out), *flags]
    assert clean_battle_data.main(argv) == 0
    (path,) = out.iterdir()
    return path


def test_logs_become_battles_in_the_order_of_time(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = cleaned(logs, tmp_path)
    assert path.name == "clean_battle_20231114.json"
    rows = json.loads(path.read_text())
    assert [row["tstamp"] - T0 for row in rows] == [1, 3, 5, 6]
    assert [row["anony"] for row in rows] == [True, True, True, False]
    assert "conversation_a" not in rows[0] and "question_id" not in rows[0]
    assert "9.9.9.9" not in path.read_text()
    said = capsys.readouterr().out
    assert "kept: 4 votes, of them 3 blind" in said
    assert "leaked_identity: 1" in said and "torn_line: 1" in said and "vicuna 1" in said
    assert "9.9.9.9" not in said


def test_voters_keep_their_names_from_run_to_run(logs: Path, tmp_path: Path) -> None:
    first = json.loads(cleaned(logs, tmp_path).read_text())
    again = json.loads(cleaned(logs, tmp_path).read_text())
    assert [r["judge"] for r in first] == [r["judge"] for r in again]
    assert first[0]["judge"] == first[2]["judge"] != first[1]["judge"]
    assert (logs / "voter.key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet"])
@pytest.mark.parametrize("mode", ["simple", "conv_release"])
def test_every_kind_of_output_is_rated(logs: Path, tmp_path: Path, kind: str, mode: str) -> None:
    path = cleaned(logs, tmp_path, "--format", kind, "--mode", mode)
    n = 4 if mode == "simple" else 3
    table = read_battles(path)
    assert table.frame.height == n
    assert table.frame["sum_assistant_tokens_a"].null_count() == 0
    assert table.frame["is_refusal"].to_list() == [False] * n
    argv = ["--clean-battle-file", str(path), "--output-dir", str(tmp_path / "r"), "--no-plots"]
    assert elo_analysis.main(argv) == 0
    if mode == "conv_release" and kind == "parquet":
        assert pl.read_parquet(path)["conversation_a"][0][0]["role"] == "user"


def test_rules_by_flags(logs: Path, tmp_path: Path) -> None:
    banned = tmp_path / "banned.json"
    banned.write_text('["6.6.6.6"]')
    flags = ["--ban-ip-file", str(banned), "--no-sanitize-ip", "--since", "2023-11-14"]
    rows = json.loads(cleaned(logs, tmp_path, *flags, "--until", "2023-11-15").read_text())
    assert [row["judge"] for row in rows] == ["arena_user_9.9.9.9"] * 3
    assert not (logs / "voter.key").exists()


@pytest.mark.parametrize("names", [["m-a,other"], ["other", "m-a"]])
def test_models_can_be_left_out(logs: Path, tmp_path: Path, names: list[str]) -> None:
    path = cleaned(logs, tmp_path, "--exclude-model-names", *names)
    assert path.name == "clean_battle_empty.json" and json.loads(path.read_text()) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--since", "yesterday"], "--since 'yesterday'"),
        (["--max-num-files", "0"], "--max-num-files 0"),
        (["--ban-ip-file", "nowhere.json"], "nowhere.json"),
        (["--max-votes-per-hour", "0"], "--max-votes-per-hour"),
        (["--log-root", "/nonexistent/logs", "--no-sanitize-ip"], "no log"),
    ],
)
def test_what_cannot_be_is_told(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    argv = ["--log-root", str(logs), "--output-dir", str(tmp_path / "out"), *flags]
    assert clean_battle_data.main(argv) != 0
    assert words in capsys.readouterr().err


def test_a_store_is_cleaned_and_rated_as_logs_are(tmp_path: Path, database_url: str) -> None:
    database = Database(database_url)
    ArenaStore(database).record([stored_vote("1", "leftvote"), stored_vote("2", "tievote")])
    database.close()
    out = tmp_path / "out"
    argv = ["--database-url", database_url, "--output-dir", str(out), "--key-file"]
    assert clean_battle_data.main([*argv, str(tmp_path / "key")]) == 0
    (path,) = out.iterdir()
    assert [row["winner"] for row in json.loads(path.read_text())] == ["model_a", "tie"]
    argv = ["--clean-battle-file", database_url, "--output-dir", str(tmp_path / "r"), "--no-plots"]
    assert elo_analysis.main(argv) == 0
    assert "m-a" in (tmp_path / "r" / "ratings.csv").read_text()


def test_logs_are_rated_without_a_file_of_battles(logs: Path, tmp_path: Path) -> None:
    argv = ["--log-root", str(logs), "--output-dir", str(tmp_path / "r"), "--no-plots"]
    assert elo_analysis.main(argv) == 0
    assert "m-a" in (tmp_path / "r" / "ratings.csv").read_text()


def test_basic_stats_prints_exact_counts(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "days.html"
    assert basic_stats.main(["--log-root", str(logs), "--plot-file", str(plot)]) == 0
    said = capsys.readouterr().out
    assert "| leftvote | 3 |" in said and "| chat | 1 |" in said
    assert "| leftvote | 2 |" in said.split("### Blind votes")[1]
    assert "| m-a | 1 | 1 | 1 |" in said
    assert "| 2023-11-14 | 1 | 5 |" in said and "| torn_line | 1 |" in said
    assert plot.stat().st_size > 1000
