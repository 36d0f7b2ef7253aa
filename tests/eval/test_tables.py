from collections import Counter
from pathlib import Path

import pytest

from fastchat.errors import DataError
from fastchat.eval.tables import (
    Answer,
    ModelRow,
    Prompt,
    Question,
    Review,
    Reviewer,
    find_table,
    read_table,
)


def test_the_shipped_tables_have_the_published_questions_prompts_and_reviewers() -> None:
    questions = read_table(Path("table/question.jsonl"), Question)
    assert [q.question_id for q in questions] == list(range(1, 81))
    tens = ("generic", "knowledge", "roleplay", "common-sense", "fermi", "counterfactual")
    expected = {**dict.fromkeys((*tens, "writing"), 10), "coding": 7, "math": 3}
    assert Counter(q.category for q in questions) == expected
    assert len({q.text for q in questions}) == 80
    prompts = {p.prompt_id: p for p in read_table(Path("table/prompt.jsonl"), Prompt)}
    reviewers = read_table(Path("table/reviewer.jsonl"), Reviewer)
    assert [r.category for r in reviewers] == ["general", "coding", "math"]
    for reviewer in reviewers:
        asked = prompts[reviewer.prompt_id].fill("<Q>", "<A {x}>", "<B>")
        assert "<Q>" in asked and "<A {x}>" in asked and "<B>" in asked
        assert "two numbers from 1 to 10" in asked
    for model in read_table(Path("table/model.jsonl"), ModelRow):
        assert model.model_id == f"{model.model_name}:{model.model_version}"


def test_the_tables_of_2023_are_read(shared: Path) -> None:
    folder = shared / "data/vicuna_eval_2023"
    assert len(read_table(folder / "question.jsonl", Question)) == 80
    assert len(read_table(folder / "model.jsonl", ModelRow)) == 5
    assert len(read_table(folder / "reviewer.jsonl", Reviewer)) == 3
    for path in (folder / "answer").iterdir():
        assert len(read_table(path, Answer)) == 80
    for path in (folder / "review").iterdir():
        assert len(read_table(path, Review)) == 80


def test_our_questions_are_not_those_of_2023(shared: Path) -> None:
    theirs = read_table(shared / "data/vicuna_eval_2023/question.jsonl", Question)
    ours = read_table(Path("table/question.jsonl"), Question)
    assert not {q.text for q in ours} & {q.text for q in theirs}


def test_a_bad_row_is_named_by_file_line_and_field(here: Path) -> None:
    path = here / "question.jsonl"
    path.write_text(
        '{"question_id": 1, "text": "a", "category": "b"}\n{"question_id": 2, "text": "a"}\n'
    )
    with pytest.raises(DataError, match=r"question\.jsonl:2: category: Field required"):
        read_table(path, Question)
    path.write_text('{"question_id": 1, "te')
    with pytest.raises(DataError, match="1 lines are no JSON"):
        read_table(path, Question)
    path.write_text("")
    with pytest.raises(DataError, match="is empty"):
        read_table(path, Question)
    with pytest.raises(DataError, match="no such table"):
        read_table(here / "table" / "none.jsonl", Question)


def test_a_reviewer_that_cannot_be_asked_so_is_named(here: Path) -> None:
    path = here / "reviewer.jsonl"
    path.write_text('{"reviewer_id": "r", "prompt_id": 1, "metadata": {"temperature": "warm"}}\n')
    with pytest.raises(DataError, match=r"reviewer\.jsonl:1: metadata\.temperature"):
        read_table(path, Reviewer)


def test_the_folder_of_tables_comes_before_the_package(here: Path) -> None:
    assert find_table(Path("tables/question.jsonl")).is_absolute()
    (here / "tables").mkdir()
    (here / "tables/question.jsonl").write_text("x")
    assert find_table(Path("tables/question.jsonl")) == Path("tables/question.jsonl")
    assert find_table(Path("other/question.jsonl")) == Path("other/question.jsonl")
