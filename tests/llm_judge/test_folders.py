from pathlib import Path

import pytest

from fastchat.errors import DataError, UnavailableError, UsageError
from fastchat.llm_judge.folders import PACKAGED, Bench, chosen_models, file_name, model_name


@pytest.mark.parametrize(
    "name", ["vicuna-7b", "org/model", "a%2Fb", "c:\\d", "名前", "a\nb", "x.y"]
)
def test_a_models_name_becomes_one_files_name_and_back(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{file_name(name)}.jsonl"
    path.touch()
    assert [model_name(p) for p in tmp_path.iterdir()] == [name]


def test_ordinary_names_stay_as_they_are_published() -> None:
    assert file_name("gpt-3.5-turbo") == "gpt-3.5-turbo"


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_is_no_files_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a model"):
        file_name(name)


def test_what_is_read_is_the_users_first_and_the_packages_else(tmp_path: Path) -> None:
    bench = Bench(data_dir=tmp_path, name="fastchat_bench")
    assert bench.question_file == PACKAGED / "fastchat_bench" / "question.jsonl"
    own = tmp_path / "fastchat_bench" / "question.jsonl"
    own.parent.mkdir()
    own.write_text('{"question_id": 1, "category": "c", "turns": ["t"]}\n')
    assert [q.question_id for q in bench.questions()] == [1]
    assert bench.answer_file("m").is_relative_to(tmp_path)


def test_references_are_the_judges_else_whose_there_are(tmp_path: Path) -> None:
    bench = Bench(data_dir=tmp_path, name="fastchat_bench")
    assert bench.reference_file("judge").name == "fastchat.jsonl"
    own = tmp_path / "fastchat_bench" / "reference_answer" / "judge.jsonl"
    own.parent.mkdir(parents=True)
    own.touch()
    assert bench.reference_file("judge") == own


def test_questions_are_cut_as_python_cuts_lists(tmp_path: Path) -> None:
    bench = Bench(data_dir=tmp_path, name="fastchat_bench")
    assert [q.question_id for q in bench.questions(-2)] == [279, 280]
    assert len(bench.questions(None, 3)) == 3
    with pytest.raises(UsageError, match="leaves none of the 80"):
        bench.questions(90, 95)


def test_absent_questions_and_models_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no questions.*fastchat_bench"):
        Bench(data_dir=tmp_path, name="other").questions()
    # The tests are offline, which the hub's client treats like a dead connection.
    with pytest.raises(UnavailableError, match=r"could not be asked.*fastchat_bench"):
        Bench(data_dir=tmp_path, name="mt_bench").questions()
    with pytest.raises(UsageError, match="name of a folder"):
        Bench(data_dir=tmp_path, name="../x")
    with pytest.raises(UsageError, match="There are no answers of m in"):
        chosen_models(Bench(data_dir=tmp_path, name="fastchat_bench"), ["m"])


def test_a_broken_file_of_questions_is_not_used_in_part(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "question.jsonl").write_text('{"question_id": 1}\n')
    with pytest.raises(DataError, match=r"question\.jsonl:1: category"):
        Bench(data_dir=tmp_path, name="b").questions()


def test_mt_bench_is_fetched_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastchat.llm_judge import download_mt_bench_pregenerated as download

    source = tmp_path / "hub.jsonl"
    source.write_text('{"question_id": 81, "category": "writing", "turns": ["t"]}\n')
    names = ["data/mt_bench/question.jsonl", "data/mt_bench/reference_answer/gpt-4.jsonl"]
    monkeypatch.setattr(download, "_list", lambda *_: names)
    monkeypatch.setattr(download, "_fetch", lambda *_: str(source))
    bench = Bench(data_dir=tmp_path / "data", name="mt_bench")
    assert [q.question_id for q in bench.questions()] == [81]
    assert bench.reference_file("gpt-4").exists()
