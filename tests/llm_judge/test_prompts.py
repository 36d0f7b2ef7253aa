from pathlib import Path

import pytest

from fastchat.errors import DataError
from fastchat.llm_judge.prompts import FIELDS, load_prompts, prompt_name
from fastchat.llm_judge.verdicts import parse_verdict

NAMES = [
    prompt_name(mode, is_reference=is_reference, turn=turn)
    for mode in ("single", "pairwise-all")
    for is_reference in (False, True)
    for turn in (1, 2)
]


def test_the_eight_prompts_have_their_published_names(tmp_path: Path) -> None:
    assert sorted(load_prompts(None, tmp_path)) == sorted(NAMES)
    assert NAMES[:4] == [
        *("single-v1", "single-v1-multi-turn", "single-math-v1", "single-math-v1-multi-turn")
    ]
    assert NAMES[4:] == [
        *("pair-v2", "pair-v2-multi-turn", "pair-math-v1", "pair-math-v1-multi-turn")
    ]


@pytest.mark.parametrize("name", NAMES)
def test_each_prompt_has_its_fields_and_says_how_to_end(name: str, tmp_path: Path) -> None:
    prompt = load_prompts(None, tmp_path)[name]
    turn = 2 if name.endswith("multi-turn") else 1
    wanted = FIELDS[prompt.type, turn]
    if "math" in name:
        wanted = wanted | {f"ref_answer_{i}" for i in range(1, turn + 1)}
        assert prompt.category == "math"
    assert prompt.fields() == wanted
    text = prompt.system_prompt + prompt.fill({field: f"<{field}>" for field in wanted})
    assert all(f"<{field}>" in text for field in wanted)
    assert "mpartial judge" in text
    if prompt.type == "single":
        assert prompt.output_format == "[[rating]]"
        assert parse_verdict(text, "[[rating]]").score == 5  # the example
    else:
        assert prompt.output_format == "[[A]]"
        assert all(form in text for form in ("[[A]]", "[[B]]", "[[C]]"))
        assert all(word in text for word in ("order", "length", "names"))


def test_answers_with_braces_go_into_a_prompt_as_they_are(tmp_path: Path) -> None:
    prompt = load_prompts(None, tmp_path)["single-v1"]
    assert "{x} {0} %s {question}" in prompt.fill(
        {"question": "q", "answer": "{x} {0} %s {question}"}
    )


def test_a_gap_that_nothing_fills_is_named(tmp_path: Path) -> None:
    prompt = load_prompts(None, tmp_path)["single-v1"]
    prompt = prompt.model_copy(update={"prompt_template": "{question} {nobody}"})
    with pytest.raises(DataError, match=r"single-v1 asks for 'nobody'.*answer, question"):
        prompt.fill({"question": "q", "answer": "a"})


def test_the_hash_changes_with_what_the_judge_is_told(tmp_path: Path) -> None:
    prompt = load_prompts(None, tmp_path)["single-v1"]
    assert prompt.hash == prompt.model_copy(update={"description": "other"}).hash
    assert prompt.hash != prompt.model_copy(update={"system_prompt": "other"}).hash


def test_a_judge_file_is_the_users_own_or_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_prompts(tmp_path / "none.jsonl", tmp_path)
    path = tmp_path / "judge_prompts.jsonl"
    path.write_text('{"name": "x"}\n')
    with pytest.raises(DataError, match=r"judge_prompts\.jsonl:1: type"):
        load_prompts(None, tmp_path)
