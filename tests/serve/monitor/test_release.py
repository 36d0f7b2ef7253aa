import json
from pathlib import Path
from typing import Any

import pytest
from arena_votes import stored_vote

from fastchat.serve.monitor import release
from fastchat.store.arena import ArenaStore
from fastchat.store.database import Database


def battle(i: int, asked: str = "", **more: Any) -> dict[str, Any]:
    asked = asked or f"How do I cook {i + 10} eggs in water?"

    def said(answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]

    row = {
        "question_id": f"q{i}",
        "model_a": "m-a",
        "model_b": "m-b",
        "winner": "model_a",
        "judge": "arena_user_9.9.9.9",
        "conversation_a": said(f"Boil it, {i} minutes."),
        "conversation_b": said("Bake it."),
        "turn": 1,
        "language": "English",
        "tstamp": 1.7e9 + i,
    }
    return row | more


def released(
    tmp_path: Path, rows: list[Any], config: str = "", *flags: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows given away and the report."""
    source = tmp_path / "battles.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    source.write_text("\n".join(lines), "utf-8")
    file = tmp_path / "release.toml"
    file.write_text(f'input = ["{source}"]\noutput_dir = "{tmp_path / "out"}"\n{config}', "utf-8")
    assert release.main(["--config", str(file), *flags]) == 0
    folder = tmp_path / "out" / "arena"
    data = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    return data, json.loads((folder / "report.json").read_text())


def test_what_belongs_to_a_person_is_gone_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = "I am jane@example.org, +44 20 7946 0958, card 4111111111111111, sk-abcdefgh12345678"
    data, report = released(tmp_path, [battle(1, asked), battle(2)])
    text = json.dumps(data)
    for secret in ("jane", "7946", "4111", "sk-abc", "9.9.9.9"):
        assert secret not in text
    assert data[0]["conversation_b"][0]["content"].count("<REDACTED>") == 4
    assert report["redacted"] == {"key": 2, "email": 2, "card": 2, "phone": 2}
    assert report["rows_redacted"] == 1 and data[0]["redacted"] is True
    assert data[0]["judge"] == data[1]["judge"] and data[0]["judge"].startswith("arena_user_")
    assert data[0]["question_id"] == "q1"
    again, _ = released(tmp_path, [battle(1)])
    assert again[0]["judge"] == data[0]["judge"]
    assert (tmp_path / "out" / "release.key").stat().st_mode & 0o077 == 0
    assert "email 2" in capsys.readouterr().out


def test_every_row_left_out_is_counted_under_its_reason(tmp_path: Path) -> None:
    rows = [
        battle(1),
        battle(1),
        battle(2, conversation_b=[{"role": "user", "content": None}]),
        battle(3, "see <anonymized>"),
        battle(4, "a forbidden word"),
        battle(5, openai_moderation={"flagged": True}),
        battle(6, model_b="vicuna-33b"),
        battle(7, "hi"),
        battle(8, language="French"),
        battle(9, "这是禁词吗, what is that word here"),
        battle(10, "The same long question, twice."),
        battle(11, "The same long question, twice."),
        "[1, 2]",
        '{"question_id": "torn", "conver',
        "no JSON }",
    ]
    config = """
preset = "arena_33k"
block_words = ["forbidden", "禁词"]
languages = ["English"]
drop_frequent = 1
"""
    data, report = released(tmp_path, rows, config)
    assert [row["question_id"] for row in data] == ["q1"]
    assert report["dropped"] == {
        "frequent_prompt": 2,
        "blocked_word": 2,
        **dict.fromkeys(("duplicate", "empty", "anonymized", "flagged", "blocked_model"), 1),
        **dict.fromkeys(("too_short", "language", "not_a_row", "torn_line", "not_json"), 1),
    }
    assert report["read"] == 12 and report["kept"] == 1


@pytest.mark.parametrize(("word", "text"), [("雞蛋", "请问鸡蛋怎么煮"), ("鸡蛋", "請問雞蛋怎麼煮")])
def test_chinese_words_are_blocked_in_both_scripts(tmp_path: Path, word: str, text: str) -> None:
    config = f'block_words = ["{word}"]'
    data, report = released(tmp_path, [battle(1, text), battle(2, "請問米飯怎麼煮")], config)
    assert report["dropped"] == {"blocked_word": 1}
    assert data[0]["conversation_a"][0]["content"] == "請問米飯怎麼煮"


def test_samples_are_the_same_each_time_and_fields_can_go(tmp_path: Path) -> None:
    rows = [battle(i) for i in range(50)]
    first, report = released(tmp_path, rows, 'sample = 10\ndrop_fields = ["tstamp"]')
    again, _ = released(tmp_path, rows, "sample = 10\nseed = 42")
    other, _ = released(tmp_path, rows, "sample = 10\nseed = 7")
    ids = [[row["question_id"] for row in data] for data in (first, again, other)]
    assert ids[0] == ids[1] != ids[2] and len(ids[0]) == 10
    assert ids[0] == sorted(ids[0], key=lambda key: int(key[1:]))
    assert "tstamp" not in first[0] and report["dropped"] == {"not_sampled": 40}


def test_labels_are_joined_before_they_are_asked(tmp_path: Path) -> None:
    tags = tmp_path / "tags.jsonl"
    rows = [{"question_id": "q1", "openai_moderation": {"flagged": True}, "other": 1}]
    rows.append({"question_id": "q2", "openai_moderation": {"flagged": False}, "other": 1})
    tags.write_text("\n".join(map(json.dumps, rows)))
    config = f'[[merge]]\nfile = "{tags}"\nfields = ["openai_moderation"]'
    data, report = released(tmp_path, [battle(1), battle(2)], config)
    assert [row["question_id"] for row in data] == ["q2"]
    assert "other" not in data[0] and report["dropped"] == {"flagged": 1}


def test_statistics_describe_what_is_given_away(tmp_path: Path) -> None:
    released(tmp_path, [battle(1), battle(2, winner="tie", judge="arena_user_1.1.1.1")])
    shown = json.loads((tmp_path / "out" / "arena" / "statistics.json").read_text())
    assert shown["rows"] == 2 and shown["users"] == 2 and shown["turns"] == {"1": 2}
    assert shown["models"] == {"m-a": 2, "m-b": 2} and shown["languages"] == {"English": 2}
    assert shown["outcomes"] == {"model_a": 1, "tie": 1}
    assert shown["mean_characters"]["user"] == 31.0


def test_a_store_is_released_as_a_file_is(tmp_path: Path, database_url: str) -> None:
    database = Database(database_url)
    ArenaStore(database).record([stored_vote("1", "leftvote"), stored_vote("2", "tievote")])
    database.close()
    file = tmp_path / "release.toml"
    file.write_text(f'input = ["{database_url}"]\noutput_dir = "{tmp_path}"\nformat = "parquet"')
    assert release.main(["--config", str(file)]) == 0
    report = json.loads((tmp_path / "arena" / "report.json").read_text())
    assert report["kept"] == 2


class FakeHub:
    """Takes what the hub's client is given."""

    seen: list[tuple[str, Any]] = []  # noqa: RUF012 - one for all instances on purpose

    def __init__(self, token: str | None) -> None:
        self.seen.append(("token", token))

    def create_repo(self, repo: str, **how: Any) -> None:
        self.seen.append((repo, how["private"]))

    def upload_file(self, *, path_in_repo: str, **_: Any) -> None:
        self.seen.append(("file", path_in_repo))


def test_only_a_push_leaves_this_machine_and_never_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "HfApi", FakeHub)
    FakeHub.seen.clear()
    released(tmp_path, [battle(1)])
    assert FakeHub.seen == []
    released(tmp_path, [battle(1)], "", "--push", "me/arena", "--token", "t")
    names = ["data.jsonl", "statistics.json", "report.json"]
    pushed = [("file", name) for name in names]
    assert FakeHub.seen == [("token", "t"), ("me/arena", True), *pushed]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("input = []", "input"),
        ('input = ["x.jsonl"]\nsampel = 3', "sampel"),
        ('input = ["x.jsonl"]\npreset = "mine"', "preset 'mine' is not known"),
        ('input = ["nowhere.jsonl"]', "nowhere.jsonl is not there"),
        ('input = ["x.txt"]', "no file of rows"),
        ("input =", "no TOML"),
        ('input = ["x.jsonl"]\nname = "../up"', "name"),
        ('input = ["x.jsonl"]\nname = ".."', "name"),
        ('input = ["x.jsonl"]\nformat = "xml"', "format"),
        ('input = ["x.jsonl"]\nsample = 0', "sample"),
        ('input = ["x.jsonl"]\nblock_words_file = "none"', "block_words_file none"),
        ('input = ["x.jsonl"]\nredaction_file = "none.toml"', "none.toml cannot be read"),
        ('input = ["x.jsonl"]\nmerge = [{file = "n.json", fields = ["a"]}]', "n.json is not there"),
    ],
)
def test_what_cannot_be_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    config: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("release.toml").write_text(config)
    assert release.main(["--config", "release.toml"]) != 0
    assert words in capsys.readouterr().err


def test_nothing_left_is_told_and_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, file = tmp_path / "b.json", tmp_path / "r.toml"
    source.write_text("[]")
    file.write_text(f'input = ["{source}"]\noutput_dir = "{tmp_path / "out"}"')
    assert release.main(["--config", str(file)]) == 1
    assert "nothing is left" in capsys.readouterr().err
    assert not (tmp_path / "out" / "arena").exists()
