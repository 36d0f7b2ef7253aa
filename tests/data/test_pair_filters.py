"""The loop: votes of logs, battle files and stores become the pairs that train_dpo learns from."""

import json
from pathlib import Path
from typing import Any

import pytest
from arena_votes import stored_vote

from fastchat.data import votes_to_pairs
from fastchat.store.arena import ArenaStore
from fastchat.store.arena_records import StoredBattle, StoredConversation, StoredVote
from fastchat.store.database import Database


def battle(
    i: int,
    winner: str = "model_a",
    *,
    asked: str = "How do I cook an egg in water?",
    answers: tuple[str, str] = ("Boil it.", "Bake it."),
    **more: Any,
) -> dict[str, Any]:
    row: dict[str, Any] = {"question_id": f"q{i}", "winner": winner, "anony": True, "tstamp": i}
    for side, text in zip("ab", answers, strict=True):
        row[f"model_{side}"] = f"m-{side}"
        said = [{"role": "user", "content": asked}, {"role": "assistant", "content": text}]
        row[f"conversation_{side}"] = said
    return row | more


def pairs(
    tmp_path: Path, source: str | list[Any], *flags: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The pairs written and the report."""
    if not isinstance(source, str):
        path = tmp_path / "battles.json"
        path.write_text(json.dumps(source), "utf-8")
        source = str(path)
    out, report = tmp_path / "pairs.jsonl", tmp_path / "report.json"
    argv = ["--in", source, "--out", str(out), "--report", str(report), *flags]
    assert votes_to_pairs.main(argv) == 0
    return [json.loads(line) for line in out.read_text().splitlines()], json.loads(
        report.read_text()
    )


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet"])
def test_cleaned_battles_are_votes(tmp_path: Path, suffix: str) -> None:
    from fastchat.arena.row_files import write_rows

    path = tmp_path / f"clean_battle_conv.{suffix}"
    rows = [battle(1), battle(2, "model_b"), battle(3, "tie"), battle(4, "win"), battle(1)]
    write_rows(path, rows)
    made, report = pairs(tmp_path, str(path))
    assert [(p["chosen"], p["chosen_model"]) for p in made] == [
        ("Boil it.", "m-a"),
        ("Bake it.", "m-b"),
    ]
    assert report["dropped"] == {"tie": 1, "unknown outcome": 1, "voted twice": 1}


def test_a_store_gives_the_votes_of_people_and_of_judges_on_request(
    database_url: str, tmp_path: Path
) -> None:
    database = Database(database_url)
    votes = [stored_vote("1", "leftvote"), stored_vote("2", "rightvote", origin="judge")]
    ArenaStore(database).record([*votes, stored_vote("3", "leftvote", kind="named")])
    database.close()
    made, report = pairs(tmp_path, database_url)
    assert [p["id"] for p in made] == ["1-a", "3-a"]
    assert report["dropped"] == {"a judge's vote": 1}
    made, _ = pairs(tmp_path, database_url, "--judge-votes", "--anonymous-only")
    assert [p["id"] for p in made] == ["1-a", "2-a"]


def test_voters_must_agree(tmp_path: Path) -> None:
    def votes(start: int, answers: tuple[str, str], *winners: str) -> list[dict[str, Any]]:
        return [battle(start + i, w, answers=answers) for i, w in enumerate(winners)]

    rows = [
        *votes(0, ("a", "b"), "model_b", "model_a", "model_a", "model_a"),
        *votes(10, ("c", "d"), "model_a", "model_b"),
        *votes(20, ("e", "f"), "model_a", "tie", "tie"),
        *votes(30, ("g", "h"), "model_a"),
        battle(40, "model_b", answers=("h", "g")),
    ]
    made, report = pairs(tmp_path, rows, "--min-agreement", "0.7", "--min-votes", "2")
    assert [(p["chosen"], p["rejected"]) for p in made] == [("a", "b"), ("g", "h")]
    assert made[0]["chosen_model"] == "m-a"
    assert report["dropped"] == {"tie": 2, "voted on before": 5, "voters disagree": 2}
    made, report = pairs(tmp_path, rows, "--min-agreement", "0.7", "--min-votes", "3")
    assert [p["chosen"] for p in made] == ["a"]
    assert report["kept"] == 1 and report["dropped"]["too few votes"] == 2


def test_a_voter_counts_once_and_models_tell_battles_on_one_question_apart(tmp_path: Path) -> None:
    mine: dict[str, Any] = {"judge": "arena_user_1"}
    yours: dict[str, Any] = {"judge": "arena_user_2"}
    rows = [battle(1, **mine), battle(1, **mine), battle(1, "model_b", **yours)]
    rows.append(battle(1, model_b="m-c", answers=("Boil it.", "Fry it."), **yours))
    made, report = pairs(tmp_path, rows)
    assert [(p["chosen_model"], p["rejected_model"]) for p in made] == [
        ("m-a", "m-b"),
        ("m-a", "m-c"),
    ]
    assert report["dropped"] == {"voted twice": 2}
    made, report = pairs(tmp_path, rows, "--min-agreement", "0.6")
    assert [p["rejected"] for p in made] == ["Fry it."]
    assert report["dropped"] == {"voted twice": 1, "voted on before": 1, "voters disagree": 1}


def test_votes_of_a_person_are_counted_in_the_order_of_time(tmp_path: Path) -> None:
    rows = [battle(i, judge="arena_user_1", answers=(f"a{i}", "b")) for i in range(9, 0, -1)]
    flags = ("--category", "overall_limit_5_user_vote")
    made, report = pairs(tmp_path, rows, *flags)
    assert [p["id"] for p in made] == ["q5", "q4", "q3", "q2", "q1"]
    assert report["dropped"] == {"another category": 4}


def test_agreement_then_language_then_category(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"asked": "Write this in Python please, my friend."}
    rows = [
        battle(i, answers=(f"```{i}```", f"n{i}"), judge=f"u{j}", **asked)
        for i in range(3)
        for j in range(i + 1)
    ]
    rows += [
        battle(9, "tie", answers=("```2```", "n2"), judge="u9", **asked),
        battle(11),
        battle(11),
    ]
    flags = ("--min-agreement", "0.75", "--min-votes", "2", "--langs", "English")
    made, report = pairs(tmp_path, rows, *flags, "--category", "coding")
    assert [p["chosen"] for p in made] == ["```1```", "```2```"]
    dropped = {"tie": 1, "voted on before": 3, "too few votes": 2, "voted twice": 1}
    assert report == {"read": 9, "kept": 2, "dropped": dropped}


def test_questions_by_language_and_category(tmp_path: Path) -> None:
    code: dict[str, Any] = {
        "asked": "Write this in Python please, my friend.",
        "answers": ("```x```", "no"),
    }
    tag: dict[str, Any] = {"category_tag": {"math_v0.1": {"math": True}}}
    rows = [
        battle(1),
        battle(2, asked="请问鸡蛋应该怎么煮才好吃？"),
        battle(3, **code),
        battle(4, asked="Add two and two, then explain.", **tag),
        battle(5, language="Chinese"),
    ]
    made, report = pairs(tmp_path, rows, "--langs", "English")
    assert [p["id"] for p in made] == ["q1", "q3", "q4"]
    assert report["dropped"] == {"another language": 2}
    assert [p["id"] for p in pairs(tmp_path, rows, "--category", "chinese")[0]] == ["q2", "q5"]
    assert [p["id"] for p in pairs(tmp_path, rows, "--category", "coding,english")[0]] == ["q3"]
    made, report = pairs(tmp_path, rows, "--category", "math")
    assert [p["id"] for p in made] == ["q4"] and report["dropped"] == {"another category": 4}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--min-agreement", "1.5"], "--min-agreement 1.5"),
        (["--min-votes", "2"], "--min-votes needs"),
        (["--category", "nowhere"], "category 'nowhere'"),
        (["--category", "math"], "classify.label"),
        (["--out", "nowhere/p.jsonl"], "there is no folder nowhere"),
        (["--out", "."], "is a folder"),
        (["--report", "nowhere/r.json"], "--report nowhere/r.json cannot be written"),
    ],
)
def test_what_cannot_be_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    path = tmp_path / "b.json"
    path.write_text(json.dumps([battle(1)]))
    argv = ["--in", str(path), "--out", str(tmp_path / "p.jsonl"), *flags]
    assert votes_to_pairs.main(argv) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_from_votes_in_a_store_to_a_model_that_learned_from_them(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    import fastchat.model as package
    from fastchat.train import train_dpo

    database = Database(str(tmp_path / "arena.db"))
    ArenaStore(database).record([_liked(i) for i in range(4)])
    database.close()
    out = tmp_path / "pairs.jsonl"
    assert votes_to_pairs.main(["--in", str(tmp_path / "arena.db"), "--out", str(out)]) == 0
    model = Path(package.__file__).parent / "vicuna-tiny"
    argv = ["--model_name_or_path", str(model), "--data_path", str(out)]
    argv += ["--output_dir", str(tmp_path / "dpo"), "--max_steps", "6", "--learning_rate", "5e-4"]
    argv += ["--model_max_length", "128", "--per_device_train_batch_size", "2", "--beta", "0.2"]
    argv += ["--logging_steps", "1", "--report_to", "none", "--use_cpu", "True", "--bf16", "False"]
    assert train_dpo.main([*argv, "--save_strategy", "no"]) == 0
    assert (tmp_path / "dpo" / "model.safetensors").is_file()
    state = json.loads((tmp_path / "dpo" / "trainer_state.json").read_text("utf-8"))
    margins = [e["rewards/margins"] for e in state["log_history"] if "rewards/margins" in e]
    assert margins[-1] > margins[0] + 0.05


def _liked(i: int) -> StoredVote:
    """A vote for the polite answer."""
    asked = ("Who are you?", "What is the sun?", "Say hello.", "Name a colour.")[i]
    answers = {"a": "I am glad to help you.", "b": "Go away."}
    a, b = (
        StoredConversation(
            id=f"{i}{side}",
            model=f"m-{side}",
            messages=(("user", asked), ("assistant", text)),
            updated_at=1.0,
        )
        for side, text in answers.items()
    )
    fought = StoredBattle(id=str(i), kind="anonymous", a=a, b=b, started_at=1.0)
    return StoredVote(battle=fought, outcome="leftvote", turn=1, voted_at=2.0, voter="v")
