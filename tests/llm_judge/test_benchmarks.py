from pathlib import Path
from typing import Any

from fake_judge import BENCH, FakeJudge, answer, judge

from fastchat.llm_judge import benchmarks


def listed(capsys: Any, *flags: str, status: int = 0) -> str:
    capsys.readouterr()
    assert benchmarks.main(["--format", "csv", *flags]) == status
    said = capsys.readouterr()
    return (said.err if status else said.out).strip()


def test_what_ships_and_what_is_here_is_listed(here: Path, capsys: Any) -> None:
    assert listed(capsys).splitlines()[2:] == ["fastchat_bench,80,2,8,-,-,package"]
    folder = Path("data/mine")
    folder.mkdir(parents=True)
    (folder / "question.jsonl").write_text(
        '{"question_id": 1, "category": "x", "turns": ["a"]}\n'
        '{"question_id": 2, "category": "y", "turns": ["a", "b", "c"]}\n'
    )
    answer("m", "--question-end", "2")
    told = listed(capsys).splitlines()[2:]
    assert told == ["fastchat_bench,80,2,8,m,-,package", 'mine,2,"1, 3",2,-,-,data folder']
    assert "mine" not in listed(capsys, *BENCH)
    assert "there are fastchat_bench, mine" in listed(capsys, "--bench-name", "no", status=2)


def test_every_fault_has_its_file_line_and_field(here: Path, fake: FakeJudge, capsys: Any) -> None:
    answer("m")
    fake.rule = lambda body: "I cannot say."
    judge(fake, "--first-n", "2", "--parallel", "4")
    assert "4 judgments without a verdict" in listed(capsys, "--check", status=1)
    fake.rule = lambda body: "Rating: [[5]]"
    judge(fake, "--first-n", "2", "--parallel", "4", "--retry-unparsed")
    assert "fastchat_bench: checked, 0 things to mend" in listed(capsys, "--check")
    file = Path("data/fastchat_bench/model_answer/m.jsonl")
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:79], '{"question_id": 280}', lines[0], lines[79][:40]]))
    graded = Path("data/fastchat_bench/model_judgment/rule_single.jsonl")
    graded.write_text(graded.read_text() + '{"question_id": "x"}\n')
    told = listed(capsys, "--check", status=1).splitlines()
    assert [line.partition("fastchat_bench: ")[2] for line in told[:4]] == [
        "m.jsonl: 1 duplicate rows, the last of each counts",
        "m.jsonl: 1 torn lines left out; a new run makes what they held",
        "m.jsonl:80: model_id: Field required",
        "m has no whole answer to 1 question: 280; run gen_model_answer or gen_api_answer again, "
        "which asks for these alone",
    ]
    assert told[4].startswith("fastchat_bench: rule_single.jsonl:5: question_id: ")
