"""Labels of a fake judge: read, resumed, joined; and what they are worth beside people's."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_judge import FakeJudge

from fastchat.arena.battle_files import read_battles
from fastchat.arena.categories import chosen_categories
from fastchat.serve.monitor import criteria_labeling
from fastchat.serve.monitor.classify import display_score, label
from fastchat.serve.monitor.classify.tasks import read_tasks, shipped_tasks


@pytest.fixture
def fake() -> Iterator[FakeJudge]:
    judge = FakeJudge()
    judge.rule = by_words
    judge.start()
    yield judge
    judge.stop()


def words_of(body: dict[str, Any]) -> str:
    content = body["messages"][0]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def by_words(body: dict[str, Any]) -> str:
    """Maths where there is a digit; instructions by the number of commas; criteria likewise."""
    text = words_of(body)
    asked = text.partition("<person>\n")[2].partition("\n</person>")[0]
    if "<score>3</score>" in text:
        return f"Many demands. <score>{min(5, asked.count(','))}</score>"
    if "[1, 3]" in text:
        return f"{list(range(1, 1 + asked.count(',')))}"
    yes = any(c.isdigit() for c in asked)
    return f"<think><decision>no</decision></think><decision>{'yes' if yes else 'No'}</decision>"


def battle(i: int, asked: Any, **more: Any) -> dict[str, Any]:
    said = [{"role": "user", "content": asked}, {"role": "assistant", "content": "Well."}]
    row = {"question_id": f"q{i}", "model_a": "a", "model_b": "b", "winner": "tie", "tstamp": i}
    return row | {"conversation_a": said, "conversation_b": said} | more


CRITERIA = shipped_tasks()["criteria_v0.1"].entry.criteria
PROMPTS = ["What is 2 + 2?", "Write, in French, in verse, briefly, now", "Hi {prompt}", "Hi, you"]


def written(tmp_path: Path, rows: list[Any]) -> Path:
    path = tmp_path / "battles.json"
    path.write_text(json.dumps(rows))
    return path


def config(tmp_path: Path, fake: FakeJudge, **more: Any) -> Path:
    values: dict[str, Any] = {
        "input_file": str(tmp_path / "battles.json"),
        "output_file": str(tmp_path / "labels.jsonl"),
        "task_name": ["math_v0.1", "if_v0.1", "criteria_v0.1"],
        "model_name": "judge",
        "endpoints": [{"api_base": fake.url, "api_key": "k"}] * 2,
        "parallel": 4,
        "retry_sleep": 0.001,
    }
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(values | more))  # JSON is YAML
    return path


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    return {r["question_id"]: r for r in map(json.loads, path.read_text().splitlines())}


def test_labels_make_the_categories_of_the_boards(fake: FakeJudge, tmp_path: Path) -> None:
    written(tmp_path, [battle(i, text) for i, text in enumerate(PROMPTS)])
    assert label.main(["--config", str(config(tmp_path, fake, convert_to_json=True))]) == 0
    tags = {key: row["category_tag"] for key, row in rows_of(tmp_path / "labels.jsonl").items()}
    assert [tags[f"q{i}"]["math_v0.1"] for i in range(4)] == [{"math": i == 0} for i in range(4)]
    assert tags["q1"]["if_v0.1"] == {"if": True, "score": 4.0}
    assert tags["q3"]["if_v0.1"] == {"if": False, "score": 1.0}
    assert tags["q3"]["criteria_v0.1"]["specificity"] is True
    assert sum(tags["q1"]["criteria_v0.1"].values()) == 4
    assert any("Hi {prompt}" in words_of(body) for body in fake.bodies)
    frame = read_battles(tmp_path / "labels.json").frame
    (math,) = chosen_categories(["math"], {})
    assert math.select(frame)["question_id"].to_list() == ["q0"]
    assert fake.most_waiting <= 4


def test_only_what_is_missing_is_asked(fake: FakeJudge, tmp_path: Path) -> None:
    rows = [battle(i, text) for i, text in enumerate(PROMPTS)]
    written(tmp_path, rows[:2])
    argv = ["--config", str(config(tmp_path, fake, task_name=["math_v0.1"]))]
    assert label.main(argv) == 0 and len(fake.bodies) == 2
    written(tmp_path, [*rows, rows[0]])
    assert label.main(argv) == 0 and len(fake.bodies) == 4
    with (tmp_path / "labels.jsonl").open("a") as file:
        file.write('{"question_id": "q9", "conv')
    (tmp_path / "labels.cache.jsonl").unlink()
    argv = ["--config", str(config(tmp_path, fake, task_name=["math_v0.1", "if_v0.1"]))]
    assert label.main(argv) == 0 and len(fake.bodies) == 8
    assert label.main(argv) == 0 and len(fake.bodies) == 8
    assert set(rows_of(tmp_path / "labels.jsonl")) == {"q0", "q1", "q2", "q3"}
    more = {"output_file": str(tmp_path / "new.jsonl"), "task_name": ["if_v0.1"]}
    more["cache_file"] = str(tmp_path / "labels.jsonl")
    assert label.main(["--config", str(config(tmp_path, fake, **more))]) == 0
    assert len(fake.bodies) == 8 and len(rows_of(tmp_path / "new.jsonl")) == 4


def test_what_cannot_be_read_or_had_is_told_and_asked_again_later(
    fake: FakeJudge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path, [battle(i, text) for i, text in enumerate(PROMPTS)])
    fake.rule = lambda b: (503, {}) if "2 + 2" in words_of(b) else "No idea."
    errors = tmp_path / "errors.jsonl"
    argv = ["--config", str(config(tmp_path, fake, error_output=str(errors)))]
    assert label.main(argv) == 1
    said = capsys.readouterr()
    assert "labelled: 0 rows" in said.out
    assert "3 failed: math_v0.1: the reply holds no answer" in said.err
    assert "HTTP 503 in each of 3 tries" in said.err
    assert len(errors.read_text().splitlines()) == 4
    fake.rule = by_words
    (tmp_path / "labels.cache.jsonl").unlink()
    assert label.main(argv) == 0
    assert len(rows_of(tmp_path / "labels.jsonl")) == 4


def test_pictures_are_shown_to_the_judge(fake: FakeJudge, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"\x89PNG cat")
    written(tmp_path, [battle(1, ["Read line 1", ["cat"]]), battle(2, "no picture")])
    flags = {"task_name": ["ocr_v0.1"], "image_dir": str(tmp_path)}
    assert label.main(["--config", str(config(tmp_path, fake, **flags)), "--vision"]) == 0
    assert list(rows_of(tmp_path / "labels.jsonl")) == ["q1"]
    (body,) = fake.bodies
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    assert url == "data:image/png;base64," + base64.b64encode(b"\x89PNG cat").decode()


def test_labels_of_a_cache_and_of_the_rows_themselves_are_kept(
    fake: FakeJudge, tmp_path: Path
) -> None:
    math, own = {"math_v0.1": {"math": True}}, {"if_v0.1": {"if": True, "score": 5.0}}
    rows = [battle(i, text) for i, text in enumerate(PROMPTS)]
    written(tmp_path, [rows[0] | {"category_tag": own}, *rows[1:]])
    cache = tmp_path / "cache.jsonl"
    lines = [rows[0] | {"category_tag": math}, rows[0] | {"category_tag": {"other": {"x": True}}}]
    cache.write_text("\n".join(map(json.dumps, lines)))
    folder = tmp_path / "new" / "folder"
    more: dict[str, Any] = {"cache_file": str(cache)}
    more["output_file"] = str(folder / "labels.jsonl")
    more["task_name"] = ["math_v0.1", "if_v0.1"]
    argv = ["--config", str(config(tmp_path, fake, **more))]
    assert label.main(argv) == 0 and len(fake.bodies) == 6
    done = rows_of(folder / "labels.jsonl")
    assert done["q0"]["category_tag"] == {**math, **own, "other": {"x": True}}
    assert len(done) == 4
    with (folder / "labels.jsonl").open("a") as file:  # a later row of a key is the one that counts
        file.write(json.dumps(done["q1"] | {"category_tag": {**math, **own}}) + "\n")
    assert label.main(argv) == 0 and len(fake.bodies) == 6
    done = rows_of(folder / "labels.jsonl")
    assert done["q1"]["category_tag"] == {**math, **own} and len(done) == 4


def test_testing_labels_the_first_rows_only(fake: FakeJudge, tmp_path: Path) -> None:
    written(tmp_path, [battle(i, f"Prompt {i}") for i in range(30)])
    argv = ["--config", str(config(tmp_path, fake, task_name=["math_v0.1"])), "--testing"]
    assert label.main(argv) == 0
    assert len(rows_of(tmp_path / "labels.jsonl")) == 10


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"task_name": ["maths"]}, "task_name 'maths' is not known"),
        ({"task_name": ["ocr_v0.1"]}, "give --vision"),
        ({"task_name": []}, "task_name"),
        ({"output_file": "x.json"}, "must end in .jsonl"),
        ({"input_file": "nowhere.json"}, "nowhere.json"),
        ({"modle": 1}, "modle"),
    ],
)
def test_configurations_that_cannot_be_are_told(
    fake: FakeJudge,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: dict[str, Any],
    words: str,
) -> None:
    written(tmp_path, [battle(1, "x")])
    assert label.main(["--config", str(config(tmp_path, fake, **more))]) != 0
    assert words in capsys.readouterr().err


def test_criteria_stand_in_a_field_of_their_own(fake: FakeJudge, tmp_path: Path) -> None:
    path = written(tmp_path, [battle(i, text) for i, text in enumerate(PROMPTS)])
    out = tmp_path / "criteria.jsonl"
    argv = ["--input-file", str(path), "--output-file", str(out), "--api-base", fake.url]
    assert criteria_labeling.main([*argv, "--convert-to-json"]) == 0
    tags = {key: row["criteria_tag"] for key, row in rows_of(out).items()}
    assert sum(tags["q1"].values()) == 4 and sum(tags["q0"].values()) == 0
    assert len(tags["q0"]) == 7 and len(json.loads(out.with_suffix(".json").read_text())) == 4
    n_asked = len(fake.bodies)
    assert criteria_labeling.main(argv) == 0 and len(fake.bodies) == n_asked


def test_agreement_with_people_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(values: str) -> str:
        tags = [{"math_v0.1": {"math": v == "y"}} for v in values]
        return json.dumps([battle(i, f"P{i}", category_tag=t) for i, t in enumerate(tags)])

    folder = tmp_path / "math_bench"
    folder.mkdir()
    (folder / "test.json").write_text(rows("yyyynnnnnn"))
    (folder / "judge.json").write_text(rows("yyynynnnnn"))
    argv = ["--bench", "math_bench", "--label-dir", str(tmp_path)]
    assert display_score.main([*argv, "--display-conflict"]) == 0
    said = capsys.readouterr().out
    assert "| math_v0.1.math | 10 | 0.800 | 0.750 | 0.750 |" in said
    assert "judge yes, people no: 'P4'" in said and "judge no, people yes: 'P3'" in said
    (folder / "judge.json").unlink()
    assert display_score.main(argv) == 1
    assert "holds no judge's labels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "reply", "labels"),
    [
        ("math_v0.1", "no. <DECISION> Yes </DECISION>", {"math": True}),
        ("math_v0.1", "<decision>maybe</decision>", None),
        ("math_v0.1", "yes", None),
        ("if_v0.1", "<score>4</score>", {"if": True, "score": 4.0}),
        ("if_v0.1", "<score>3.9</score>", {"if": False, "score": 3.9}),
        ("if_v0.1", "<score>7</score>", None),
        ("criteria_v0.1", "[]", dict.fromkeys(CRITERIA, False)),
        ("criteria_v0.1", "[1, 9]", None),
        ("criteria_v0.1", "1, 3", None),
    ],
)
def test_replies_are_read_or_not_guessed(task: str, reply: str, labels: Any) -> None:
    assert shipped_tasks()[task].labels(reply) == labels


def test_a_task_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('[task.law]\nanswer = "decision"\nlabel = "law"\nprompt = "Law? {prompt}"\n')
    law = read_tasks(path)["law"]
    assert law.ask("x" * 20_000) == "Law? " + "x" * 12_500
    path.write_text('[task.law]\nanswer = "decision"\nlabel = "law"\nprompt = "Law?"\n')
    with pytest.raises(Exception, match="must hold"):
        read_tasks(path)
