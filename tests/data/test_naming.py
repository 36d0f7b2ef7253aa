"""Outputs are named after their input."""

import pytest

from fastchat.data.naming import beside, named
from fastchat.data.pipeline import PipelineSettings
from fastchat.errors import UsageError


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data.json", "data_gpt4.json"),
        ("a.json.d/data.v2.json", "a.json.d/data.v2_gpt4.json"),
        ("/x/data.jsonl.gz", "/x/data_gpt4.jsonl.gz"),
        ("data.parquet", "data_gpt4.parquet"),
        ("data.json.zst", "data_gpt4.json.zst"),
        ("data", "data_gpt4.json"),
        ("data.2023", "data.2023_gpt4.json"),
    ],
)
def test_the_word_stands_before_the_ending(path: str, name: str) -> None:
    assert named(path, "gpt4") == name
    assert beside(PipelineSettings(in_file=(path,)), "gpt4") == name


def test_a_given_name_wins() -> None:
    settings = PipelineSettings(in_file=("a.json", "b.json"), out_file="c.json")
    assert beside(settings, "gpt4") == "c.json"


@pytest.mark.parametrize("inputs", [("-",), ("a.json", "b.json"), ("*.json",)])
def test_an_input_without_one_name_needs_an_output(inputs: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="name the output with --out-file"):
        beside(PipelineSettings(in_file=inputs), "gpt4")
