"""Grammars that answers keep to: compiled by llguidance, applied as masks over the vocabulary.

A grammar is compiled once, beside the event loop, and kept by its content; every answer goes
through a copy of its own. Before a draw, one bit per token says what may follow; when nothing
can follow any more the answer is complete. The text may be free for a while first: until a mark
of a tool call stands in it, or a model's reasoning is over.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastchat.engine.base import GenerationRequest, Grammar
from fastchat.engine.validate import Checked
from fastchat.errors import UsageError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from torch import Tensor

    from fastchat.model.load import LoadedModel

logger = logging.getLogger(__name__)

KEPT = 256
"""Compiled grammars of one model that are kept, the least recently used leaving first."""

JSON_FORM: dict[str, Any] = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
}
"""JSON on one line, at most a blank after a comma or colon: a model can waste no token on blanks,
of which small ones write as many as they may."""

_FORCED_COMPLETE = "NoExtension"


@dataclass(frozen=True, slots=True)
class Compiled:
    """A grammar ready for answers of one model."""

    grammar: Grammar
    tokenizer: LLTokenizer
    matcher: LLMatcher
    """At the beginning; never advanced."""
    open_ids: frozenset[int]
    """Ids of the mark that opens the skipped part, where one token is the mark."""
    blank_ids: frozenset[int]
    """Ids of line breaks, which may follow a skipped part."""
    special_ids: frozenset[int]
    """Ids of special tokens, by which a text may begin that does not open the grammar."""

    def begin(self, *, is_inside: bool = False) -> Constraint:
        """The way of one new answer; is_inside: the prompt has opened the skipped part."""
        return Constraint(self, is_inside=is_inside)


class Grammars:
    """Compiles the grammars of one model's requests, each once."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._tokenizer_lock = threading.Lock()
        """Guards the tokenizer while it is made; never taken on the event loop."""
        self._tokenizer: LLTokenizer | None = None
        self._lock = threading.Lock()
        """Guards what is kept, for moments only."""
        self._kept: OrderedDict[Grammar, Compiled] = OrderedDict()

    async def compiled(self, grammar: Grammar) -> Compiled:
        """The grammar, compiled beside the event loop unless it is known.

        Raises UsageError when it cannot be, with the reason and the field it came in.
        """
        with self._lock:
            known = self._kept.get(grammar)
            if known is not None:
                self._kept.move_to_end(grammar)
                return known
        return await asyncio.to_thread(self.compile, grammar)

    async def joined(self, request: GenerationRequest, ready: Checked) -> Checked:
        """A checked request together with its grammar."""
        if request.grammar is None:
            return ready
        return replace(ready, compiled=await self.compiled(request.grammar))

    def compile(self, grammar: Grammar) -> Compiled:
        """The grammar, compiled in this thread."""
        tokenizer = self._ll_tokenizer()
        matcher = _matcher(grammar, tokenizer)
        vocabulary: dict[str, int] = self._loaded.tokenizer.get_vocab()
        opened = vocabulary.get(grammar.skips[0]) if grammar.skips else None
        blanks = (tokenizer.tokenize_str(text) for text in ("\n", "\n\n"))
        compiled = Compiled(
            grammar,
            tokenizer,
            matcher,
            frozenset() if opened is None else frozenset((opened,)),
            frozenset(ids[0] for ids in blanks if len(ids) == 1) if grammar.skips else frozenset(),
            self._other_special_ids(grammar) if grammar.opens else frozenset(),
        )
        with self._lock:
            self._kept[grammar] = compiled
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return compiled

    def _other_special_ids(self, grammar: Grammar) -> frozenset[int]:
        """Special tokens that are neither the grammar's marks nor ends."""
        tokenizer = self._ll_tokenizer()
        added = self._loaded.tokenizer.added_tokens_decoder
        special = {
            i for i in added if i < self._loaded.vocab_size and tokenizer.is_special_token(i)
        }
        marks = {i for mark in grammar.after for i in tokenizer.tokenize_str(mark)}
        return frozenset(special - marks - self._loaded.eos_token_ids)

    def _ll_tokenizer(self) -> LLTokenizer:
        """The vocabulary as llguidance sees it; made for the first grammar (up to a second)."""
        with self._tokenizer_lock:
            if self._tokenizer is None:
                self._tokenizer = _ll_tokenizer(self._loaded)
            return self._tokenizer


class Constraint:
    """One answer's way through its grammar."""

    __slots__ = ("_compiled", "_free_ids", "_head", "_matcher", "_state", "_tail", "is_broken")

    def __init__(self, compiled: Compiled, *, is_inside: bool) -> None:
        self._compiled = compiled
        self._matcher = compiled.matcher.deep_copy()
        self._tail = b""
        """What of the free text may be the beginning of a mark."""
        self._free_ids: frozenset[int] = frozenset()
        """Allowed beside the grammar at its very beginning."""
        self._head: bytes | None = b"" if compiled.grammar.opens else None
        """The text so far, blanks left out, while it is not clear whether it opens the grammar."""
        self.is_broken = False
        """The grammar could not be followed; the answer is to end with an error."""
        if compiled.grammar.skips is not None and is_inside:
            self._state = "skipping"
        elif compiled.grammar.after and not compiled.grammar.opens:
            self._state = "free"
        else:
            self._state = "active"
            self._free_ids = compiled.open_ids | compiled.special_ids

    @property
    def is_active(self) -> bool:
        """Whether the next token must follow the grammar."""
        return self._state == "active"

    def fill(self, bits: np.ndarray) -> None:
        """Writes what may follow. bits: (ceil(V / 32),) uint32, bit i of word w is id 32 w + i."""
        self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        self.is_broken |= self._matcher.is_error()
        for token_id in self._free_ids:
            bits[token_id >> 5] |= np.uint32(1 << (token_id & 31))

    def accept(self, token_id: int) -> bool:
        """Takes the next token; True when the answer is complete by it."""
        if self._state != "active":
            self._watch(token_id)
            return False
        if token_id in self._free_ids:
            if token_id in self._compiled.open_ids:
                self._state = "skipping"
            elif token_id in self._compiled.special_ids:
                self._set_free()
            self._free_ids = frozenset()
            return False
        self._free_ids = frozenset()
        if not self._matcher.consume_token(token_id):
            self.is_broken = True
            return False
        if not self._matcher.is_stopped():
            if self._head is not None:
                self._look_whether_it_opens(self._compiled.tokenizer.decode_bytes([token_id]))
            return False
        if self._compiled.grammar.repeats and self._matcher.stop_reason() == _FORCED_COMPLETE:
            self._matcher.reset()
            self._state, self._tail = "free", b""
            return False
        return True

    def _look_whether_it_opens(self, new: bytes) -> None:
        """Sets the text free as soon as it cannot become what opens the grammar any more."""
        self._head = (self._head or b"") + b"".join(new.split())
        opens = [text.encode() for text in self._compiled.grammar.opens]
        if any(self._head.startswith(text) for text in opens):
            self._head = None
        elif not any(text.startswith(self._head) for text in opens):
            self._set_free()

    def _set_free(self) -> None:
        self._state, self._tail, self._head = "free", b"", None

    def _watch(self, token_id: int) -> None:
        """Looks for the mark after which the grammar holds."""
        grammar = self._compiled.grammar
        self._tail += self._compiled.tokenizer.decode_bytes([token_id])
        is_skipping = self._state == "skipping"
        marks = grammar.skips[1:] if is_skipping and grammar.skips else grammar.after
        if not is_skipping and grammar.skips and self._opens(grammar.skips[0]):
            self._state, self._tail = "skipping", b""
            return
        found = [(place, mark) for mark in marks if (place := self._tail.find(mark.encode())) >= 0]
        if not found:
            self._tail = self._tail[-256:]
            return
        place, mark = min(found)
        rest = self._tail[place + len(mark.encode()) :]
        self._tail = b""
        if is_skipping and grammar.after and not grammar.opens:
            self._state, self._tail = "free", rest
            return
        if grammar.opens and not is_skipping:
            self._matcher.reset()
            rest = mark.encode() + rest
        self._enter(rest, may_be_blank=is_skipping)

    def _opens(self, mark: str) -> bool:
        """Whether the free text is the mark of the skipped part, and nothing else."""
        return self._tail.strip() == mark.encode()

    def _enter(self, rest: bytes, *, may_be_blank: bool) -> None:
        """The grammar holds from here on; `rest` of the last token belongs to it already."""
        if may_be_blank:
            rest = rest.lstrip()
            self._free_ids = frozenset() if rest else self._compiled.blank_ids
        if rest:
            ids = self._compiled.tokenizer.tokenize_bytes(rest)
            if self._matcher.validate_tokens(ids) != len(ids):
                # The token went past the mark into something else: what follows stays free.
                self._state = "free"
                return
            self._matcher.consume_tokens(ids)
        self._state = "active"
        if rest and self._head is not None:
            self._look_whether_it_opens(rest)


def fill_masks(constraints: Sequence[Constraint], vocab_size: int) -> np.ndarray:
    """What may follow in each answer: (rows, ceil(V / 32)) uint32."""
    bits = np.zeros((len(constraints), (vocab_size + 31) // 32), dtype=np.uint32)
    for constraint, row in zip(constraints, bits, strict=True):
        constraint.fill(row)
    return bits


def apply_masks(scores: Tensor, rows: Sequence[int], bits: np.ndarray) -> None:
    """Makes what may not follow impossible, in place.

    scores: (R, V); rows: which of them; bits: (rows, ceil(V / 32)) uint32.
    """
    import torch

    width = scores.shape[1]
    if scores.device.type == "cpu":
        allowed = np.unpackbits(bits.view(np.uint8), axis=1, count=width, bitorder="little")
        forbidden = torch.from_numpy(allowed).logical_not_().view(torch.bool)
    else:
        forbidden = forbidden_on_device(torch.from_numpy(bits.view(np.int32)).to(scores.device))
        forbidden = forbidden[:, :width]
    if len(rows) == len(scores):
        scores.masked_fill_(forbidden, float("-inf"))
        return
    for row, mask in zip(rows, forbidden, strict=True):
        scores[row].masked_fill_(mask, float("-inf"))


def forbidden_on_device(words: Tensor) -> Tensor:
    """(rows, 32 W) bool of (rows, W) int32 bits, unpacked where they are: a 32nd is sent."""
    import torch

    shifts = torch.arange(32, dtype=torch.int32, device=words.device)
    return (((words.unsqueeze(-1) >> shifts) & 1) == 0).view(len(words), -1)


def can_constrain(loaded: LoadedModel) -> bool:
    """Whether answers of this model can be held to a grammar."""
    is_fast = getattr(loaded.tokenizer, "is_fast", False)
    return loaded.can_generate and bool(is_fast) and bool(loaded.eos_token_ids)


def opens_at_end(tokenizer: Any, prompt_ids: Sequence[int], mark: str) -> bool:
    """Whether a prompt ends with this mark, blanks aside: it has opened what the mark opens."""
    tail = tokenizer.decode(list(prompt_ids[-16:]), skip_special_tokens=False)
    return tail.rstrip().endswith(mark)


def _ll_tokenizer(loaded: LoadedModel) -> LLTokenizer:
    from llguidance import hf

    if not can_constrain(loaded):
        raise UsageError("this model cannot be held to a grammar; ask another one")
    ends = sorted(loaded.eos_token_ids)
    return hf.from_tokenizer(loaded.tokenizer, n_vocab=loaded.vocab_size, eos_token=ends)


def _matcher(grammar: Grammar, tokenizer: LLTokenizer) -> LLMatcher:
    """The compiled grammar at its beginning.

    Raises UsageError with llguidance's own reason.
    """
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(verbose_errors=False)
    try:
        matcher = LLMatcher(tokenizer, _source(grammar), log_level=0, limits=limits)
        trial = matcher.deep_copy()
        trial.compute_bitmask()  # some faults show only where the first token is looked for
        reason = trial.get_error() if trial.is_error() else ""
    except ValueError as error:
        matcher, reason = None, str(error)
    if matcher is None or reason:
        lines = [line.strip() for line in reason.splitlines() if line.strip()]
        shown = " ".join(lines)[:300] or "it is not valid"
        raise UsageError(f"`{grammar.param}` cannot be compiled: {shown}", param=grammar.param)
    return matcher


def _source(grammar: Grammar) -> str:
    """The grammar in llguidance's form."""
    from llguidance import LLMatcher

    match grammar.kind:
        case "json_schema":
            options: Any = {**JSON_FORM, "lenient": grammar.is_lenient}
            return LLMatcher.grammar_from_json_schema(grammar.source, overrides=options)
        case "regex":
            return LLMatcher.grammar_from_regex(grammar.source)
        case "choice":
            choices = " | ".join(json.dumps(c) for c in json.loads(grammar.source))
            return LLMatcher.grammar_from_lark(f"start: {choices}")
        case "lark":
            return LLMatcher.grammar_from_lark(grammar.source)
