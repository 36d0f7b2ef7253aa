"""A fast tokenizer as its own small file, read without the library of models where that is exact.

Data commands need token counts and the texts of special tokens, no model: importing the library
of models for them costs two seconds and a quarter of a gigabyte in each process. So
`tokenizer.json` is read directly where it is known what the library does with it: it takes some
kinds as they stand, and builds most of a Llama tokenizer anew. All others are left to the library.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastchat.errors import ModelError, UsageError
from fastchat.model.hub import Source, locate

if TYPE_CHECKING:
    from tokenizers import Tokenizer

USED_AS_IT_STANDS = {"TokenizersBackend", "PreTrainedTokenizerFast"}
LLAMA = {"LlamaTokenizer", "LlamaTokenizerFast"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedMark:
    """A token that is found in a text before the text is split into pieces."""

    id: int
    text: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFile:
    """What a tokenizer does, as data that can be sent to another process."""

    name: str
    """What was asked for: a folder or a hub id, for messages."""
    path: str
    """Where the library of models finds it."""
    definition: str
    """The JSON text of `tokenizer.json`."""
    added: tuple[AddedMark, ...]
    bos: str | None = None
    named: tuple[str, ...] = ()
    """Texts of the tokens that begin, end, pad and stand for the unknown."""
    chat_template: str | None = None

    @property
    def specials(self) -> tuple[AddedMark, ...]:
        """The special ones among the added tokens."""
        return tuple(mark for mark in self.added if mark.special and mark.text)

    def open(self) -> "Tokenizer":
        """A tokenizer of the caller's own, which neither cuts nor pads."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self.definition)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


def read_tokenizer(name: str, *, trust_remote_code: bool = False) -> TokenizerFile:
    """The tokenizer of a model: a folder, a hub id, or the model of the package.

    Raises:
        UsageError: there is no such model, or its tokenizer is not a fast one.
        UnavailableError: the hub is needed and cannot be reached.
        ModelError: the files are there and cannot be read.
    """
    # A folder may hold nothing but a tokenizer.
    folder = Path(name).expanduser()
    source = Source(path=str(folder)) if name and folder.is_dir() else locate(name)
    folder = Path(source.path)
    if folder.is_dir() and (found := _read_directly(folder, name)) is not None:
        return found
    return _read_by_library(
        source.path, name, source.arguments | {"trust_remote_code": trust_remote_code}
    )


def _read_directly(folder: Path, name: str) -> TokenizerFile | None:
    """The tokenizer, or None where the library would not use the file as it stands."""
    file, config_file = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if not (file.is_file() and config_file.is_file()):
        return None
    text = file.read_text("utf-8")
    try:
        parts, config = json.loads(text), json.loads(config_file.read_text("utf-8"))
    except ValueError as error:
        raise ModelError(f"the tokenizer files of {name} are not valid JSON: {error}") from None
    added = tuple(
        AddedMark(
            id=token["id"],
            text=token["content"],
            special=token["special"],
            lstrip=token["lstrip"],
            rstrip=token["rstrip"],
            single_word=token["single_word"],
        )
        for token in parts["added_tokens"]
    )
    if not _tokens_named_by(config) <= {mark.text for mark in added}:
        return None
    loaded = _as_loaded(parts, config, _model_type(folder))
    if loaded is None:
        return None
    roles = [_token_text(config.get(f"{role}_token")) for role in ("bos", "eos", "pad", "unk")]
    template = folder / "chat_template.jinja"
    return TokenizerFile(
        name=name,
        path=str(folder),
        definition=text if loaded == parts else json.dumps(loaded, ensure_ascii=False),
        added=added,
        bos=roles[0],
        named=tuple(dict.fromkeys(role for role in roles if role)),
        chat_template=template.read_text("utf-8")
        if template.is_file()
        else config.get("chat_template"),
    )


def _tokens_named_by(config: Any) -> set[str]:
    """Texts of the tokens that the config names, in whatever place."""
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    named = (
        *(config.get("added_tokens_decoder") or {}).values(),
        *(extra.values() if isinstance(extra, dict) else extra),
        *(config.get(f"{role}_token") for role in ("bos", "eos", "pad", "unk")),
    )
    return {text for token in named if (text := _token_text(token)) is not None}


def _model_type(folder: Path) -> str | None:
    """What kind of model the folder says it holds."""
    try:
        return json.loads((folder / "config.json").read_text("utf-8")).get("model_type")
    except (OSError, ValueError):
        return None


def _as_loaded(parts: Any, config: Any, model_type: str | None) -> Any:
    """The parts of the tokenizer as the library has them after loading; None if not known."""
    kind = config.get("tokenizer_class")
    if "auto_map" in config:
        return None
    if kind in LLAMA:
        model, splitter = parts["model"], parts["pre_tokenizer"]
        if model["type"] != "BPE" or not model.get("byte_fallback"):
            return None
        if model_type not in (None, "llama") or (splitter or {}).get("type") not in (
            None,
            "Metaspace",
        ):
            return None
        parts = parts | _llama_parts(model, config)
    elif kind not in USED_AS_IT_STANDS:
        return None
    # What puts marks at a text's ends is taken from the file, whatever the config says; where
    # the file says nothing, the library makes something up.
    return parts if parts["post_processor"] is not None else None


def _llama_parts(model: Any, config: Any) -> dict[str, Any]:
    """What the library builds for a Llama tokenizer, whatever the file says."""
    scheme = "always" if config.get("legacy") else "first"
    return {
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "never" if config.get("add_prefix_space") is False else scheme,
            "split": False,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": model["vocab"],
            "merges": model["merges"],
        },
    }


def _token_text(token: Any) -> str | None:
    """The text of a token, which a config gives as such or within a record."""
    return token.get("content") if isinstance(token, dict) else token


def _read_by_library(path: str, name: str, arguments: dict[str, Any]) -> TokenizerFile:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **arguments)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"no tokenizer can be loaded from {name}: {reason}") from error
    if not tokenizer.is_fast:
        raise UsageError(
            f"the tokenizer of {name} is a {type(tokenizer).__name__}, which is not a fast one; "
            "use a model whose folder holds a tokenizer.json."
        )
    roles = [getattr(tokenizer, f"{role}_token") for role in ("bos", "eos", "pad", "unk")]
    return TokenizerFile(
        name=name,
        path=path,
        definition=tokenizer.backend_tokenizer.to_str(),
        added=tuple(
            AddedMark(
                id=number,
                text=token.content,
                special=token.special,
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                single_word=token.single_word,
            )
            for number, token in tokenizer.added_tokens_decoder.items()
        ),
        bos=tokenizer.bos_token,
        named=tuple(dict.fromkeys(role for role in roles if role)),
        chat_template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
    )
