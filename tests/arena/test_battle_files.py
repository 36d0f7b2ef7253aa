import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fastchat.arena import battle_files
from fastchat.arena.battle_files import read_battles
from fastchat.arena.style import count_markdown, style_features
from fastchat.errors import DataError


def metadata(a: int, b: int) -> dict[str, Any]:
    return {
        "sum_user_tokens": 10,
        **{f"sum_assistant_{s}_tokens": n for s, n in (("a", a), ("b", b))},
        **{f"header_count_{s}": {"h1": 1, "h2": 2} for s in "ab"},
        **{f"list_count_{s}": {"ordered": 1, "unordered": 0} for s in "ab"},
        **{f"bold_count_{s}": {"**": 4, "__": 0} for s in "ab"},
    }


def row(i: int, **more: Any) -> dict[str, Any]:
    return {
        "question_id": f"q{i}",
        "model_a": "x",
        "model_b": "y",
        "winner": "model_a",
        "judge": "u",
        "turn": 1,
        "anony": True,
        "language": "English",
        "tstamp": 100.0 - i,
        "conv_metadata": metadata(100 + i, 50),
        **more,
    }


ROWS = [row(0), row(1, winner="tie"), row(2, winner="model_b", anony=False)]


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet", "csv"])
def test_every_kind_of_file_becomes_the_same_table(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"battles.{kind}"
    if kind == "json":
        path.write_text(json.dumps(ROWS))
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)))
    elif kind == "parquet":
        pl.DataFrame(ROWS).write_parquet(path)
    else:
        flat = [{k: v for k, v in r.items() if k != "conv_metadata"} for r in ROWS]
        pl.DataFrame(flat).write_csv(path)
    table = read_battles(path)
    assert table.frame["tstamp"].to_list() == [98.0, 99.0, 100.0]
    assert table.frame["winner"].to_list() == ["model_b", "tie", "model_a"]
    assert table.frame["anony"].to_list() == [False, True, True]
    assert not table.refused
    if kind == "csv":
        assert style_features(table.frame) is None
        return
    assert table.frame["sum_assistant_tokens_a"].to_list() == [102.0, 101.0, 100.0]
    assert table.frame["header_count_b"].to_list() == [3.0, 3.0, 3.0]
    assert table.frame["side_tokens_a"].to_list() == [112.0, 111.0, 110.0]
    features = style_features(table.frame)
    assert features is not None and features.shape == (3, 4)
    assert features[2].tolist() == pytest.approx([50 / 151, 0.0, 0.0, 0.0])


def test_what_is_no_battle_is_counted_by_reason(tmp_path: Path) -> None:
    path = tmp_path / "battles.jsonl"
    rows: list[Any] = [
        row(0),
        row(1, winner="draw"),
        row(2, winner=None),
        row(3, model_b="x"),
        row(4, model_a=None),
        [1],
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + '\n{"model_a": "x", "mod')
    table = read_battles(path)
    assert table.frame.height == 1
    assert table.refused == {
        "unknown_outcome": 2,
        "same_model": 1,
        "no_model": 1,
        "not_a_row": 1,
        "torn_line": 1,
    }


def test_texts_become_numbers_where_nothing_else_tells(tmp_path: Path) -> None:
    told = [
        {"role": "user", "content": "write code", "num_tokens": 5},
        {"role": "assistant", "content": "# T\n- **x**\n```py\n# no\n```", "num_tokens": 20},
    ]
    refused = [
        {"role": "user", "content": ["write code", ["image.png"]], "num_tokens": 5},
        {"role": "assistant", "content": "I’m sorry, but I can’t do that.", "num_tokens": 9},
    ]
    path = tmp_path / "battles.json"
    rows = [row(0, conversation_a=told, conversation_b=refused)]
    del rows[0]["conv_metadata"]
    path.write_text(json.dumps(rows))
    (only,) = read_battles(path).frame.to_dicts()
    assert (only["header_count_a"], only["list_count_a"], only["bold_count_a"]) == (1.0, 1.0, 1.0)
    assert (only["user_tokens"], only["side_tokens_a"]) == (5.0, 25.0)
    assert only["sum_assistant_tokens_b"] == 9.0
    assert only["is_code"] and only["is_refusal"]


def test_tags_are_those_that_are_true(tmp_path: Path) -> None:
    path = tmp_path / "battles.json"
    tags = {"math_v0.1": {"math": True}, "if_v0.1": {"if": False, "score": 1}}
    path.write_text(json.dumps([row(0, category_tag=tags, dedup_tag={"high_freq": True})]))
    (only,) = read_battles(path).frame.to_dicts()
    assert only["tags"] == ["math_v0.1.math"]
    assert only["dedup_high_freq"] is True and only["dedup_sampled"] is False


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("b.txt", "", "no file of battles"),
        ("b.json", "[{", "no row that can be read: torn_line 1"),
        ("b.parquet", "PAR", "cannot be read"),
        ("b.csv", "model_a,winner\nx,tie\n", "no column model_b"),
    ],
)
def test_a_file_that_is_none_is_told(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        read_battles(tmp_path / name)
    with pytest.raises(DataError, match=r"not there|no file"):
        read_battles(tmp_path / f"missing-{name}")


def test_a_file_that_was_cut_off_gives_its_whole_battles(tmp_path: Path) -> None:
    path = tmp_path / "battles.json"
    path.write_text(json.dumps([row(i) for i in range(3)], indent=1)[:-40])
    table = read_battles(path)
    assert table.frame.height == 2 and table.refused == {"torn_line": 1}


def test_rows_become_the_same_table_in_any_number_of_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(i) | ({"late": i} if i > 4 else {}) for i in range(7)]
    rows[2] |= {"late": 0.5, "category_tag": {"t": {"yes": True}}}
    path = tmp_path / "battles.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    whole = read_battles(path).frame
    monkeypatch.setattr(battle_files, "_BATCH", 2)
    assert read_battles(path).frame.equals(whole)
    assert whole["late"].drop_nulls().sort().to_list() == [0.5, 5.0, 6.0]


def test_an_empty_file_has_no_battles(tmp_path: Path) -> None:
    for name, text in (("b.json", "[]"), ("b.jsonl", "")):
        (tmp_path / name).write_text(text)
        assert read_battles(tmp_path / name).frame.height == 0


def test_markdown_is_counted_at_line_starts_and_outside_code() -> None:
    text = "# a\n## b\n####### c\n #d\n1. x\n- y\n* z\n a - b\n**b** __c__ **no\n**\n```\n# x\n- y"
    counts = count_markdown(text)
    assert counts.headers == {"h1": 1, "h2": 1, "h3": 0, "h4": 0, "h5": 0, "h6": 0}
    assert counts.lists == {"ordered": 1, "unordered": 2}
    assert counts.bold == {"**": 1, "__": 1}
