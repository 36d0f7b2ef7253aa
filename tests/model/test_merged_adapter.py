"""Adapters that become part of their base: which they are, and what is wrong with some."""

import json
from pathlib import Path

import pytest

from fastchat.errors import DataError
from fastchat.model.merged_adapter import PairAdapter, pair_adapter


def folder(path: Path, **config: object) -> str:
    path.mkdir(exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    return str(path)


def test_an_adapter_of_encoder_and_decoder_names_its_base(tmp_path: Path) -> None:
    name = folder(tmp_path / "a", task_type="SEQ_2_SEQ_LM", base_model_name_or_path="google/t5")
    assert pair_adapter(name) == PairAdapter(path=name, base="google/t5")
    assert not PairAdapter(path=name, base="x").has_tokenizer
    (tmp_path / "a" / "tokenizer_config.json").write_text("{}", "utf-8")
    assert PairAdapter(path=name, base="x").has_tokenizer


def test_other_adapters_and_other_folders_are_none(tmp_path: Path) -> None:
    name = folder(tmp_path / "a", task_type="CAUSAL_LM", base_model_name_or_path="meta/llama")
    assert pair_adapter(name) is None
    assert pair_adapter(str(tmp_path)) is None
    assert pair_adapter("google/t5") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"task_type": "SEQ_2_SEQ_LM"}', "does not name its base"),
        (
            '{"task_type": "SEQ_2_SEQ_LM", "base_model_name_or_path": "/nowhere/t5"}',
            "trained on /nowhere/t5, which is not there",
        ),
    ],
)
def test_what_cannot_be_merged_is_one_clear_error(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "adapter_config.json").write_text(text, "utf-8")
    with pytest.raises(DataError, match=said) as caught:
        pair_adapter(str(tmp_path))
    assert "\n" not in str(caught.value)
