"""Every analysis command, and every input that is not what it should be: one line, no traceback."""

import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

MONITOR = "fastchat.serve.monitor."
NOWHERE = "http://127.0.0.1:9/v1"


def row(i: int) -> dict[str, Any]:
    asked = "How do I cook an egg in water?"

    def said(answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]

    return {
        "question_id": f"q{i}",
        "model_a": "m-a",
        "model_b": "m-b",
        "winner": "model_a",
        "judge": "arena_user_1",
        "conversation_a": said("Boil it."),
        "conversation_b": said("Bake it."),
        "turn": 1,
        "anony": True,
        "language": "English",
        "tstamp": 1.7e9 + i,
    }


def in_release_file(source: str, output: str = "out") -> list[str]:
    Path("release.toml").write_text(f'input = ["{source}"]\noutput_dir = "{output}"\n')
    return ["--config", "release.toml"]


def in_label_file(source: str, output: str = "out") -> list[str]:
    Path("label.yaml").write_text(
        f'input_file: "{source}"\noutput_file: "{output}/labels.jsonl"\n'
        f'task_name: [math_v0.1]\nmodel_name: m\nendpoints: [{{api_base: "{NOWHERE}"}}]\n'
        "max_retry: 0\nretry_sleep: 0\n"
    )
    return ["--config", "label.yaml"]


# Commands that read rows, and those that read logs: the arguments for an input and an output.
Argv = Callable[[str, str], list[str]]
OF_ROWS: dict[str, Argv] = {
    "release": in_release_file,
    "deduplication": lambda i, o: ["--input-file", i, "--output-dir", o],
    "intersect_conv_file": lambda i, o: [
        *("--input", i, "--conv-id", "good.json", "--out-file", f"{o}/both.json")
    ],
    "topic_clustering": lambda i, o: [
        *("--input-file", i, "--num-clusters", "1", "--output-dir", o, "--save-embeddings")
    ],
    "summarize_cluster": lambda i, o: ["--input-file", i, "--output-dir", o, "--max-tries", "1"],
    "tag_openai_moderation": lambda i, o: ["--input", i, "--pattern-file", "patterns"],
    "classify.label": in_label_file,
    "criteria_labeling": lambda i, o: [
        *("--input-file", i, "--output-file", f"{o}/c.jsonl", "--max-tries", "1")
    ],
    "add_markdown_info": lambda i, o: ["--input-file", i, "--output-file", f"{o}/styled.json"],
    "monitor_md": lambda i, o: ["--elo", i],
}
OF_LOGS: dict[str, Argv] = {
    "clean_battle_data": lambda i, o: ["--log-root", i, "--output-dir", o],
    "clean_chat_data": lambda i, o: ["--log-root", i, "--output-dir", o],
    "basic_stats": lambda i, o: ["--log-root", i, "--plot-file", f"{o}/plot.html"],
    "vote_time_stats": lambda i, o: ["--log-root", i, "--plot-file", f"{o}/plot.html"],
    "inspect_conv": lambda i, o: ["--source", i, "--type", "all"],
}
WRITE_NO_NAMED_FILE = {"monitor_md", "tag_openai_moderation", "inspect_conv"}
BY_DATABASE = ("clean_battle_data", "clean_chat_data", "vote_time_stats")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with every kind of file that is none; the commands run in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("OPENAI_BASE_URL", NOWHERE)
    rows = [row(1), row(2)]
    Path("good.json").write_text(json.dumps(rows))
    Path("patterns").write_text("forbidden\n")
    Path("a_folder.json").mkdir()
    Path("a_file").write_text("x")
    Path("not_utf8.json").write_bytes(json.dumps(rows).encode("utf-16"))
    Path("nulls.jsonl").write_bytes(b"\0" * 100)
    Path("deep.json").write_text("[" * 3000 + "]" * 3000)
    Path("bad.parquet").write_bytes(b"PAR1 no")
    Path("empty.parquet").write_bytes(b"")
    Path("bad.db").write_bytes(b"no database" * 100)
    Path("rows.txt").write_text("x")
    return tmp_path


def told(
    capsys: pytest.CaptureFixture[str], name: str, argv: Sequence[str], *, status: tuple[int, ...]
) -> str:
    """What the command says of an error: one line, under its name."""
    assert importlib.import_module(MONITOR + name).main(argv) in status
    lines = capsys.readouterr().err.splitlines()
    [line] = [line for line in lines if line.startswith(MONITOR + name)]
    assert "Traceback" not in "".join(lines)
    return line.removeprefix(f"{MONITOR}{name}: ")


@pytest.mark.parametrize("name", OF_ROWS)
@pytest.mark.parametrize(
    "source",
    [
        *("missing.json", "a_folder.json", "not_utf8.json", "nulls.jsonl", "deep.json"),
        *("bad.parquet", "empty.parquet", "rows.txt", "", "bad.db", "missing.db", "nodb://nodb"),
    ],
)
def test_what_are_no_rows_is_told(
    capsys: pytest.CaptureFixture[str], name: str, source: str
) -> None:
    line = told(capsys, name, OF_ROWS[name](source, "out"), status=(1, 2))
    stem = source.rpartition("/")[2]
    is_store = source.endswith(".db") and "store" in line
    assert stem in line or is_store, "the message names what was given"
    assert [p for p in Path().glob("out/*.json*") if not p.name.endswith(".cache.jsonl")] == []


@pytest.mark.parametrize(
    "name",
    ["deduplication", "intersect_conv_file", "tag_openai_moderation", "add_markdown_info"],
)
@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("", 0),
        ("[]", 0),
        (f"[{json.dumps(row(1))},\n{json.dumps(row(2))[:60]}", 1),
        (f'[{{"a": "\xff"}},\n{json.dumps(row(1))}\n]', 1),
        ('[{"conversation_a": 5, "conversation_b": "x", "tstamp": "y"}, {}]', 2),
    ],
)
def test_what_is_whole_of_a_spoiled_file_is_used(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, n: int
) -> None:
    Path("spoiled.json").write_bytes(text.encode("latin-1"))
    assert importlib.import_module(MONITOR + name).main(OF_ROWS[name]("spoiled.json", "out")) == 0
    [path] = [*Path("out").glob("*.json"), *Path().glob("*_tagged.json")]
    held = json.loads(path.read_text())
    assert len(held) == (
        n if 'conversation_a": 5' not in text or name != "intersect_conv_file" else 0
    )
    said = capsys.readouterr()
    n_lines = sum(word in said.out + said.err for word in ("torn_line", "not_utf8"))
    assert n_lines == (not text.endswith("]") and bool(text)) + ("\xff" in text)


@pytest.mark.parametrize("name", OF_LOGS)
@pytest.mark.parametrize("source", ["nowhere", "empty", "good.json", "log_is_a_folder"])
def test_what_are_no_logs_is_told(
    capsys: pytest.CaptureFixture[str], name: str, source: str
) -> None:
    Path("empty").mkdir()
    Path("log_is_a_folder/2026-01-01-conv.json").mkdir(parents=True)
    line = told(capsys, name, OF_LOGS[name](source, "out"), status=(1, 2))
    assert source in line or "2026-01-01-conv.json" in line
    assert not list(Path("out").rglob("*"))


LINES = (
    b'{"type": "chat", "tst\n'
    + bytes(range(14, 256))
    + b"\n[]\n3\nnull\n{}\n"
    + b'{"type": "leftvote", "tstamp": 1e300, "models": ["", ""], "states": [STATE, STATE]}\n'
    + b'{"type": "chat", "tstamp": -1e18, "model": "m", "state": STATE, "finish": null}\n'
    + b'{"type": "chat", "tstamp": 1700000000000, "model": "m", "state": STATE}\n'
)
STATE = b'{"conv_id": "a", "model_name": "m", "messages": [["user", "x"], ["assistant", "y"]]}'


@pytest.mark.parametrize("name", OF_LOGS)
def test_lines_that_are_no_events_are_counted(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    Path("logs").mkdir()
    Path("logs/2026-01-01-conv.json").write_bytes(LINES.replace(b"STATE", STATE))
    status = importlib.import_module(MONITOR + name).main(OF_LOGS[name]("logs", "out"))
    said = capsys.readouterr()
    assert status == (1 if name in ("vote_time_stats", "inspect_conv") else 0)
    assert "bad_row" in said.out + said.err or name == "vote_time_stats"
    assert "nan" not in said.out.lower()


@pytest.mark.parametrize("name", BY_DATABASE)
@pytest.mark.parametrize(
    "url",
    ["missing.db", "bad.db", "nodb://x", "a_folder.json", "postgresql://u:secret@127.0.0.1:9/x"],
)
def test_a_store_that_is_none_is_told(
    capsys: pytest.CaptureFixture[str], name: str, url: str
) -> None:
    line = told(capsys, name, ["--database-url", url], status=(1, 2))
    assert "secret" not in line and "sqlalchemy" not in line.lower()


@pytest.mark.parametrize(
    ("name", "argv", "words"),
    [
        ("topic_clustering", ["--min-length", "-1"], "--min-length -1"),
        ("topic_clustering", ["--num-clusters", "99"], "--num-clusters 99"),
        ("topic_clustering", ["--embeddings-file", "patterns"], "is none that --save-embeddings"),
        ("topic_clustering", ["--embeddings-file", "a_folder.json"], "cannot be read"),
        ("topic_clustering", ["--model", "m", "--num-clusters", "1"], "--model words needs none"),
        ("deduplication", ["--percentile", "nan"], "--percentile nan"),
        ("tag_openai_moderation", ["--first-n", "0"], "--first-n 0"),
        ("tag_openai_moderation", ["--pattern-file", "none"], "--pattern-file none"),
        ("summarize_cluster", ["--num-prompts", "0"], "--num-prompts 0"),
    ],
)
def test_values_that_cannot_be_are_told(
    capsys: pytest.CaptureFixture[str], name: str, argv: list[str], words: str
) -> None:
    flag = "--input" if name == "tag_openai_moderation" else "--input-file"
    assert words in told(capsys, name, [flag, "good.json", *argv], status=(1, 2))


@pytest.mark.parametrize(
    ("name", "argv", "words"),
    [
        ("inspect_conv", ["--source", "logs", "--limit", "0"], "--limit 0"),
        ("clean_battle_data", ["--min-vote-seconds", "-1"], "--min-vote-seconds -1"),
        ("clean_battle_data", ["--max-votes-per-hour", "0"], "--max-votes-per-hour 0"),
        ("clean_battle_data", ["--max-num-files", "0"], "--max-num-files 0"),
        ("clean_battle_data", ["--since", "soon"], "--since 'soon'"),
        ("clean_battle_data", ["--ban-ip-file", "a_folder.json"], "--ban-ip-file a_folder.json"),
        ("clean_battle_data", ["--ban-ip-file", "good.json"], "no JSON list of addresses"),
        ("clean_battle_data", ["--key-file", "a_folder.json"], "the key a_folder.json"),
        ("clean_battle_data", ["--key-file", "a_file"], "the key a_file is too short"),
        ("clean_battle_data", ["--words-file", "good.json"], "good.json is no TOML"),
    ],
)
def test_values_about_logs_that_cannot_be_are_told(
    capsys: pytest.CaptureFixture[str], name: str, argv: list[str], words: str
) -> None:
    log_of_a_vote()
    argv = argv if "--source" in argv else ["--log-root", "logs", *argv]
    assert words in told(capsys, name, argv, status=(1, 2))


@pytest.mark.parametrize(
    "row",
    [
        {"size": 0, "total": 0, "top_prompts": ["a"]},
        {"size": "x", "top_prompts": ["a"]},
        {"size": 1, "top_prompts": "abc"},
        {"size": 1, "top_prompts": []},
        {"size": 1, "top_prompts": [3]},
        {"size": 5, "total": 1, "top_prompts": ["a"]},
        {"size": 1, "top_prompts": ["a"], "random_prompts": 5},
    ],
)
def test_clusters_that_are_none_are_told(
    capsys: pytest.CaptureFixture[str], row: dict[str, Any]
) -> None:
    Path("clusters.json").write_text(json.dumps([row]))
    line = told(capsys, "summarize_cluster", ["--input-file", "clusters.json"], status=(1,))
    assert "clusters.json is no _cluster.json" in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "valid dictionary"),
        ("a: [", "no YAML"),
        ("input_file: x", "output_file: Field required"),
        ("{LABEL}\ntask_name: [nope]", "task_name 'nope'"),
        ("{LABEL}\ntask_name: [ocr_v0.1]\nimage_dir: nowhere", "image_dir nowhere"),
        ("{LABEL}\ntask_name: [math_v0.1]\ntask_file: none.toml", "none.toml"),
        ("{LABEL}\ntask_name: [math_v0.1]\nparallel: 0", "parallel"),
        ("{LABEL}\ntask_name: [math_v0.1]\ncache_file: none.jsonl", "none.jsonl is not there"),
    ],
)
def test_configurations_of_labels_that_cannot_be_are_told(
    capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    label = "input_file: good.json\noutput_file: o.jsonl\nmodel_name: m"
    Path("label.yaml").write_text(text.replace("{LABEL}", label))
    flags = ["--vision"] if "ocr" in text else []
    argv = ["--config", "label.yaml", *flags]
    assert words in told(capsys, "classify.label", argv, status=(1, 2))


def log_of_a_vote() -> None:
    from fastchat.arena.events import Event, LoggedState, append

    said = (("user", "How do I cook an egg in water?"), ("assistant", "Boil it."))
    a, b = (LoggedState(conv_id=m, model_name=m, messages=said) for m in ("m-a", "m-b"))
    for state in (a, b):
        chat = Event(type="chat", tstamp=1.7e9, models=("m",), states=(state,), finish=1.7e9)
        append(Path("logs"), chat)
    append(Path("logs"), Event(type="leftvote", tstamp=1.7e9 + 5, models=("", ""), states=(a, b)))


@pytest.mark.parametrize("name", sorted({*OF_ROWS, *OF_LOGS} - WRITE_NO_NAMED_FILE))
def test_an_output_that_cannot_be_written_is_told(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    cluster = [{"size": 1, "total": 1, "top_prompts": ["a"], "random_prompts": []}]
    Path("cluster.json").write_text(json.dumps(cluster))
    log_of_a_vote()
    source = "cluster.json" if name == "summarize_cluster" else "good.json"
    argv = (
        OF_LOGS[name]("logs", "a_file/x") if name in OF_LOGS else OF_ROWS[name](source, "a_file/x")
    )
    line = told(capsys, name, argv, status=(1, 2))
    assert "a_file/x" in line
    assert Path("a_file").read_text() == "x"
