"""Files are put together."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastchat.data.merge import main, n_copies

Talk = Callable[..., dict[str, Any]]


@pytest.fixture
def sources(tmp_path: Path, talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten records in a.json, four in b.jsonl, two of which stand in a.json too."""
    monkeypatch.chdir(tmp_path)
    first = [talk(f"a{i}", f"question {i}", f"answer {i}") for i in range(10)]
    second = [talk(f"b{i}", f"question {i + 8}", f"answer {i + 8}", model="m") for i in range(4)]
    (tmp_path / "a.json").write_text(json.dumps(first), "utf-8")
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, second)), "utf-8")


A, B = [f"a{i}" for i in range(10)], [f"b{i}" for i in range(4)]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], A + B),
        (["--dedup"], [*A, "b2", "b3"]),
        (["--weights", "0.5,2"], ["a1", "a3", "a5", "a7", "a9", *(x for x in B for _ in "12")]),
        (["--weights", "0,1"], B),
        (["--weights", "1,1.5"], [*A, "b0", "b1", "b1", "b2", "b3", "b3"]),
    ],
)
@pytest.mark.usefixtures("sources")
def test_what_is_merged(
    capsys: pytest.CaptureFixture[str], flags: list[str], expected: list[str]
) -> None:
    argv = ["--in", "a.json", "b.jsonl", "--report", "r.json", *flags]
    assert main(argv) == 0
    records = json.loads(Path("merged.json").read_text("utf-8"))
    assert [record["id"] for record in records] == expected
    assert capsys.readouterr().out == f"#out: {len(expected)}\n"
    report = json.loads(Path("r.json").read_text("utf-8"))
    assert report["in"] == 14
    n_dropped = sum(report["dropped"].values())
    assert report["in"] + report.get("added", 0) == report["out"] + n_dropped
    assert report["out"] == len(expected)


@pytest.mark.usefixtures("sources")
def test_shuffled_the_same_records_stand_in_another_order() -> None:
    assert main(["--in", "a.json", "b.jsonl", "--shuffle", "--out", "one.json"]) == 0
    assert main(["--in", "a.json", "b.jsonl", "--shuffle", "--out", "two.json"]) == 0
    one, two = (Path(name).read_text("utf-8") for name in ("one.json", "two.json"))
    assert one == two
    ids = [record["id"] for record in json.loads(one)]
    assert sorted(ids) == sorted(A + B) and ids != A + B


@pytest.mark.usefixtures("sources")
def test_records_may_tell_their_source() -> None:
    assert main(["--in", "?.json*", "--source"]) == 0
    records = json.loads(Path("merged.json").read_text("utf-8"))
    assert [record["source"] for record in records] == ["a.json"] * 10 + ["b.jsonl"] * 4
    assert records[-1]["model"] == "m"


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 2.7])
def test_any_number_of_records_is_copied_as_often_as_the_weight_says(weight: float) -> None:
    for n in range(50):
        assert sum(n_copies(i, weight) for i in range(n)) == int(n * weight)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--weights", "1"], "gives 1 factors for 2 files"),
        (["--weights", "1,-1"], "0 or more"),
        (["--weights", "1,x"], "are no numbers"),
        (["--shuffle", "--resume"], "--resume and --rejects cannot be combined"),
    ],
)
@pytest.mark.usefixtures("sources")
def test_a_flag_that_cannot_be_is_refused(
    capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["--in", "a.json", "b.jsonl", *flags]) == 2
    assert message in capsys.readouterr().err
    assert not Path("merged.json").exists()
