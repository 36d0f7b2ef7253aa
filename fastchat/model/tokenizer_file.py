"""A fast tokenizer as its own small file, read without the library of models where that is exact.

Data commands need token counts and the texts of special tokens, no model: importing the library
of models for them costs two seconds and a quarter of a gigabyte in each process. So
`tokenizer.json` is read directly when the library would use it as it stands, and by the library
when that rebuilds parts of it.
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
    if not _is_used_as_it_stands(parts, config, {mark.text for mark in added}):
        return None
    roles = [_token_text(config.get(f"{role}_token")) for role in ("bos", "eos", "pad", "unk")]
    template = folder / "chat_template.jinja"
    return TokenizerFile(
        name=name,
        path=str(folder),
        definition=text,
        added=added,
        bos=roles[0],
        named=tuple(dict.fromkeys(role for role in roles if role)),
        chat_template=template.read_text("utf-8")
        if template.is_file()
        else config.get("chat_template"),
    )


def _is_used_as_it_stands(parts: Any, config: Any, added: set[str]) -> bool:
    """Whether the library, too, would take every part of the tokenizer from its file."""
    kind = config.get("tokenizer_class")
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    wanted = {
        _token_text(token)
        for token in (
            *(config.get("added_tokens_decoder") or {}).values(),
            *(extra.values() if isinstance(extra, dict) else extra),
            *(config.get(f"{role}_token") for role in ("bos", "eos", "pad", "unk")),
        )
    } - {None}
    if "auto_map" in config or config.keys() & {"add_bos_token", "add_eos_token"}:
        return False
    if not wanted <= added:
        return False
    if kind in USED_AS_IT_STANDS:
        return True
    splitter = parts["pre_tokenizer"] or {}
    # What the library builds for a Llama tokenizer, whatever the file says.
    return (
        kind in LLAMA
        and parts["normalizer"] is None
        and splitter.get("type") == "Metaspace"
        and splitter.get("split") is False
        and splitter.get("prepend_scheme") == ("always" if config.get("legacy") else "first")
        and config.get("add_prefix_space") in (None, True)
    )


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
