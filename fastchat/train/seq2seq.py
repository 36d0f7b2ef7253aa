"""Conversation -> pairs for an encoder and a decoder, the T5 way.

Every reply is one pair: all that was said before it, and the reply. The text is the published
one; its newlines, braces and blanks, which T5's vocabulary lacks, become tokens of their own.
"""

import hashlib
import json
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastchat.data.records import Rejected, read_records
from fastchat.errors import DataError, UsageError
from fastchat.message import Message
from fastchat.train.arguments import Arguments
from fastchat.train.examples import IGNORED, messages_of

if TYPE_CHECKING:
    import torch

    from fastchat.template import Template

logger = logging.getLogger(__name__)

PAD = "[PAD]"
T5_LACKS = ("<", "{", "\n", "}", "`", " ", "\\", "^", "\t")
"""Characters that T5 writes as unknown or not at all."""
SHORTEST = 6
"""Ids, end mark included, that both sides of a pair must have."""

JINJA = """\
{%- set ns = namespace(system=none, turns=[]) -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}{%- set ns.system = message['content'] -%}
{%- else -%}{%- set ns.turns = ns.turns + [message] -%}{%- endif -%}
{%- endfor -%}
{{- (ns.system if ns.system is not none else SYSTEM) + '\\n\\n' -}}
{%- for message in ns.turns -%}
{%- if message['role'] == 'user' -%}
{{- '### <USER>: ' + message['content'] + '\\n### <ASSISTANT>: ' -}}
{%- else -%}{{- message['content'] + '\\n' -}}{%- endif -%}
{%- endfor -%}"""
"""The published text as Jinja, with holes for the system message and the roles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What the encoder reads and the decoder has to write, as ids with the end mark."""

    input_ids: Sequence[int]
    labels: Sequence[int]


class Pairs:
    """What the trainer draws from: all pairs, by index."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        return self.pairs[index]

    def lengths(self) -> list[int]:
        """Ids that the encoder reads, of every pair."""
        return [len(pair.input_ids) for pair in self.pairs]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairData:
    """What the trainer needs to know of pairs."""

    train: Pairs
    held_out: Pairs | None
    pad_id: int

    def collate_for(self, model: Any) -> "PairCollator":
        """What makes a batch of pairs for this model."""
        return PairCollator(pad_id=self.pad_id, start_id=model.config.decoder_start_token_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCollator:
    """A batch of pairs as tensors, each side padded to its longest.

    The decoder reads the reply one place later, after `start_id`.
    """

    pad_id: int
    start_id: int

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, "torch.Tensor"]:
        """The ids and the mask of both sides and `labels`, each (batch, longest) int64."""
        import torch

        def padded(rows: Sequence[Sequence[int]], filler: int) -> "torch.Tensor":
            longest = max(len(row) for row in rows)
            return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows])

        inputs = [pair.input_ids for pair in pairs]
        replies = [[self.start_id, *pair.labels[:-1]] for pair in pairs]
        return {
            "input_ids": padded(inputs, self.pad_id),
            "attention_mask": padded([[1] * len(row) for row in inputs], 0),
            "decoder_input_ids": padded(replies, self.pad_id),
            "labels": padded([pair.labels for pair in pairs], IGNORED),
        }


def open_data(arguments: Arguments, tokenizer: Any, *, template: "Template") -> PairData:
    """The pairs of the files that the flags name.

    Of several processes the first makes and keeps them, the others read what it kept.
    """
    data = arguments.data
    if not data.data_path:
        raise UsageError("--data_path is missing: the conversations to learn from.")
    build = partial(_read_or_make, arguments, tokenizer, template)
    with arguments.training.main_process_first(desc="making pairs"):
        train = build(data.data_path, kept=arguments.seq2seq.preprocessed_path)
        held_out = build(data.eval_data_path) if data.eval_data_path else None
    random.Random(arguments.training.seed).shuffle(train)
    return PairData(
        train=Pairs(train),
        held_out=Pairs(held_out) if held_out else None,
        pad_id=tokenizer.pad_token_id,
    )


def reply_loss(
    outputs: Any, labels: "torch.Tensor", num_items_in_batch: "torch.Tensor | int | None" = None
) -> "torch.Tensor":
    """Cross-entropy a token of the replies, of all that a step learns from.

    T5's own loss is the mean of the rows at hand, whatever the other processes and the other
    parts of the step have.
    """
    from torch.nn import functional as F

    total = F.cross_entropy(
        outputs.logits.flatten(0, 1).float(),
        labels.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
    )
    return total / ((labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)


def add_t5_tokens(tokenizer: Any) -> None:
    """Teaches the tokenizer its padding and the characters of code that T5 lacks."""
    from tokenizers import AddedToken

    tokenizer.add_special_tokens({"pad_token": PAD})
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in T5_LACKS])


def chat_template(template: "Template") -> str:
    """The published text as the Jinja that tokenizers carry."""
    user, assistant = _roles(template)
    return (
        JINJA.replace("SYSTEM", json.dumps(template.system_message))
        .replace("USER", user)
        .replace("ASSISTANT", assistant)
    )


def pairs_of(messages: Sequence[Message], template: "Template") -> list[tuple[str, str]]:
    """The text before every reply of a conversation, and the reply with its newline."""
    user, assistant = _roles(template)
    given = [message.text for message in messages if message.role == "system"]
    text = ("\n".join(given) if given else template.system_message) + "\n\n"
    pairs: list[tuple[str, str]] = []
    for message in messages:
        if message.role == "user":
            text += f"### <{user}>: {message.text}\n### <{assistant}>: "
        elif message.role == "assistant":
            reply = message.text + "\n"
            pairs.append((text, reply))
            text += reply
    return pairs


def tokenized(pairs: Sequence[tuple[str, str]], tokenizer: Any, *, max_length: int) -> list[Pair]:
    """The ids of texts: the end of what came before, and the beginning of the reply."""
    if not pairs:
        return []
    texts = [text for pair in pairs for text in pair]
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    end = tokenizer.eos_token_id
    made = [
        Pair(input_ids=[*before[-max_length:], end], labels=[*reply[:max_length], end])
        for before, reply in zip(ids[::2], ids[1::2], strict=True)
    ]
    return [x for x in made if len(x.input_ids) >= SHORTEST and len(x.labels) >= SHORTEST]


def clean_flant5_ckpt(path: str | Path) -> list[Path]:
    """Repairs the shared embedding of an old checkpoint; returns the files that were written.

    Saved from shards by older programs, encoder and decoder have wrong copies of the table
    `shared`. Works on a folder of safetensors or of PyTorch's files, in one part or in many.

    Raises:
        DataError: no file of the folder holds the table.
    """
    folder = Path(path)
    files = sorted(folder.glob("*.safetensors")) + sorted(folder.glob("pytorch_model*.bin"))
    parts = {file: _read_weights(file) for file in files}
    table = next(
        (part["shared.weight"] for part in parts.values() if "shared.weight" in part), None
    )
    if table is None:
        raise DataError(
            f"{folder} holds no weights of a T5: shared.weight is in none of its files."
        )
    written: list[Path] = []
    for file, part in parts.items():
        copies = [f"{side}.embed_tokens.weight" for side in ("encoder", "decoder")]
        if any(name in part and not part[name].equal(table) for name in copies):
            _write_weights(file, {n: table.clone() if n in copies else x for n, x in part.items()})
            written.append(file)
    return written


def _roles(template: "Template") -> tuple[str, str]:
    """The names that stand before what the two sides say."""
    user, assistant = template.published.roles[:2]
    return user, assistant


def _read_or_make(
    arguments: Arguments,
    tokenizer: Any,
    template: "Template",
    paths: Sequence[str],
    *,
    kept: str | None = None,
) -> list[Pair]:
    """The pairs of a file, from the cache when it was made of the same."""
    limit = arguments.seq2seq.num_data
    max_length = arguments.fit.model_max_length
    key = _key(paths, tokenizer, template=template, limit=limit, max_length=max_length)
    if kept and (pairs := _read_kept(Path(kept), key)) is not None:
        return pairs
    pairs, dropped = _make(paths, tokenizer, template=template, limit=limit, max_length=max_length)
    if arguments.training.process_index == 0:
        logger.info("read paths=%s pairs=%d", ",".join(paths), len(pairs))
        for reason, n in sorted(dropped.items()):
            logger.info("dropped reason=%r n=%d", reason, n)
    if not pairs:
        reasons = ", ".join(f"{reason}: {n}" for reason, n in sorted(dropped.items()))
        raise DataError(
            f"{', '.join(paths)} holds nothing to learn from ({reasons or 'no records'})."
        )
    if kept and arguments.training.process_index == 0:
        _keep(Path(kept), key, pairs)
    return pairs


def _make(
    paths: Sequence[str], tokenizer: Any, *, template: "Template", limit: int, max_length: int
) -> tuple[list[Pair], dict[str, int]]:
    """The pairs of a file, and what was left out by reason."""
    dropped: dict[str, int] = {}
    pairs: list[Pair] = []
    records = chain.from_iterable(read_records(path) for path in paths)
    for record in islice(records, limit) if limit >= 0 else records:
        messages = record.reason if isinstance(record, Rejected) else messages_of(record)
        if isinstance(messages, str):
            dropped[messages] = dropped.get(messages, 0) + 1
            continue
        texts = pairs_of(messages, template)
        made = tokenized(texts, tokenizer, max_length=max_length)
        if n_short := len(texts) - len(made):
            dropped["pair too short"] = dropped.get("pair too short", 0) + n_short
        pairs += made
    return pairs, dropped


def _key(
    paths: Sequence[str], tokenizer: Any, *, template: "Template", limit: int, max_length: int
) -> str:
    """What tokenized pairs depend on, as one word."""
    content = hashlib.sha256()
    for path in paths:
        try:
            content.update(Path(path).read_bytes())
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}.") from None
    content.update(tokenizer.backend_tokenizer.to_str().encode())
    content.update(repr((chat_template(template), limit, max_length)).encode())
    return content.hexdigest()


def _read_kept(path: Path, key: str) -> list[Pair] | None:
    """The pairs of an earlier run; None when there are none, or of other data."""
    if not path.is_file():
        return None
    try:
        kept = json.loads(path.read_text("utf-8"))
        inputs, labels = kept["input_ids"], kept["labels"]
        pairs = [Pair(input_ids=a, labels=b) for a, b in zip(inputs, labels, strict=True)]
        is_same = kept["key"] == key
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"--preprocessed_path {path} cannot be read: {error}; remove it.") from None
    if not is_same:
        logger.info("made anew path=%s: its data, tokenizer or length is another", path)
        return None
    logger.info("read path=%s pairs=%d", path, len(pairs))
    return pairs


def _keep(path: Path, key: str, pairs: Sequence[Pair]) -> None:
    """Writes pairs to a file, which appears under its name once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    content = {
        "key": key,
        "input_ids": [list(pair.input_ids) for pair in pairs],
        "labels": [list(pair.labels) for pair in pairs],
    }
    part.write_text(json.dumps(content), "utf-8")
    part.replace(path)


def _read_weights(path: Path) -> dict[str, "torch.Tensor"]:
    """The tensors of a file; nothing else that may be in it is executed."""
    import torch
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _write_weights(path: Path, tensors: dict[str, "torch.Tensor"]) -> None:
    """Replaces a file of weights by another of the same kind."""
    import torch
    from safetensors.torch import save_file

    part = path.with_name(f".{path.name}.part")
    if path.suffix == ".safetensors":
        save_file(tensors, part, metadata={"format": "pt"})
    else:
        torch.save(tensors, part)
    part.replace(path)
