"""Votes of battles as pairs: who won, what is no pair and why."""

import json
from pathlib import Path
from typing import Any

import pytest

from fastchat.data import votes_to_pairs
from fastchat.data.votes_to_pairs import Report, pairs_from_votes


def state(reply: str, *, model: str, question: str = "Why is the sky blue?") -> dict[str, Any]:
    return {
        "template_name": "vicuna_v1.1",
        "system_message": "Be brief.",
        "roles": ["USER", "ASSISTANT"],
        "messages": [
            ["USER", "an example"],
            ["ASSISTANT", "of it"],
            ["USER", question],
            ["ASSISTANT", reply],
        ],
        "offset": 2,
        "conv_id": "c" + question[:3] + reply[:3],
        "model_name": model,
    }


def vote(kind: str = "leftvote", **changed: Any) -> dict[str, Any]:
    line = {
        "tstamp": 1700000000.5,
        "type": kind,
        "models": ["", ""],
        "states": [state("Air scatters it.", model="a"), state("It is not.", model="b")],
        "ip": "127.0.0.1",
    }
    return line | changed


def made(*lines: Any, **options: Any) -> tuple[list[Any], Report]:
    report = Report()
    return list(pairs_from_votes(lines, report, **options)), report


def test_the_winner_is_chosen_whichever_side_it_stood_on() -> None:
    [left], _ = made(vote("leftvote"))
    assert left.as_json() == {
        "id": "cWhyAir",
        "prompt": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Why is the sky blue?"},
        ],
        "chosen": "Air scatters it.",
        "rejected": "It is not.",
        "chosen_model": "a",
        "rejected_model": "b",
        "tstamp": 1700000000.5,
    }
    [right], _ = made(vote("rightvote"))
    assert (right.chosen, right.rejected_model) == ("It is not.", "a")


def spoiled(**fields: Any) -> list[dict[str, Any]]:
    return [state("Air.", model="a") | fields, state("No.", model="b")]


LONG = [["USER", "a"], ["ASSISTANT", "b"], ["USER", "c"], ["ASSISTANT", "d"]]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (vote("tievote"), "tie"),
        (vote("bothbad_vote"), "both bad"),
        (None, "not valid JSON"),
        (vote(states=[state("x", model="a")]), "not two conversations"),
        (vote(states=spoiled(offset=9)), "offset outside of the messages"),
        (vote(states=spoiled(messages="x")), "not a conversation"),
        (vote(states=spoiled(messages=[["USER", "a"]], offset=0)), "no answer"),
        (vote(states=spoiled(messages=[["USER", "a"], ["A", None]], offset=0)), "empty message"),
        (
            vote(states=spoiled(messages=[["USER", "a"], ["A", "so▌"]], offset=0)),
            "unfinished answer",
        ),
        (
            vote(states=spoiled(messages=[["USER", "a"], ["A", "**NETWORK ERROR** x"]], offset=0)),
            "an error in place of an answer",
        ),
        (vote(states=spoiled(messages=[["U", ["a", []]], ["A", "b"]], offset=0)), "pictures"),
        (vote(states=spoiled(messages=LONG, offset=0)), "more than one round"),
        (vote(states=[state("x", model="a")] * 2), "equal answers"),
        (vote(states=[state("x", model="a"), state("y", model="a")]), "one model against itself"),
        (
            vote(states=[state("x", model="a"), state("y", model="b", question="What?")]),
            "different questions",
        ),
    ],
)
def test_what_gives_no_pair_is_counted_under_its_reason(line: Any, reason: str) -> None:
    pairs, report = made(line)
    assert pairs == [] and report.dropped == {reason: 1}
    assert (report.read, report.kept) == (1, 0)


def test_lines_that_are_no_votes_are_passed_over_and_a_battle_counts_once() -> None:
    pairs, report = made({"type": "chat"}, vote(), {"type": "upvote"}, vote("rightvote"))
    assert len(pairs) == 1
    assert (report.read, report.kept, report.dropped) == (2, 1, {"voted twice": 1})


def test_the_first_round_of_longer_battles_on_request() -> None:
    a, b = state("x", model="a"), state("y", model="b")
    longer = [s | {"messages": [*s["messages"], ["U", "more"], ["A", "so"]]} for s in (a, b)]
    [pair], _ = made(vote(states=longer), rounds="first")
    assert (pair.chosen, pair.rejected) == ("x", "y")


def test_named_battles_can_be_left_out() -> None:
    named = vote(models=["vicuna-13b", "alpaca"])
    assert made(named)[0] and made(vote(models=["### Model A", "### Model B"]))[0]
    assert made(named, anonymous_only=True)[1].dropped == {"models were shown": 1}
    assert made(vote(), anonymous_only=True)[0]


def test_the_command_writes_pairs_and_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, out, report = (tmp_path / n for n in ("2026-05-01-conv.json", "p.jsonl", "r.json"))
    log.write_text("\n".join([json.dumps(vote()), json.dumps(vote("tievote")), "{"]), "utf-8")
    argv = ["--in", str(log), "--out", str(out), "--report", str(report)]
    assert votes_to_pairs.main(argv) == 0
    [line] = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert line["chosen"] == "Air scatters it."
    assert json.loads(report.read_text("utf-8")) == {
        "read": 3,
        "kept": 1,
        "dropped": {"tie": 1, "not valid JSON": 1},
    }
    log.write_text(json.dumps(vote("tievote")), "utf-8")
    out.unlink()
    assert votes_to_pairs.main(argv[:4]) == 1
    assert "no vote gives a pair: tie: 1." in capsys.readouterr().err
    assert not out.exists()
    assert votes_to_pairs.main(["--in", str(tmp_path / "none"), "--out", str(out)]) == 1
