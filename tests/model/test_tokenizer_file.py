"""A tokenizer read from its file is the one that the library of models loads."""

import json
import pickle
from pathlib import Path

import pytest

from fastchat.errors import ModelError, UsageError
from fastchat.model.hub import locate
from fastchat.model.tokenizer_file import TokenizerFile, _read_by_library, read_tokenizer

TEXTS = ["Hello, world!", "USER: hi </s>ASSISTANT: <s> ok", "  two\n\nlines 日本語"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tokenizer of the package's model."""
    source = Path(locate("vicuna-tiny").path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((source / name).read_text("utf-8"), "utf-8")
    return tmp_path


def ids(tokenizer: TokenizerFile) -> list[list[int]]:
    return [tokenizer.open().encode(text).ids for text in TEXTS]


def change(folder: Path, name: str, **fields: object) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | fields), "utf-8")


@pytest.mark.slow
def test_the_file_alone_gives_what_the_library_gives(folder: Path) -> None:
    direct, loaded = read_tokenizer(str(folder)), _read_by_library(str(folder), "x", {})
    assert ids(direct) == ids(loaded)
    assert set(direct.added) == set(loaded.added)
    assert (direct.bos, direct.named) == (loaded.bos, loaded.named)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tok_llama", "tok_bytebpe"])
def test_so_do_those_of_the_vectors(shared: Path, name: str) -> None:
    path = str(shared / "spec" / "vectors" / name)
    assert ids(read_tokenizer(path)) == ids(_read_by_library(path, "x", {}))


LLAMA = {"tokenizer_class": "LlamaTokenizer"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        LLAMA,
        LLAMA | {"legacy": True},
        LLAMA | {"legacy": None},
        LLAMA | {"legacy": True, "add_bos_token": True, "add_eos_token": True},
        LLAMA | {"add_bos_token": False},
        LLAMA | {"add_prefix_space": False},
        {"tokenizer_class": "PreTrainedTokenizerFast", "add_eos_token": True},
        {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True},
    ],
)
@pytest.mark.parametrize("normalizer", [None, "published"])
def test_what_the_library_builds_anew_is_built_alike(
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, object],
    normalizer: str | None,
) -> None:
    source = shared / "spec" / "vectors" / "tok_llama"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((source / name).read_text("utf-8"), "utf-8")
    change(tmp_path, "tokenizer_config.json", **config)
    if normalizer:
        # As in the files that were published with the models.
        blank = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        steps = [{"type": "Prepend", "prepend": "▁"}, blank]
        sequence = {"type": "Sequence", "normalizers": steps}
        change(tmp_path, "tokenizer.json", normalizer=sequence, pre_tokenizer=None)
    loaded = _read_by_library(str(tmp_path), "x", {})
    monkeypatch.setattr("fastchat.model.tokenizer_file._read_by_library", None)
    assert ids(read_tokenizer(str(tmp_path))) == ids(loaded)


def test_a_folder_needs_nothing_but_the_tokenizer_and_it_can_be_sent(folder: Path) -> None:
    tokenizer = read_tokenizer(str(folder))
    assert tokenizer.bos == "<s>" and tokenizer.named == ("<s>", "</s>", "<pad>")
    assert pickle.loads(pickle.dumps(tokenizer)) == tokenizer
    assert {mark.text for mark in tokenizer.specials} >= {"<s>", "</s>"}


@pytest.mark.parametrize(
    "config",
    [
        {"tokenizer_class": "LlamaTokenizer"},
        {"tokenizer_class": "SomethingElse"},
        {"auto_map": {"AutoTokenizer": ["a.B", None]}},
        {"eos_token": "<unheard-of>"},
    ],
)
def test_what_the_library_would_change_is_left_to_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, object]
) -> None:
    asked: list[str] = []

    def library(path: str, name: str, arguments: dict[str, object]) -> None:
        asked.append(path)

    monkeypatch.setattr("fastchat.model.tokenizer_file._read_by_library", library)
    change(folder, "tokenizer_config.json", **config)
    read_tokenizer(str(folder))
    assert asked == [str(folder)]


def test_a_broken_file_is_an_error_that_names_it(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{", "utf-8")
    with pytest.raises(ModelError, match=r"tokenizer files of .* are not valid JSON"):
        read_tokenizer(str(folder))


def test_no_model_of_that_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        read_tokenizer(str(tmp_path / "nowhere" / "at" / "all"))
