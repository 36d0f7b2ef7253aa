"""Figures about records and tokens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastchat.data.get_stats import BIN_EDGES, Stats, main
from fastchat.model.tokenizer_file import read_tokenizer

PUBLISHED = 7 + len(BIN_EDGES) - 1
"""Lines of the published output."""


def published_lines(records: list[dict[str, Any]], tokenizer: str) -> list[str]:
    """The published figures, by their formulas, with every text tokenized whole."""
    opened = read_tokenizer(tokenizer).open()

    def n_tokens(text: str) -> int:
        return len(opened.encode(text, add_special_tokens=False).ids)

    totals, turns, prompts, responses = [], [], [], []
    for record in records:
        texts = [turn["value"] for turn in record["conversations"]]
        rounds = len(texts) // 2
        asked = [n_tokens(text) for text in texts[0 : 2 * rounds : 2]]
        answered = [n_tokens(text) for text in texts[1 : 2 * rounds : 2]]
        totals.append(sum(asked) + sum(answered))
        turns.append(rounds)
        prompts += asked
        responses += answered
    histogram, _ = np.histogram(totals, bins=BIN_EDGES)
    return [
        f"#sequence: {len(records) / 1e3:.2f} K",
        f"#tokens: {sum(totals) / 1e6:.2f} M",
        f"avg. turns: {np.mean(turns):.2f}",
        f"avg. prompt length: {np.mean(prompts):.2f}",
        f"avg. response length: {np.mean(responses):.2f}",
        "",
        "- Histogram -",
        *(f"L{a} - {b}: {n}" for a, b, n in zip(BIN_EDGES, BIN_EDGES[1:], histogram, strict=False)),
    ]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_published_lines_are_those_of_the_formulas(
    generate: Callable[..., Any], capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    made = generate("--n", "150", "--seed", "2", "--format", "markdown")
    records = json.loads(made.path.read_text("utf-8"))
    argv = ["--in", str(made.path), "--model-name", "vicuna-tiny", "--workers", workers]
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:PUBLISHED] == published_lines(records, "vicuna-tiny")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tok_llama", "tok_bytebpe"])
def test_so_they_are_with_other_tokenizers(
    generate: Callable[..., Any], shared: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    made = generate("--n", "400", "--seed", "0", "--format", "markdown")
    records = json.loads(made.path.read_text("utf-8"))
    folder = str(shared / "spec" / "vectors" / name)
    assert main(["--in", str(made.path), "--model-name-or-path", folder]) == 0
    assert capsys.readouterr().out.splitlines()[:PUBLISHED] == published_lines(records, folder)


@pytest.fixture
def source(tmp_path: Path, talk: Callable[..., dict[str, Any]]) -> Path:
    path = tmp_path / "data.json"
    records = [
        talk("a", "What is the weather like in the valley today?", "It is warm.", model="gpt4"),
        talk("b", "Wie ist das Wetter heute im Tal, und regnet es bald?", "Es ist warm.", model=""),
        talk("c", "Only a question, and it has no answer at all."),
        {"id": "d"},
    ]
    path.write_text(json.dumps(records), "utf-8")
    return path


def test_all_figures_come_as_json_too(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--in", str(source), "--model-name", "vicuna-tiny", "--json", "--languages"]
    assert main([*argv, "--max-length", "100"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["sequences"], figures["rounds"]) == (3, 2)
    assert figures["avg_turns"] == pytest.approx(2 / 3)
    assert figures["models"] == {"not named": 2, "gpt4": 1}
    assert figures["languages"]["en"] >= 1 and figures["languages"]["de"] == 1
    assert figures["dropped"] == {"no conversations": 1}
    assert figures["padding_share"] == pytest.approx(1 - figures["tokens"] / 300)
    assert sum(one["sequences"] for one in figures["histogram"]) == 3


def test_bins_and_percentiles() -> None:
    stats = Stats(max_length=10)
    for length in (0, 1023, 1024, 16384, 32768, 32769, 99999):
        stats.add({"rounds": 1, "prompt": 0, "response": length, "model": None})
    assert stats.histogram() == [2, 1, 0, 0, 0, 2, 2]
    assert stats.percentile(50) == 16384
    assert stats.percentile(90) == stats.percentile(99) == 99999


def test_a_file_without_rounds_gives_zeros(
    tmp_path: Path, talk: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps([talk("a", "alone")]), "utf-8")
    assert main(["--in", str(path), "--model-name", "vicuna-tiny"]) == 0
    assert "avg. prompt length: 0.00" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "x.json"], "figures are printed"),
        (["--resume"], "--resume cannot be"),
        (["--max-length", "0"], "--max-length 0 is no window"),
    ],
)
def test_a_flag_that_cannot_be_is_refused(
    source: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["--in", str(source), "--model-name", "vicuna-tiny", *flags]) == 2
    assert message in capsys.readouterr().err
