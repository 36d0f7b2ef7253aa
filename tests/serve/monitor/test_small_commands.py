"""Two commands that are one step each: style counted into battles, models as rows of HTML."""

import json
from pathlib import Path
from typing import Any

import pytest

from fastchat.serve.monitor import add_markdown_info, elo_analysis, leaderboard_csv_to_html


def battle(i: int, answers: tuple[str, str], **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"question_id": f"q{i}", "model_a": "x", "model_b": "y", "tstamp": i}
    for side, text in zip("ab", answers, strict=True):
        said = [{"role": "user", "content": "What now?"}, {"role": "assistant", "content": text}]
        row[f"conversation_{side}"] = said
    return row | {"winner": ("model_a", "model_b", "tie")[i % 3]} | more


def test_style_is_counted_outside_of_code_and_style_control_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    styled = "# One\n## Two\n1. a\n2. b\n- c\n**x** __y__ **z**\n```\n# no\n- no\n**no**\n```"
    rows = [
        battle(0, (styled, "plain")),
        battle(1, ("plain", styled), conv_metadata={"turns": 1, "bold_count_a": 9}),
        {"model_a": "x", "model_b": "y", "winner": "tie"},
    ]
    rows += [battle(i, ("- a\n" * (i % 4), "**b** " * (i % 5))) for i in range(3, 40)]
    source, out = tmp_path / "battles.jsonl", tmp_path / "styled.json"
    source.write_text("\n".join(map(json.dumps, rows)) + '\n{"torn')
    argv = ["--input-file", str(source), "--output-file", str(out)]
    assert add_markdown_info.main(argv) == 0
    said = capsys.readouterr().out
    assert "rows: 40, without texts: 1" in said and "left out, torn_line: 1" in said
    done = json.loads(out.read_text())
    counts = done[0]["conv_metadata"]
    assert counts["header_count_a"] == {"h1": 1, "h2": 1, "h3": 0, "h4": 0, "h5": 0, "h6": 0}
    assert counts["list_count_a"] == {"ordered": 2, "unordered": 1}
    assert counts["bold_count_a"] == {"**": 2, "__": 1}
    assert counts["sum_assistant_b_tokens"] == 1 and counts["sum_user_tokens"] == 3
    again = done[1]["conv_metadata"]
    assert again["turns"] == 1 and again["bold_count_a"] == {"**": 0, "__": 0}
    assert again["list_count_b"] == counts["list_count_a"] and "conv_metadata" not in done[2]
    out.write_text(json.dumps([row for row in done if "conv_metadata" in row]))
    argv = ["--clean-battle-file", str(out), "--style-control", "--no-plots"]
    assert elo_analysis.main([*argv, "--output-dir", str(tmp_path / "r")]) == 0
    assert "header_count: " in capsys.readouterr().out


def test_models_become_rows_of_html(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "models.csv"
    table.write_text(
        "key,Model,MT-bench (score),MT-bench (win rate %),Arena Elo rating,MMLU,License,"
        "Organization,Link,Knowledge cutoff date\n"
        "a,A,-,-,-,-,-,-,-,-\n"
        'b,<b>B</b>,8.99,95.2,1185.4,0.864,"MIT, mostly",Us,https://x.org/?a&b,2023/4\n'
    )
    assert leaderboard_csv_to_html.main(["--input", str(table)]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.startswith("<tr><th>Model</th><th>Arena rating</th>")
    assert first == (
        '<tr><td><a href="https://x.org/?a&amp;b">&lt;b&gt;B&lt;/b&gt;</a></td><td>1185</td>'
        "<td>8.99</td><td>95.2</td><td>86.4</td><td>Us</td><td>MIT, mostly</td><td>2023/4</td></tr>"
    )
    assert second == "<tr><td>A</td>" + "<td>-</td>" * 7 + "</tr>"
    assert leaderboard_csv_to_html.main(["--input", str(tmp_path / "none.csv")]) == 1
    assert "none.csv cannot be read" in capsys.readouterr().err
