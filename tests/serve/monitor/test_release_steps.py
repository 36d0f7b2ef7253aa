"""The published steps of a release, one command each, from first to last."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = "fastchat.serve.monitor.dataset_release_scripts."
STEPS = {
    "lmsys_chat_1m": (
        *("sample", "filter_bad_conv", "final_post_processing", "merge_oai_tag", "compute_stats"),
        "upload_hf_dataset",
    ),
    "arena_33k": (
        *("sample", "filter_bad_conv", "merge_field", "count_unique_users", "upload_hf_dataset"),
    ),
}


def step(name: str, *argv: str) -> int:
    return importlib.import_module(FOLDER + name).main(list(argv))


def said(asked: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": "Boil it."}]


def chat(i: int, asked: str = "How do I cook an egg in water?", **more: Any) -> dict[str, Any]:
    row = {"conversation_id": f"c{i}", "model": "m-a", "conversation": said(asked), "turn": 1}
    return row | {"language": "English", "user_id": f"u{i % 2}", "tstamp": 1.7e9 + i} | more


def battle(i: int, asked: str = "", **more: Any) -> dict[str, Any]:
    talk = said(asked or f"How do I cook {i} eggs in water?")
    row = {"question_id": f"q{i}", "model_a": "m-a", "model_b": "m-b", "winner": "tie"}
    row |= {"conversation_a": talk, "conversation_b": talk, "judge": f"arena_user_{i % 3}"}
    return row | {"language": "English", "tstamp": 1.7e9 + i} | more


def written(path: str, rows: list[dict[str, Any]]) -> str:
    Path(path).write_text(json.dumps(rows))
    return path


def held(path: str) -> Any:
    return json.loads(Path(path).read_text())


@pytest.mark.parametrize("name", [f"{a}.{b}" for a, steps in STEPS.items() for b in steps])
def test_every_published_step_is_a_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        step(name, "--help")
    assert end.value.code == 0
    assert f"usage: python3 -m {FOLDER}{name}" in capsys.readouterr().out


def test_conversations_go_from_step_to_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [chat(i) for i in range(5)]
    rows += [
        chat(5, "I am jane@example.org, who are you?"),
        chat(6, "see <redacted>"),
        chat(7, "請問雞蛋怎麼煮"),
        chat(8, openai_moderation={"flagged": True}),
        chat(9, conversation=[{"role": "user", "content": None}]),
    ]
    Path("words.txt").write_text("鸡蛋\n", "utf-8")
    source = written("chats.json", rows)
    argv = ["--in-file", source, "--block-words-file", "words.txt"]
    assert step("lmsys_chat_1m.filter_bad_conv", *argv) == 0
    said = capsys.readouterr().out
    for reason in ("anonymized: 1", "blocked_word: 1", "flagged: 1", "empty: 1"):
        assert f"left out, {reason}" in said
    assert step("lmsys_chat_1m.final_post_processing", "--in-file", "chats.s1.json") == 0
    done = held("chats.s2.json")
    assert [row["conversation_id"] for row in done] == [f"c{i}" for i in range(6)]
    assert not any({"tstamp", "user_id"} & row.keys() for row in done)
    assert "jane" not in json.dumps(done) and done[5]["redacted"] is True
    tag = {"flagged": False, "categories": {}}
    tags = written("tags.json", [{"conversation_id": "c1", "openai_moderation": tag, "x": 1}])
    argv = ["--in-file", "chats.s2.json", "--tag-file", tags]
    assert step("lmsys_chat_1m.merge_oai_tag", *argv) == 0
    assert "rows with openai_moderation: 1" in capsys.readouterr().out
    final = held("chats.s3.json")
    assert [row.get("openai_moderation") for row in final[:3]] == [None, tag, None]
    assert "x" not in final[1]
    argv = ["--in-file", "chats.s1.json", "--output-dir", "stats"]
    assert step("lmsys_chat_1m.compute_stats", *argv) == 0
    told = held("stats/statistics.json")
    assert told["rows"] == 6 and told["users"] == 2 and told["turns"] == {"1": 6}
    assert Path("stats/statistics.html").stat().st_size > 1000


def test_battles_go_from_step_to_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [battle(i) for i in range(10, 20)]
    rows += [battle(1, "hi"), battle(2, model_a="vicuna-33b"), battle(3, model_b="mpt-30b-chat")]
    rows += [battle(i, "The same long question, again.") for i in (4, 5)]
    source = written("battles.json", rows)
    assert step("arena_33k.filter_bad_conv", "--in-file", source) == 0
    said = capsys.readouterr().out
    for reason in ("too_short: 1", "blocked_model: 2", "frequent_prompt: 2"):
        assert f"left out, {reason}" in said
    kept = [row["question_id"] for row in held("battles.out.json")]
    assert kept == [f"q{i}" for i in range(10, 20)]
    argv = ["--in-file", source, "--sample", "4", "--out-file", "drawn.json"]
    assert step("arena_33k.filter_bad_conv", *argv) == 0
    drawn = [row["question_id"] for row in held("drawn.json")]
    assert len(drawn) == 4 and sorted(drawn) == drawn and set(drawn) <= set(kept)
    tags = written("tags.json", [{"question_id": "q12", "toxic_chat_tag": {"roberta": 1}}])
    argv = ["--in-file", "battles.out.json", "--tag-file", tags]
    assert step("arena_33k.merge_field", *argv) == 0
    tagged = [row for row in held("battles.out_added.json") if "toxic_chat_tag" in row]
    assert [row["question_id"] for row in tagged] == ["q12"]
    capsys.readouterr()
    assert step("arena_33k.count_unique_users", "--in-file", source) == 0
    assert capsys.readouterr().out == "rows: 15\nunique users: 3\n"


def test_samples_are_drawn_with_the_published_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = written("rows.json", [battle(i) for i in range(50)])
    drawn: list[list[str]] = []
    for name, more in (
        ("arena_33k", ()),
        ("lmsys_chat_1m", ("--seed", "0")),
        ("lmsys_chat_1m", ()),
    ):
        assert step(f"{name}.sample", "--in-file", source, "--number", "9", *more) == 0
        drawn.append([row["question_id"] for row in held("rows_sample.json")])
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[2]) == 9


class FakeHub:
    """Takes what the hub's client is given."""

    seen: list[Any] = []  # noqa: RUF012 - one for all instances on purpose

    def __init__(self, token: str | None) -> None:
        self.seen.append(token)

    def create_repo(self, repo: str, **how: Any) -> None:
        self.seen.append((repo, how["private"]))

    def upload_file(self, *, path_in_repo: str, **_: Any) -> None:
        self.seen.append(path_in_repo)


@pytest.mark.parametrize("release", STEPS)
def test_an_upload_is_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "HfApi", FakeHub)
    FakeHub.seen.clear()
    argv = ["--in-file", written("rows.json", []), "--repo", "me/arena", "--token", "t"]
    assert step(f"{release}.upload_hf_dataset", *argv) == 0
    assert FakeHub.seen == ["t", ("me/arena", True), "rows.json"]


@pytest.mark.parametrize(
    ("name", "argv", "words"),
    [
        ("lmsys_chat_1m.sample", ["--number", "0"], "--number 0"),
        ("arena_33k.sample", ["--number", "1", "--out-file", "rows.json"], "is the input"),
        ("arena_33k.filter_bad_conv", ["--sample", "-1"], "--sample -1"),
        ("arena_33k.filter_bad_conv", ["--block-words-file", "none"], "--block-words-file none"),
        ("arena_33k.merge_field", ["--tag-file", "none.json"], "none.json is not there"),
        ("arena_33k.count_unique_users", ["--in-file", "empty.json"], "holds no rows"),
        ("lmsys_chat_1m.compute_stats", ["--in-file", "none.json"], "none.json is not there"),
        ("lmsys_chat_1m.compute_stats", ["--output-dir", "rows.json"], "cannot be written"),
        ("lmsys_chat_1m.upload_hf_dataset", ["--repo", "me"], "'me' is no data set"),
        ("lmsys_chat_1m.upload_hf_dataset", ["--repo", "a/b", "--in-file", "x"], "x is not there"),
    ],
)
def test_what_cannot_be_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    argv: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    written("empty.json", [])
    argv = argv if "--in-file" in argv else ["--in-file", written("rows.json", [chat(1)]), *argv]
    assert step(name, *argv) in (1, 2)
    assert words in capsys.readouterr().err
