"""Records are shown one message at a time."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastchat.data.inspect_data import RULE, Shown, browse, main
from fastchat.data.records import Record, Turn

Talk = Callable[..., dict[str, Any]]


@pytest.fixture
def source(tmp_path: Path, talk: Talk) -> Path:
    path = tmp_path / "data.json"
    records = [talk(f"r{i}", f"question {i}", f"answer {i}") for i in range(5)]
    path.write_text(json.dumps(records), "utf-8")
    return path


def shown(i: int) -> str:
    return f"{RULE}\nno: {i}, id: r{i}\nhuman: \nquestion {i}\ngpt: \nanswer {i}\n"


@pytest.mark.parametrize(
    ("flags", "numbers"),
    [
        ([], range(5)),
        (["--no-pause"], range(5)),
        (["--begin", "3"], [3, 4]),
        (["--begin", "1", "--end", "2"], [1]),
        (["--id", "r2"], [2]),
    ],
)
def test_without_a_terminal_all_is_shown_at_once(
    source: Path, capsys: pytest.CaptureFixture[str], flags: list[str], numbers: list[int]
) -> None:
    assert main(["--in", str(source), *flags]) == 0
    assert capsys.readouterr().out == "".join(map(shown, numbers))


def test_random_records_are_all_different(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--in", str(source), "--random-n", "3"]) == 0
    numbers = [line for line in capsys.readouterr().out.splitlines() if line.startswith("no: ")]
    assert len(set(numbers)) == 3
    assert main(["--in", str(source), "--random-n", "99"]) == 0
    assert capsys.readouterr().out.count("no: ") == 5


def test_no_record_of_that_id_is_an_error(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--in", str(source), "--id", "missing"]) == 1
    assert "no record has the id 'missing'" in capsys.readouterr().err


def test_what_is_no_record_is_counted(
    tmp_path: Path, talk: Talk, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(talk("r0", "question 0", "answer 0")) + "\n{broken\n", "utf-8")
    assert main(["--in", str(path)]) == 0
    printed = capsys.readouterr()
    assert printed.out == shown(0)
    assert "1 values are no records: not valid JSON" in printed.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "x.json"], "records are shown"),
        (["--resume"], "no meaning here"),
        (["--random-n", "0"], "--random-n 0 is too small"),
    ],
)
def test_a_flag_that_cannot_be_is_refused(
    source: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["--in", str(source), *flags]) == 2
    assert message in capsys.readouterr().err


def record(i: int) -> Shown:
    turns = (Turn(speaker="human", text=f"q{i}"), Turn(speaker="gpt", text=f"a{i}"))
    return Shown(number=i, record=Record(id=f"r{i}", turns=turns))


@pytest.mark.parametrize(
    ("answers", "seen"),
    [
        (["", "", "", "", "", ""], ["q0", "a0", "q1", "a1", "q2", "a2"]),
        (["n", "n", "", ""], ["q0", "q1", "q2", "a2"]),
        (["n", "p", "p", "q"], ["q0", "q1", "q0", "q0"]),
        (["/A2", "q"], ["q0", "q2"]),
        (["/zzz", "q"], ["q0", "(no later record holds 'zzz')", "a0"]),
        (["?", "q"], ["q0", "(Enter: go on", "a0"]),
    ],
)
def test_a_reader_goes_forth_and_back_and_searches(answers: list[str], seen: list[str]) -> None:
    given: Iterator[str] = iter(answers)
    texts: list[str] = []
    browse(3, record, ask=lambda: next(given), show=texts.append)
    assert [
        text.splitlines()[-1][: len(want)] for text, want in zip(texts, seen, strict=True)
    ] == seen
    assert next(given, None) is None


def test_a_pipe_that_closes_early_is_no_error(source: Path, tmp_path: Path, talk: Talk) -> None:
    path = tmp_path / "many.json"
    path.write_text(json.dumps([talk(f"r{i}", "q" * 500, "a") for i in range(2000)]), "utf-8")
    command = [sys.executable, "-m", "fastchat.data.inspect_data", "--in", str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=600) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs a terminal of Unix")
def test_in_a_terminal_it_waits_after_each_message(source: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "fastchat.data.inspect_data", "--in", str(source)]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        while b"question 0" not in seen:
            seen += os.read(ours, 1000)
        assert b"answer 0" not in seen
        os.write(ours, b"\n")
        while b"answer 0" not in seen:
            seen += os.read(ours, 1000)
        os.write(ours, b"q\n")
        assert process.wait(timeout=600) == 0
    os.close(ours)
    assert b"question 1" not in seen
