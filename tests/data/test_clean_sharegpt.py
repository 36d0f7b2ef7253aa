"""clean_sharegpt: its decisions, its counts, and how faithful the Markdown is."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastchat.data.clean_sharegpt import CleanSharegptSettings, clean_steps, main
from fastchat.data.pipeline import Dropped, run
from fastchat.data.records import Record, parse_record
from fastchat.errors import UsageError

Talk = Callable[..., dict[str, Any]]

QUESTION, ANSWER = "What is the time?", "<p>It is late in the day.</p>"
CLEAN = "It is late in the day."


def decide(value: dict[str, Any], **flags: Any) -> dict[str, Any] | str:
    """The cleaned record, or why there is none."""
    step = clean_steps(CleanSharegptSettings(in_file=("-",), **flags))[0]
    record = parse_record(value, where="x")
    assert isinstance(record, Record)
    step.prepare()  # type: ignore[union-attr]
    answer = step.apply(record)  # type: ignore[union-attr]
    if isinstance(answer, Dropped):
        return answer.reason
    [cleaned] = answer  # type: ignore[misc]
    return cleaned.to_json()


@pytest.mark.parametrize(
    ("texts", "outcome"),
    [
        ((), "too short"),
        ((QUESTION,), "too short"),
        ((QUESTION, ANSWER), (QUESTION, CLEAN)),
        ((QUESTION, ANSWER, "Thanks"), (QUESTION, CLEAN)),
        (("hi", "<p>ok</p>"), "too short"),
        ((QUESTION, ANSWER + "<p>As a ChatGPT model</p>"), "blocked words"),
        (("Who made OPENAI?", ANSWER), "blocked words"),
        ((QUESTION, ANSWER + "<![broken[ x"), "parser error"),
        ((QUESTION, "<p>Too many requests in 1 hour. Try again later.</p>"), "blocked words"),
        ((QUESTION, "!Too many requests in 1 hour. Try again later."), "blocked words"),
        ((QUESTION, ""), "too short"),
        ((QUESTION, ANSWER, "More?", "<div></div>", "x", ANSWER), (QUESTION, CLEAN)),
        ((QUESTION, ANSWER, " ", ANSWER), (QUESTION, CLEAN)),
        ((QUESTION, "<p>\u200bhidden</p>"), "too short"),
        (("if a < b:\n\n\n\n    print(*x)\n", ANSWER), ("if a < b:\n\n\n\n    print(*x)\n", CLEAN)),
    ],
)
def test_the_first_test_that_fails_decides(
    talk: Talk, texts: tuple[str, ...], outcome: str | tuple[str, ...]
) -> None:
    found = decide(talk("a", *texts))
    if isinstance(found, dict):
        assert tuple(turn["value"] for turn in found["conversations"]) == outcome
    else:
        assert found == outcome


def test_roles_must_alternate_and_other_names_can_be_mapped(talk: Talk) -> None:
    record = talk("a", QUESTION, ANSWER, QUESTION, ANSWER)
    record["conversations"][3]["from"] = "bard"
    assert decide(record) == "wrong format"
    for role_map in (("bard=gpt",), ("known",)):
        found = decide(record, role_map=role_map)
        assert isinstance(found, dict) and found["conversations"][3]["from"] == "gpt"
    record["conversations"].insert(0, {"from": "gpt", "value": "Hello there."})
    found = decide(record, role_map=("known",))
    assert isinstance(found, dict) and len(found["conversations"]) == 4
    with pytest.raises(UsageError, match="--role-map 'bard=robot' is neither"):
        decide(record, role_map=("bard=robot",))


def test_unknown_fields_of_records_and_messages_travel(talk: Talk) -> None:
    record = talk("a", QUESTION, ANSWER, model="gpt4", source={"n": [1, 2.5]}, system="Be brief.")
    record["conversations"][1]["lang"] = "en"
    found = decide(record)
    record["conversations"][1]["value"] = CLEAN
    assert found == record


def test_words_and_models_are_chosen_by_flags(talk: Talk) -> None:
    record = talk("a", QUESTION, ANSWER, model="gpt4")
    assert decide(record, blocked_word=("LATE",)) == "blocked words"
    assert decide(record, keep_model=("bard",)) == "another model"
    assert decide(record, drop_model=("gpt4",)) == "unwanted model"
    assert isinstance(decide(record, keep_model=("gpt4",)), dict)
    spoken = talk("a", "What is ChatGPT?", ANSWER)
    assert isinstance(decide(spoken, no_default_blocked_words=True), dict)


def clean(folder: Path, given: list[Any], *flags: str) -> tuple[int, list[dict[str, Any]]]:
    (folder / "in.json").write_text(json.dumps(given), "utf-8")
    out = folder / "out.json"
    status = main(["--in", str(folder / "in.json"), "--out", str(out), *flags])
    return status, json.loads(out.read_text("utf-8")) if out.exists() else []


def test_duplicates_count_against_kept_records_only(
    tmp_path: Path, talk: Talk, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        talk("a", QUESTION, ANSWER, plugins=["calendar"]),
        talk("a", QUESTION, ANSWER),
        talk("b", QUESTION + " ", ANSWER, "And now?", ANSWER),
        talk("a", "Another question here", ANSWER, plugins=["calendar"]),
        talk("c", QUESTION, "<p>It is early in the day.</p>", plugins=None),
    ]
    status, kept = clean(tmp_path, given)
    assert status == 0 and [record["id"] for record in kept] == ["a", "c"]
    assert capsys.readouterr().out == (
        "total: 5, skip: 3, new: 2, cnt_blocked_words: 0, cnt_parser_error: 0, "
        "cnt_wrong_format: 0, cnt_too_short: 0, cnt_id_duplication: 1, "
        "cnt_value_duplication: 1, cnt_plugin: 1\n"
    )
    status, kept = clean(tmp_path, given, "--dedup", "none")
    assert [record["id"] for record in kept] == ["a", "b", "c"]


def test_near_duplicates_are_dropped_when_asked_for(tmp_path: Path, talk: Talk) -> None:
    words = [f"word{i}" for i in range(300)]
    near = [*words[:150], "other", *words[151:]]
    given = [
        talk("a", " ".join(words), ANSWER),
        talk("b", " ".join(near), ANSWER),
        talk("c", " ".join(reversed(words)), ANSWER),
    ]
    assert [x["id"] for x in clean(tmp_path, given)[1]] == ["a", "b", "c"]
    report = tmp_path / "report.json"
    kept = clean(tmp_path, given, "--dedup", "minhash", "--report", str(report))[1]
    assert [x["id"] for x in kept] == ["a", "c"]
    assert json.loads(report.read_text())["dropped"] == {"near duplication": 1}


@pytest.mark.slow
def test_the_published_counts_and_the_fidelity(
    tmp_path: Path, shared: Path, generate: Callable[..., Any]
) -> None:
    made = generate("--n", "5000", "--seed", "1")
    out = tmp_path / "clean.json"
    report = run(
        settings := CleanSharegptSettings(in_file=(str(made.path),), out_file=str(out)),
        clean_steps(settings),
    )
    assert report.kept == 4334
    assert report.dropped == {
        "blocked words": 212,
        "parser error": 27,
        "wrong format": 66,
        "too short": 201,
        "id duplication": 50,
        "value duplication": 66,
        "plugin": 44,
    }
    judge = shared / "tools" / "fidelity_sharegpt.py"
    done = subprocess.run(
        [sys.executable, str(judge), str(made.path), str(made.truth_path), str(out)],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    shares = json.loads(done.stdout)
    for name in ("code", "human", "human_multiline", "cells", "math", "words"):
        right, judged = re.match(r"(\d+)/(\d+)", shares[name]).groups()  # type: ignore[union-attr]
        assert int(judged) > 2000 and right == judged, name


@pytest.mark.slow
def test_malformed_records_are_counted_as_what_they_are(
    tmp_path: Path, generate: Callable[..., Any]
) -> None:
    made = generate("--n", "2000", "--seed", "3", "--malformed")
    given = json.loads(made.path.read_text("utf-8"))
    truth = Counter(x["defect"] for x in made.truth())
    out = tmp_path / "clean.json"
    settings = CleanSharegptSettings(in_file=(str(made.path),), out_file=str(out))
    report = run(settings, clean_steps(settings))

    # A record that lost its second message, or was copied from the one before, as well as being
    # malformed, is counted by what stands in the file.
    nulls = sum(1 for x in records(given) if has_value(x, None))
    numbers = sum(1 for x in records(given) if has_value(x, 42))
    nameless = sum(1 for x in records(given) if any("from" not in m for m in messages(x)))
    assert report.malformed == {
        "no id": truth["no_id"],
        "no conversations": truth["no_conversations"],
        "conversations is not a list": truth["conversations_not_list"],
        "not an object": truth["not_an_object"],
        "message without text": nulls,
        "message text is not a string": numbers,
        "message without from": nameless,
    }
    for n, name in ((nulls, "null_value"), (numbers, "number_value"), (nameless, "missing_from")):
        assert truth[name] - 2 <= n <= truth[name]
    assert report.changed["id made text"] == truth["int_id"]
    assert 0 <= truth["lone_surrogate"] - report.changed["letters that UTF-8 cannot hold"] <= 2
    assert report.dropped["wrong format"] >= truth["unknown_role"] - 2
    assert report.dropped["too short"] >= truth["empty_list"] + truth["one_message"] - 20
    assert report.read == 2000 == report.kept + report.dropped.total()
    assert "\\ud83d" not in out.read_text("utf-8")


def records(values: list[Any]) -> list[dict[str, Any]]:
    return [x for x in values if isinstance(x, dict)]


def messages(record: dict[str, Any]) -> list[dict[str, Any]]:
    given = record.get("conversations")
    return given if isinstance(given, list) else []


def has_value(record: dict[str, Any], value: object) -> bool:
    return any("from" in m and m["value"] == value for m in messages(record))


def test_strict_stops_with_status_2_and_names_the_record(
    tmp_path: Path, talk: Talk, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [talk("a", QUESTION, ANSWER), {"id": "b", "conversations": 5}]
    status, kept = clean(tmp_path, given, "--strict")
    assert status == 2 and not kept
    assert "in.json[1] (id b): conversations is not a list" in capsys.readouterr().err


@pytest.mark.slow
def test_records_can_flow_through_standard_streams(tmp_path: Path, talk: Talk) -> None:
    given = "\n".join(json.dumps(talk(str(i), f"{QUESTION} {i}", ANSWER)) for i in range(3))
    done = subprocess.run(
        [sys.executable, "-m", "fastchat.data.clean_sharegpt", "--in", "-", "--out", "-"],
        input=given,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["0", "1", "2"]
    assert done.stderr.startswith("total: 3, skip: 0, new: 3")


def test_a_parser_that_is_not_installed_is_named(
    tmp_path: Path,
    talk: Talk,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "fastchat.data.html_markdown", None)
    status, kept = clean(tmp_path, [talk("a", QUESTION, ANSWER)])
    assert status == 2 and not kept
    assert "pip install 'fschat[data]'" in capsys.readouterr().err


# Not getrusage, which begins with what the process held that started this one.
MEASURED = """
import sys
from fastchat.data.clean_sharegpt import main
main(sys.argv[1:])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path, generate: Callable[..., Any]) -> None:
    peaks: list[int] = []
    for n in ("2000", "20000"):
        path = generate("--n", n, "--seed", "1").path
        flags = ["--in", str(path), "--out", str(tmp_path / "out.json"), "--workers", "1"]
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *flags],
            capture_output=True,
            text=True,
            timeout=600,
            check=True,
        )
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] < 1.2 * peaks[0]
