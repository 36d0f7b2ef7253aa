"""What all data commands have in common: spellings, formats, bad input, and what they leave."""

import gzip
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COMMANDS: dict[str, list[str]] = {
    "convert_alpaca": ["--from", "openai"],
    "extract_gpt4_only": [],
    "extract_single_round": [],
    "filter_wrong_format": [],
    "merge": [],
    "optional_clean": ["--skip-lang", "ko"],
    "optional_replace": ["--model-name", "vicuna-tiny"],
    "sample": ["--end", "1000", "--max-length", "100000"],
    "split_long_conversation": ["--model-name", "vicuna-tiny"],
}
"""Commands that read records and write records, with what they need."""
QUICK = {"merge", "optional_clean"}
"""One that sees all records in order, and one that sees each alone."""
READERS = {"get_stats": ["--model-name", "vicuna-tiny"], "inspect_data": [], "split_train_test": []}
"""Commands that read records and write none, or to files of their own names."""


def main_of(command: str) -> Callable[[list[str]], int]:
    return importlib.import_module(f"fastchat.data.{command}").main


@pytest.fixture
def records(talk: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """Three conversations, each in OpenAI's form as well."""
    result = []
    for i in range(3):
        record = talk(f"r{i}", f"What is {i}?", f"The number {i}.", model="gpt4")
        messages = [
            {"role": {"human": "user", "gpt": "assistant"}[turn["from"]], "content": turn["value"]}
            for turn in record["conversations"]
        ]
        result.append(record | {"messages": messages})
    return result


def texts(path: Path) -> list[list[str]]:
    data = path.read_bytes()
    content = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    if content.startswith("["):
        found = json.loads(content)
    else:
        found = [json.loads(line) for line in content.splitlines()]
    return sorted([turn["value"] for turn in record["conversations"]] for record in found)


EXPECTED = [[f"What is {i}?", f"The number {i}."] for i in range(3)]


@pytest.mark.parametrize("command", COMMANDS)
def test_both_spellings_and_other_containers_give_the_same(
    tmp_path: Path, records: list[dict[str, Any]], command: str
) -> None:
    array, lines = tmp_path / "in.json", tmp_path / "in.jsonl.gz"
    array.write_text(json.dumps(records), "utf-8")
    lines.write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
    one, two, three = tmp_path / "1.json", tmp_path / "2.jsonl", tmp_path / "3.jsonl.gz"
    main, flags = main_of(command), COMMANDS[command]
    assert main(["--in", str(array), "--out", str(one), *flags]) == 0
    assert main(["--in-file", str(lines), "--out-file", str(two), *flags]) == 0
    assert main(["--in_file", str(lines), "--out_file", str(three), *flags]) == 0
    assert texts(one) == texts(two) == texts(three) == EXPECTED


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_record_is_dropped_and_counted(
    tmp_path: Path, records: list[dict[str, Any]], command: str
) -> None:
    source, out, report = (tmp_path / name for name in ("in.json", "out.json", "report.json"))
    bad = [5, {"id": "x"}, {"id": "y", "conversations": "text", "messages": 7}]
    source.write_text(json.dumps([*bad, *records]), "utf-8")
    argv = ["--in", str(source), "--out", str(out), "--report", str(report), *COMMANDS[command]]
    assert main_of(command)(argv) == 0
    assert texts(out) == EXPECTED
    counts = json.loads(report.read_text("utf-8"))
    assert (counts["in"], counts["out"], sum(counts["dropped"].values())) == (6, 3, 3)


@pytest.mark.parametrize("command", COMMANDS | READERS)
def test_strict_stops_at_the_first_and_names_it(
    tmp_path: Path,
    records: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    source = tmp_path / "in.json"
    source.write_text(json.dumps([records[0], {"id": "odd"}]), "utf-8")
    flags = (COMMANDS | READERS)[command]
    out = ["--out", str(tmp_path / "out.json")] if command in COMMANDS else []
    assert main_of(command)(["--in", str(source), *out, "--strict", *flags]) == 2
    assert "in.json[1] (id odd): no " in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("command", COMMANDS | READERS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("<html>no data</html>", "is neither a JSON array nor JSON Lines"),
        ('[{"id": "a"', "the array does not end"),
        ('[1, 2, {"id": 5}]', "none of the 3 values"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_error(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    content: str | None,
    message: str,
) -> None:
    source = tmp_path / "in.json"
    if content is not None:
        source.write_text(content, "utf-8")
    flags = (COMMANDS | READERS)[command]
    out = ["--out", str(tmp_path / "out.json")] if command in COMMANDS else []
    assert main_of(command)(["--in", str(source), *out, *flags]) == 1
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1
    assert not (tmp_path / "out.json").exists()
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_is_not_there_is_named(
    tmp_path: Path,
    records: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    source = tmp_path / "in.json"
    source.write_text(json.dumps(records), "utf-8")
    out = tmp_path / "nowhere" / "out.json"
    argv = ["--in", str(source), "--out", str(out), *COMMANDS[command]]
    assert main_of(command)(argv) == 2
    assert f"there is no folder {out.parent}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in COMMANDS
        if name != "sample"
    ],
)
def test_any_number_of_processes_gives_the_same_bytes(
    tmp_path: Path, generate: Callable[..., Any], command: str
) -> None:
    made = generate("--n", "250", "--seed", "5", "--format", "markdown")
    source = made.path
    if command == "convert_alpaca":
        source = tmp_path / "messages.jsonl"
        lines = [
            json.dumps({"messages": [{"role": "user", "content": f"q{i}"}] * 2})
            for i in range(9000)
        ]
        source.write_text("\n".join(lines), "utf-8")
    written = []
    for workers in ("1", "2"):
        out = tmp_path / f"{workers}.json"
        argv = ["--in", str(source), "--out", str(out), "--workers", workers]
        assert main_of(command)([*argv, *COMMANDS[command]]) == 0
        written.append(out.read_bytes())
    assert written[0] == written[1]
