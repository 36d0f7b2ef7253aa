"""Conversations out of logs and stores; what people ask over and over; how long they wait."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from arena_votes import stored_vote

from fastchat.arena.events import Event, LoggedState, append
from fastchat.protocol.errors import SERVER_ERROR_MSG
from fastchat.serve.monitor import (
    basic_stats,
    clean_chat_data,
    deduplication,
    inspect_conv,
    intersect_conv_file,
    vote_time_stats,
)
from fastchat.store.arena import ArenaStore
from fastchat.store.arena_records import StoredFlag
from fastchat.store.database import Database

T0 = 1_700_000_000.0


def state(key: str, model: str | None = "m-a", *said: Any) -> LoggedState:
    texts = said or ("How do I cook an egg in water?", "Three minutes.")
    roles = ("user", "assistant")
    messages = tuple((roles[i % 2], text) for i, text in enumerate(texts))
    return LoggedState(conv_id=key, model_name=model, messages=messages)


def chat(i: float, conversation: LoggedState, *, ip: str = "9.9.9.9") -> Event:
    return Event(
        type="chat",
        tstamp=T0 + i,
        models=(conversation.model_name,),
        states=(conversation,),
        ip=ip,
        start=T0 + i - 1,
        finish=T0 + i,
    )


def vote(i: float, kind: Any, a: LoggedState, b: LoggedState) -> Event:
    return Event(type=kind, tstamp=T0 + i, models=("", ""), states=(a, b), ip="9.9.9.9")


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    a, b = state("a", "m-a"), state("b", "m-b", "How do I cook an egg in water?", "Bake it.")
    longer = state("a", "m-a", "How do I cook an egg in water?", "Three.", "And two?", "Same.")
    for event in (
        chat(1, a),
        chat(3, b, ip="8.8.8.8"),
        vote(13, "leftvote", a, b),
        chat(20, longer),
        chat(21, state("", "m-a")),
        chat(22, state("c", "")),
        chat(23, state("d", "m-a", "Hi", SERVER_ERROR_MSG)),
        chat(24, state("e", "m-a", ["look", ["1.png"]], "A cat.")),
        chat(25, state("f", "m-a", "Hi", None)),
        vote(26, "tievote", state("x", "m-a"), state("y", "m-b")),
        Event(type="upvote", tstamp=T0 + 27, models=("m-b",), states=(b,), ip="8.8.8.8"),
    ):
        append(folder, event)
    path = next(folder.iterdir())
    with path.open("ab") as file:
        file.write(b'{"type": "chat", "tst\n\xff\xfe{}\n{"type": "cha')
    return folder


def cleaned(tmp_path: Path, *flags: str) -> list[dict[str, Any]]:
    out = tmp_path / "out"
    assert clean_chat_data.main(["--output-dir", str(out), *flags]) == 0
    (path,) = [p for p in out.iterdir() if p.suffix == ".json"]
    rows = json.loads(path.read_text())
    path.unlink()
    return rows


def test_logs_become_conversations_as_they_stood_last(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = cleaned(tmp_path, "--log-root", str(logs))
    assert [row["conversation_id"] for row in rows] == ["b", "a"]
    assert rows[1]["turn"] == 2 and rows[1]["language"] == "English"
    assert rows[0]["conversation"][1] == {"role": "assistant", "content": "Bake it."}
    assert rows[0]["user_id"] != rows[1]["user_id"] and "9.9.9.9" not in json.dumps(rows)
    said = capsys.readouterr().out
    assert "read: 8 chat events, kept: 2 conversations" in said
    for line in (
        *("earlier_state: 1", "no_conversation_id: 1", "no_model: 1", "error: 1", "not_text: 1"),
        *("no_answer: 1", "torn_line: 2", "not_utf8: 1"),
    ):
        assert f"left out, {line}" in said
    assert "clean_chat_conv_20231114.json" in said


@pytest.mark.parametrize(("action", "ids"), [("leftvote", ["a"]), ("upvote", ["b"])])
def test_other_events_tell_what_people_preferred(
    logs: Path, tmp_path: Path, action: str, ids: list[str]
) -> None:
    rows = cleaned(tmp_path, "--log-root", str(logs), "--action-type", action)
    assert [row["conversation_id"] for row in rows] == ids


@pytest.mark.parametrize(
    ("action", "ids"),
    [("chat", {"1-a", "1-b"}), ("leftvote", {"1-a"}), ("upvote", {"1-b"}), ("downvote", set())],
)
def test_a_store_gives_the_same(
    database_url: str, tmp_path: Path, action: str, ids: set[str]
) -> None:
    database = Database(database_url)
    given = stored_vote("1", "leftvote")
    thumb = StoredFlag(conversation=given.battle.b, kind="upvote", turn=1, at=T0, voter="w")
    ArenaStore(database).record([given, thumb])
    database.close()
    rows = cleaned(tmp_path, "--database-url", database_url, "--action-type", action)
    assert {row["conversation_id"] for row in rows} == ids
    if action == "chat":
        assert rows[0]["user_id"] == rows[1]["user_id"] != ""


def test_what_judges_voted_on_is_in_no_data_set_and_no_statistics(
    database_url: str, tmp_path: Path, logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = Database(database_url)
    votes = [stored_vote("1", "leftvote"), stored_vote("2", "leftvote", origin="judge")]
    ArenaStore(database).record(votes)
    database.close()
    for action, ids in (("chat", {"1-a", "1-b"}), ("leftvote", {"1-a"})):
        rows = cleaned(tmp_path, "--database-url", database_url, "--action-type", action)
        assert {row["conversation_id"] for row in rows} == ids
        n = 2 if action == "chat" else 1
        assert f"left out, judge_vote: {n}" in capsys.readouterr().out
    basic_stats.main(["--log-root", str(logs)])
    before = capsys.readouterr().out
    given = vote(30, "leftvote", state("a", "m-a"), state("b", "m-b"))
    append(logs, replace(given, extra={"origin": "judge"}))
    assert basic_stats.main(["--log-root", str(logs)]) == 0
    after = capsys.readouterr().out.replace("| leftvote of a judge | 1 |\n", "")
    assert after == before
    assert [
        row["conversation_id"]
        for row in cleaned(tmp_path, "--log-root", str(logs), "--action-type", "leftvote")
    ] == ["a"]
    assert vote_time_stats.main(["--log-root", str(logs)]) == 0
    assert "votes: 2, joined: 1" in capsys.readouterr().out
    assert inspect_conv.main(["--source", str(logs), "--type", "all"]) == 0
    assert "leftvote of a judge" in capsys.readouterr().out


def test_rows_of_both_files_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.jsonl"
    first.write_text(json.dumps([{"conversation_id": str(i), "n": i} for i in range(5)]))
    second.write_text('{"conversation_id": "3"}\n{"conversation_id": "1"}\n{"conversation_id"')
    out = tmp_path / "both.jsonl"
    argv = ["--input", str(first), "--conv-id", str(second), "--out-file", str(out)]
    assert intersect_conv_file.main(argv) == 0
    assert [json.loads(line)["n"] for line in out.read_text().splitlines()] == [1, 3]
    assert "rows: 5, ids: 2, in both: 2, torn_line 1" in capsys.readouterr().out
    second = tmp_path / "ids.json"
    second.write_text('["4"]')
    argv[3] = str(second)
    assert intersect_conv_file.main(argv) == 0
    assert [json.loads(line)["n"] for line in out.read_text().splitlines()] == [4]


def test_prompts_that_come_too_often_count_as_a_sample(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def row(i: int, text: str) -> dict[str, Any]:
        said = [{"role": "user", "content": text}, {"role": "assistant", "content": str(i)}]
        return {"question_id": str(i), "conversation_a": said, "conversation_b": said}

    often = [row(i, "hello") for i in range(30)] + [row(30 + i, f"q{i // 2}") for i in range(40)]
    path = tmp_path / "battles.json"
    path.write_text(json.dumps(often))
    argv = ["--input_file", str(path), "--output_dir", str(tmp_path), "--percentile", "0.9"]
    assert deduplication.main(argv) == 0
    tags = [row["dedup_tag"] for row in json.loads((tmp_path / "dedup.json").read_text())]
    assert [tag["high_freq"] for tag in tags] == [True] * 30 + [False] * 40
    assert sum(tag["sampled"] for tag in tags) == 2 + 40
    assert "limit: 2" in capsys.readouterr().out
    again = (tmp_path / "dedup.json").read_bytes()
    assert deduplication.main(argv) == 0 and (tmp_path / "dedup.json").read_bytes() == again


@pytest.mark.parametrize(
    ("flags", "n", "shown"),
    [
        (["--winner", "m-a"], 1, "Bake it."),
        (["--winner", "m-b"], 0, ""),
        (["--winner", "m-a", "--loser", "m-b"], 1, "leftvote"),
        (["--type", "tie", "--winner", "m-b"], 1, "conversation x"),
        (["--type", "all"], 2, "[user] How do I cook"),
        (["--type", "all", "--limit", "1"], 1, "leftvote"),
    ],
)
def test_votes_are_shown(
    logs: Path, capsys: pytest.CaptureFixture[str], flags: list[str], n: int, shown: str
) -> None:
    assert inspect_conv.main(["--source", str(logs), *flags]) == 0
    said = capsys.readouterr().out
    assert f"shown: {n} votes" in said and shown in said


def test_times_from_the_slower_answer_to_the_vote(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = state("s", "m-a"), state("t", "m-b")
    for event in (
        *(chat(40, a), chat(41, b), vote(341, "rightvote", a, b)),
        *(chat(400, state("u")), chat(400, state("v")), vote(399, "leftvote", *map(state, "uv"))),
    ):
        append(logs, event)
    plot = tmp_path / "plot.html"
    assert vote_time_stats.main(["--log-root", str(logs), "--plot-file", str(plot)]) == 0
    said = capsys.readouterr().out
    assert "votes: 4, joined: 2, without their chats: 1, before the answer's end: 1" in said
    assert "mean: 155.0 s, median: 155.0 s, maximum: 300.0 s" in said
    assert "     10-20 s 1" in said and "  over 200 s 1" in said
    assert plot.stat().st_size > 1000


def test_a_store_knows_how_long_its_votes_took(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [replace(stored_vote(str(i), "leftvote"), waited_s=w) for i, w in enumerate((5, 7))]
    given.append(stored_vote("3", "tievote"))
    given.append(replace(stored_vote("4", "tievote", origin="judge"), waited_s=900.0))
    database = Database(database_url)
    ArenaStore(database).record(given)
    database.close()
    assert vote_time_stats.main(["--database-url", database_url]) == 0
    said = capsys.readouterr().out
    assert "votes: 3, joined: 2, without their chats: 1" in said and "mean: 6.0 s" in said


def test_times_without_chats_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append(tmp_path, vote(1, "leftvote", state("a"), state("b")))
    assert vote_time_stats.main(["--log-root", str(tmp_path)]) == 1
    assert "none of 1 votes" in capsys.readouterr().err
