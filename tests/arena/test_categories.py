from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from fastchat.arena.battle_files import battle_table, frame_of_rows
from fastchat.arena.categories import chosen_categories, known_categories, read_categories
from fastchat.errors import DataError, UsageError

PUBLISHED = {
    *("full", "dedup", "math", "if", "multiturn", "creative_writing", "coding", "hard_6"),
    *("hard_english_6", "long_user", "english", "chinese", "french", "german", "spanish"),
    *("russian", "japanese", "korean", "no_tie", "no_short", "no_refusal"),
    *("overall_limit_5_user_vote", "long"),
}

CRITERIA = ["specificity", "complexity", "creativity", "real_world", "problem_solving"]


def battles() -> pl.DataFrame:
    tags = {"criteria_v0.1": dict.fromkeys(CRITERIA, True), "math_v0.1": {"math": True}}
    hard = {"criteria_v0.1": dict.fromkeys([*CRITERIA, "domain_knowledge"], True)}
    base = {"model_a": "x", "model_b": "y", "judge": "u", "turn": 1, "winner": "model_a"}
    rows = [
        base | {"language": "English", "category_tag": tags, "user_tokens": 600.0},
        base | {"language": "English", "category_tag": hard, "is_code": True, "turn": 2},
        base | {"language": "Chinese", "winner": "tie", "is_refusal": True, "side_tokens_a": 800},
        base | {"language": "German", "dedup_tag": {"high_freq": True}, "user_tokens": 3.0},
        base | {"dedup_tag": {"high_freq": True, "sampled": True}, "is_refusal": False},
        base | {"judge": "v", "model_a": "z"},
    ]
    rows = [row | {"tstamp": float(i)} for i, row in enumerate(rows)]
    return battle_table(frame_of_rows(rows, Counter())).frame


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("full", [0, 1, 2, 3, 4, 5]),
        ("english", [0, 1]),
        ("chinese", [2]),
        ("math", [0]),
        ("hard_6", [1]),
        ("hard_english_6", [1]),
        ("coding", [1]),
        ("multiturn", [1]),
        ("long_user", [0]),
        ("long", [2]),
        ("no_tie", [0, 1, 3, 4, 5]),
        ("no_short", [0]),
        ("no_refusal", [4]),
        ("dedup", [0, 1, 2, 4, 5]),
        ("overall_limit_5_user_vote", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_a_category_holds_what_its_rules_say(key: str, wanted: list[int]) -> None:
    (category,) = chosen_categories([key], {})
    assert [int(t) for t in category.select(battles())["tstamp"]] == wanted


def test_all_published_categories_are_there() -> None:
    assert set(known_categories()) >= PUBLISHED


def test_votes_of_a_voter_are_counted_within_the_category(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('[category.two]\ntitle = "Two"\nvotes_per_user = 2\nlanguages = ["English"]\n')
    (category,) = chosen_categories(["two"], read_categories(path))
    assert category.select(battles())["tstamp"].to_list() == [0.0, 1.0]


def test_a_category_of_ones_own_may_ask_for_any_column(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('[category.of_z]\ntitle = "Of z"\n[category.of_z.where]\nmodel_a = "z"\n')
    (category,) = chosen_categories(["of_z"], read_categories(path))
    assert category.select(battles())["tstamp"].to_list() == [5.0]
    assert category.missing(battles().drop("model_a")) == ["model_a"]


def test_what_the_battles_do_not_tell_is_named() -> None:
    (category,) = chosen_categories(["math"], {})
    assert category.missing(battles().with_columns(tags=pl.lit(None, pl.List(pl.String)))) == [
        "tags"
    ]
    assert category.missing(battles()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[category.x\n", "no TOML"),
        ('[category.x]\ntitle = "X"\nlanguage = ["English"]\n', "x: language"),
        ("[category.x]\n", "x: title"),
    ],
)
def test_a_file_of_categories_that_is_wrong_is_told(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_categories(path)


def test_an_unknown_category_is_told() -> None:
    with pytest.raises(UsageError, match="'medicine'"):
        chosen_categories(["full", "medicine"], {})
