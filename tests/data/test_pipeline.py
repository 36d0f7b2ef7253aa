"""The pipeline: accounts, order, workers, windows, resuming."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from data_steps import Fail, Once, Sort

from fastchat.data.pipeline import Dropped, Outcome, PipelineSettings, Report, flow, run
from fastchat.data.records import Record
from fastchat.errors import DataError, ModelError, UsageError

Talk = Callable[..., dict[str, Any]]


def write(path: Path, talk: Talk, *, n: int = 3000) -> list[dict[str, Any]]:
    given = [talk(f"r{i}", f"question {i} " * 20, f"answer {i % 2500} " * 20) for i in range(n)]
    path.write_text(json.dumps(given, indent=2), "utf-8")
    return given


def settings(folder: Path, **fields: Any) -> PipelineSettings:
    fields = {"in_file": (str(folder / "in.json"),), "out_file": str(folder / "out.json")} | fields
    return PipelineSettings(**fields)


@pytest.mark.slow
def test_every_record_is_accounted_for_and_the_workers_do_not_matter(
    tmp_path: Path, talk: Talk
) -> None:
    write(tmp_path / "in.json", talk)
    outputs: list[tuple[bytes, bytes]] = []
    for workers in (1, 2, 3):
        rejects = tmp_path / f"rejects{workers}.jsonl"
        report_path = tmp_path / "report.json"
        fields = {"workers": workers, "rejects": str(rejects), "report": str(report_path)}
        report = run(settings(tmp_path, **fields), [Sort(), Once()])
        assert report.dropped["ends in 3"] == report.dropped["ends in 9"] == 300
        assert report.changed == {"sevens": 600, "nines": 300}
        # The doubles of 300 and the answers of the last 500 that the steps before left.
        assert report.added == 300 and report.dropped["again"] == 300 + 400
        assert report.read + report.added == report.kept + report.dropped.total()
        outputs.append(((tmp_path / "out.json").read_bytes(), rejects.read_bytes()))
        shown = json.loads(report_path.read_text("utf-8"))
        assert shown["in"] == shown["read"] == 3000 and shown["out"] == shown["kept"]
        assert shown["dropped"] == dict(report.dropped) and shown["added"] == 300
        assert shown["examples"]["ends in 3"][0] == {
            "where": "in.json[3]",
            "id": "r3",
            "text": ("question 3 " * 20)[:160],
        }
        assert shown["seconds"] > 0 and shown["records_per_second"] > 0
    assert outputs[0] == outputs[1] == outputs[2]
    lost = [json.loads(line) for line in outputs[0][1].splitlines()]
    assert Counter(x["reason"] for x in lost) == report.dropped
    assert lost[0] | {"record": 0} == {
        "reason": "ends in 3",
        "step": "sort",
        "where": "in.json[3]",
        "record": 0,
    }
    assert lost[0]["record"]["id"] == "r3"
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.parametrize(
    ("begin", "end"), [(0, 100), (5, None), (None, 7), (-10, None), (2000, -500), (50, 40), (-1, 1)]
)
def test_begin_and_end_are_those_of_slices(
    tmp_path: Path, talk: Talk, begin: int | None, end: int | None
) -> None:
    given = write(tmp_path / "in.json", talk)
    run(settings(tmp_path, begin=begin, end=end, workers=2), [])
    assert json.loads((tmp_path / "out.json").read_text("utf-8")) == given[begin:end]


@pytest.mark.slow
def test_shards_part_the_records(tmp_path: Path, talk: Talk) -> None:
    given = write(tmp_path / "in.json", talk)
    for i in range(3):
        run(settings(tmp_path, shard=f"{i}/3", begin=10), [])
        found = json.loads((tmp_path / "out.json").read_text("utf-8"))
        assert found == [x for at, x in enumerate(given) if at >= 10 and at % 3 == i]


def test_input_and_output_may_be_the_same_file_in_another_format(
    tmp_path: Path, talk: Talk
) -> None:
    given = write(tmp_path / "in.json", talk)
    run(settings(tmp_path, out_file=str(tmp_path / "in.json"), format="jsonl"), [])
    lines = (tmp_path / "in.json").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == given


def test_values_that_are_no_records_are_counted_or_refused(tmp_path: Path, talk: Talk) -> None:
    given = [talk("a", "x", "y"), {"id": "b", "conversations": "none"}, {"conversations": []}, 5]
    (tmp_path / "in.json").write_text(json.dumps(given), "utf-8")
    report = run(settings(tmp_path), [])
    assert report.dropped == report.malformed
    assert report.dropped == {"conversations is not a list": 1, "no id": 1, "not an object": 1}
    (tmp_path / "out.json").write_text("before")
    with pytest.raises(UsageError, match=r"in\.json\[1\] \(id b\): conversations is not a list"):
        run(settings(tmp_path, strict=True), [])
    assert (tmp_path / "out.json").read_text() == "before"


def test_a_file_without_a_single_record_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(json.dumps([{"text": "a"}] * 3))
    with pytest.raises(DataError, match=r"none of the 3 values .* \(no conversations: 3\)"):
        run(settings(tmp_path), [])
    assert not (tmp_path / "out.json").exists() and len(list(tmp_path.iterdir())) == 1
    (tmp_path / "in.json").write_text("[]")
    assert run(settings(tmp_path), []).kept == 0


@pytest.mark.slow
def test_errors_of_workers_reach_the_caller(tmp_path: Path, talk: Talk) -> None:
    write(tmp_path / "in.json", talk)
    for workers in (1, 2):
        with pytest.raises(UsageError, match="no such tokenizer"):
            run(settings(tmp_path, workers=workers), [Fail(dies=False)])
    with pytest.raises(ModelError, match="a worker process died"):
        run(settings(tmp_path, workers=2), [Fail(dies=True)])
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shard": "3/3"}, "--shard 3/3 is not I/N"),
        ({"shard": "a/b"}, "--shard a/b is not I/N"),
        ({"workers": 0}, "--workers 0 is less than 1"),
        ({"in_file": ()}, "no input: name a file"),
        ({"in_file": ("-", "-")}, "can be read only once"),
        ({"in_file": ("-",), "end": -1}, "negative --begin or --end needs a file"),
        ({"out_file": None}, "name the output with --out-file"),
    ],
)
def test_settings_that_cannot_be_are_named(
    tmp_path: Path, talk: Talk, fields: dict[str, Any], message: str
) -> None:
    write(tmp_path / "in.json", talk, n=1)
    with pytest.raises(UsageError, match=message):
        run(settings(tmp_path, **fields), [])


def test_a_flow_gives_records_and_counts_them(tmp_path: Path, talk: Talk) -> None:
    write(tmp_path / "in.json", talk, n=20)
    report = Report()
    found = [record.id for record in flow(settings(tmp_path), [Sort()], report)]
    assert len(found) == report.kept == 18 and report.read == 20


KILLED = """
import os, sys
from fastchat.data import journal, output
from fastchat.data.clean_sharegpt import main

after = int(sys.argv[1])
save = journal.Journal.save

def save_and_die(self, progress):
    save(self, progress)
    if progress.chunks == after:
        # What came out after the last mark must not count.
        with open(next(x for x in os.listdir(".") if x.endswith(".part")), "ab") as file:
            file.write(b"half a rec")
        os.kill(os.getpid(), 9)

journal.Journal.save = save_and_die
journal.SAVE_EVERY_S = 0.0
main(sys.argv[2:])
"""


@pytest.mark.parametrize(
    ("name", "after"),
    [
        pytest.param("out.json", 1, marks=pytest.mark.slow),
        pytest.param("out.json", 4, marks=pytest.mark.slow),
        ("out.jsonl.gz", 3),
        pytest.param("out.json.zst", 2, marks=pytest.mark.slow),
        pytest.param("out.parquet", 5, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(
    tmp_path: Path, generate: Callable[..., Any], name: str, after: int
) -> None:
    path = generate("--n", "600", "--seed", "1").path
    clean = [sys.executable, "-m", "fastchat.data.clean_sharegpt", "--in", str(path)]
    run_in = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 600}

    whole = subprocess.run(
        [*clean, "--out", "w" + name, "--rejects", "w.jsonl", "--report", "w.report"], **run_in
    )
    assert whole.returncode == 0, whole.stderr
    flags = ["--in", str(path), "--out", name, "--rejects", "r.jsonl", "--workers", "2"]
    done = subprocess.run([sys.executable, "-c", KILLED, str(after), *flags], **run_in)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / name).exists()

    again = subprocess.run([*clean, *flags[2:], "--resume", "--report", "r.report"], **run_in)
    assert again.returncode == 0, again.stderr
    assert again.stdout == whole.stdout
    assert (tmp_path / name).read_bytes() == (tmp_path / f"w{name}").read_bytes()
    assert (tmp_path / "r.jsonl").read_bytes() == (tmp_path / "w.jsonl").read_bytes()
    reports = [json.loads((tmp_path / x).read_text("utf-8")) for x in ("w.report", "r.report")]
    for report in reports:
        del report["seconds"], report["records_per_second"]
    assert reports[0] == reports[1]
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.slow
def test_an_unfinished_run_with_other_settings_is_not_taken_up(
    tmp_path: Path, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in.json", talk)
    monkeypatch.setattr("fastchat.data.journal.SAVE_EVERY_S", 0.0)

    class Stop(Sort):
        def apply(self, record: Record) -> Sequence[Record] | Dropped | Outcome:
            if record.id == "r2900":
                raise KeyboardInterrupt
            return super().apply(record)

    with pytest.raises(KeyboardInterrupt):
        run(settings(tmp_path, workers=1), [Stop(), Once()])
    assert (tmp_path / "out.json.part.state").exists() and (tmp_path / "out.json.part").exists()
    with pytest.raises(UsageError, match="a run with other settings"):
        run(settings(tmp_path, resume=True, end=2950), [Sort(), Once()])
    part = tmp_path / "out.json.part"
    whole = part.read_bytes()
    part.write_bytes(whole[:100])
    with pytest.raises(UsageError, match="shorter than the earlier run left it"):
        run(settings(tmp_path, resume=True), [Sort(), Once()])
    part.unlink()
    with pytest.raises(UsageError, match=r"out\.json\.part is gone"):
        run(settings(tmp_path, resume=True), [Sort(), Once()])
    os.utime(tmp_path / "in.json", (1, 1))
    with pytest.raises(UsageError, match="a run with other inputs"):
        run(settings(tmp_path, resume=True), [Sort(), Once()])
    run(settings(tmp_path), [Sort(), Once()])
    assert len(list(tmp_path.iterdir())) == 2
