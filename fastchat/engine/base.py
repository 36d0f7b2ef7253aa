"""The Engine protocol and the records that pass through it. No heavy import.

Every engine keeps these rules: a request is validated before the scheduler sees it; the
failure of one request ends that request only; closing the iterator aborts the request and
frees its place at the next step; a request's text depends neither on its place nor on who
shares its batch; memory is an explicit budget of tokens.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from fastchat.families.formats import PLAIN_JSON, ReasoningFormat, ToolFormat
from fastchat.message import ChatOptions, Message

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is drawn. The defaults leave the model's distribution untouched."""

    temperature: float = 1.0
    """Below 1e-5: greedy."""
    top_p: float = 1.0
    """Below 1e-8: greedy."""
    top_k: int = -1
    """0 and below: off."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """Over prompt and output; above 1 discourages, as in CTRL (arXiv:1909.05858)."""
    presence_penalty: float = 0.0
    """Subtracted once from each token already in the output (OpenAI's definition)."""
    frequency_penalty: float = 0.0
    """Subtracted once per occurrence in the output (OpenAI's definition)."""
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    """Added to the logits, by token id."""
    seed: int | None = None
    """Same seed, same text, whatever else is in the batch. Choice i of n uses its own stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """What an answer must look like. It is enforced token by token, whatever the model prefers."""

    kind: Literal["json_schema", "regex", "choice", "lark"]
    source: str
    """A JSON schema, a regular expression (of Rust's regex crate), a JSON list of texts, or a
    Lark grammar as llguidance reads it."""
    param: str
    """The request's field, to be named when the source cannot be compiled."""
    is_lenient: bool = False
    """Keywords of a schema that cannot be enforced are left out, instead of refused."""
    after: tuple[str, ...] = ()
    """The text is free until one of these stands in it; empty: the grammar holds at once."""
    opens: tuple[str, ...] = ()
    """The grammar holds from the start, and lets any text through that does not begin with one of
    these, blanks left out of both; once it is clear that it does not, the text is free. With
    `after`, the grammar holds again from such a mark on, the mark its beginning."""
    repeats: bool = False
    """With `after`: when the grammar is complete the text is free again. Else the answer ends."""
    skips: tuple[str, str] | None = None
    """Marks of a part before all this in which the text is free: a model's reasoning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One request for text; exactly one of `messages` and `prompt` is given."""

    request_id: str
    messages: tuple[Message, ...] | None = None
    """Rendered by the engine: the tokenizer's own chat template first, then the family's."""
    options: ChatOptions = ChatOptions()
    """What the prompt format needs beside the messages."""
    prompt: str | tuple[int, ...] | None = None
    """A finished prompt, as text or as token ids of this model."""
    max_tokens: int | None = None
    """New tokens at most; None is the rest of the context."""
    n: int = 1
    """Independent answers to the same prompt; the prompt is computed once."""
    sampling: SamplingParams = SamplingParams()
    stop: tuple[str, ...] = ()
    """The earliest match of any ends the text, and is not part of it."""
    stop_token_ids: tuple[int, ...] = ()
    """Beside the model's own end tokens."""
    ignore_eos: bool = False
    """The model's own end tokens do not end the text."""
    logprobs: int | None = None
    """Alternatives to report per token; 0 is the chosen token alone, None is nothing."""
    echo: bool = False
    """The prompt is the first chunk; with `logprobs`, its tokens carry theirs as well."""
    truncate_prompt: bool = False
    """Drop the oldest tokens of a prompt that is too long, instead of refusing it."""
    adapter: str | None = None
    """The loaded adapter that answers; None is the model itself."""
    grammar: Grammar | None = None
    """The answer keeps to it, and ends when nothing can follow any more."""
    marks: tuple[str, ...] = ()
    """Special tokens that are part of the text, where the others are left out of it."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token, its log-probability under the raw distribution, and the best alternatives."""

    token: str
    token_id: int
    logprob: float | None
    """None for the first token of a prompt, which nothing predicts."""
    top: tuple[tuple[str, int, float], ...] = ()
    """(token, id, logprob), best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of a request: exact counts of ids, not of pieces."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Prompt tokens taken from the prefix cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A new piece of an answer.

    Each choice ends with exactly one chunk that has `finish_reason` and `usage` (of that choice).
    """

    index: int = 0
    """Which of the `n` choices."""
    text: str = ""
    """New text only: whole characters, never part of a stop string."""
    token_ids: tuple[int, ...] = ()
    """Ids generated since the last chunk. Their text may still be withheld."""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    error: Exception | None = None
    """With `finish_reason` "error": what happened."""
    stop: str | None = None
    """With `finish_reason` "stop": which of the request's stop strings ended the text, if one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What an engine is and can do."""

    model_path: str
    family: str
    context_length: int
    vocab_size: int
    dtype: str
    device: str
    scheduler: str
    """`slots`, `groups` or `echo`."""
    template: str
    """Which prompt format is used: a template's name, or `tokenizer`."""
    max_running: int
    """Requests that advance together at most."""
    abilities: frozenset[str] = frozenset()
    """Of `generate`, `embed`, `logprobs`, `logit_bias`, `seed`, `vision`, `grammar`, `adapters`."""
    tool_format: ToolFormat = PLAIN_JSON
    """How the model writes tool calls."""
    reasoning: ReasoningFormat | None = None
    """How it marks its reasoning; None where it is not known to reason."""
    special_ids: Mapping[str, int] = field(default_factory=dict[str, int])
    """Ids of those of these two formats' marks that are special tokens."""
    template_variables: frozenset[str] = frozenset()
    """What `ChatOptions.template_kwargs` may hold with effect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """The engine's state at one moment."""

    running: int = 0
    waiting: int = 0
    cached_tokens: int = 0
    """Tokens whose keys and values are held, live and kept for reuse."""
    cache_budget: int = 0
    prompt_tokens_total: int = 0
    generated_tokens_total: int = 0
    prefix_hit_tokens_total: int = 0
    steps_total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """One L2-normalized vector per text."""

    vectors: Sequence[Sequence[float]]
    """`[texts, dim]` (a float32 numpy array)."""
    n_tokens: tuple[int, ...]
    """Tokens of each text."""


class Engine(Protocol):
    """Everything that produces text in this process."""

    info: EngineInfo

    async def start(self) -> None: ...

    async def stop(self, drain_s: float = 5.0) -> None:
        """Ends after live requests have finished or `drain_s` has passed; the rest abort."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        """Yields chunks until every choice has finished. Closing the iterator aborts.

        Raises:
            UsageError: the request cannot be served (before the first chunk).
        """
        ...

    async def embed(self, texts: Sequence[str | Sequence[int]]) -> Embeddings: ...

    def render(self, messages: Sequence[Message], options: ChatOptions = ChatOptions()) -> str:
        """The prompt text of a conversation, with the slot for the answer open."""
        ...

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def detokenize(self, ids: Sequence[int]) -> str: ...

    def stats(self) -> EngineStats: ...
