"""A request is checked here before any scheduler sees it; what comes out cannot fail on values.

Pure: numbers and ids are compared with what the model has. Types and shapes of the wire are
the business of `fastchat.protocol`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fastchat.engine.base import EngineInfo, GenerationRequest, SamplingParams
from fastchat.errors import ContextOverflowError, OutOfRangeError, UsageError
from fastchat.message import ChatOptions, Message

if TYPE_CHECKING:
    from fastchat.engine.grammar import Compiled

MAX_N = 128
MAX_LOGPROBS = 20
MAX_STOPS = 64
MAX_STOP_CHARS = 1000
MAX_BIASES = 1024

DEFAULT_ROOM = 256
"""Tokens left for the answer when a prompt is shortened for a request that names no number."""


class Encoder(Protocol):
    """The part of a loaded model that turns prompts into ids."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...

    def encode_messages(
        self, messages: Sequence[Message], options: ChatOptions = ChatOptions()
    ) -> list[int]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a scheduler needs of a request's prompt."""

    prompt_ids: tuple[int, ...]
    """Fits the context together with `max_tokens`; never empty."""
    max_tokens: int
    """New tokens at most."""
    n_dropped: int = 0
    """Tokens that `truncate_prompt` took from the prompt."""
    compiled: Compiled | None = None
    """The request's grammar."""


def prompt_ids(request: GenerationRequest, encoder: Encoder) -> list[int]:
    """The ids of a request's prompt.

    Raises UsageError when it has not exactly one of `messages` and `prompt`, or brings images.
    """
    if (request.messages is None) == (request.prompt is None):
        raise UsageError("give either messages or a prompt", param="messages")
    if request.messages is not None:
        if not request.messages:
            raise UsageError("messages is empty; give at least one", param="messages")
        if any(message.images for message in request.messages):
            raise UsageError("this model does not take images", param="messages")
        return encoder.encode_messages(request.messages, request.options)
    if isinstance(request.prompt, str):
        return encoder.encode(request.prompt)
    return list(request.prompt or ())


def checked(
    request: GenerationRequest,
    info: EngineInfo,
    tokens: Sequence[int],
    *,
    bos_token_id: int | None = None,
) -> Checked:
    """The prompt and budget of a request whose values all lie in range.

    tokens: the ids of its prompt; bos_token_id: kept in front when the prompt is shortened.
    Raises OutOfRangeError for a value, ContextOverflowError for a length.
    """
    if "generate" not in info.abilities:
        raise UsageError("this model gives embeddings only; ask another one for text")
    _check_sampling(request.sampling, info.vocab_size)
    _check_range("n", request.n, 1, MAX_N)
    if request.logprobs is not None:
        _check_range("logprobs", request.logprobs, 0, min(MAX_LOGPROBS, info.vocab_size))
    _check_stops(request, info.vocab_size)
    _check_ids("prompt", tokens, info.vocab_size)
    if not tokens:
        raise UsageError("the prompt is empty; give at least one token", param="prompt")
    return _fitted(request, info.context_length, tokens, bos_token_id)


def _fitted(
    request: GenerationRequest, context: int, tokens: Sequence[int], bos_token_id: int | None
) -> Checked:
    """The prompt as it fits the context with the answer."""
    wanted = request.max_tokens
    least = 0 if request.echo else 1
    if wanted is not None and wanted < least:
        raise OutOfRangeError(f"max_tokens is {wanted}; give {least} or more", param="max_tokens")
    n = len(tokens)
    room = context - n
    if wanted is None and room >= 1:
        return Checked(prompt_ids=tuple(tokens), max_tokens=room)
    if wanted is not None and wanted <= room:
        return Checked(prompt_ids=tuple(tokens), max_tokens=wanted)
    if wanted is not None and wanted >= context:
        raise ContextOverflowError(
            f"max_tokens is {wanted}, but the model's context is {context} tokens",
            param="max_tokens",
        )
    if not request.truncate_prompt:
        answer = "" if wanted is None else f" and max_tokens is {wanted}"
        raise ContextOverflowError(
            f"the prompt has {n} tokens{answer}, but the model's context is {context} tokens; "
            "shorten the prompt or ask for fewer tokens",
            param="messages" if request.messages is not None else "prompt",
        )
    if wanted is None:
        wanted = min(DEFAULT_ROOM, max(1, context // 2))
    kept = context - wanted
    head = (bos_token_id,) if tokens[0] == bos_token_id and kept > 1 else ()
    tail = tuple(tokens[n - kept + len(head) :])
    return Checked(
        prompt_ids=(*(i for i in head if i is not None), *tail),
        max_tokens=wanted,
        n_dropped=n - kept,
    )


def _check_sampling(params: SamplingParams, vocab_size: int) -> None:
    _check_range("temperature", params.temperature, 0, 2)
    _check_range("top_p", params.top_p, 0, 1)
    _check_range("top_k", params.top_k, -1, 2**31)
    _check_range("min_p", params.min_p, 0, 1)
    _check_range("repetition_penalty", params.repetition_penalty, 0.01, 10)
    _check_range("presence_penalty", params.presence_penalty, -2, 2)
    _check_range("frequency_penalty", params.frequency_penalty, -2, 2)
    if len(params.logit_bias) > MAX_BIASES:
        raise OutOfRangeError(
            f"logit_bias has {len(params.logit_bias)} entries; give {MAX_BIASES} at most",
            param="logit_bias",
        )
    _check_ids("logit_bias", params.logit_bias, vocab_size)
    for value in params.logit_bias.values():
        _check_range("logit_bias", value, -100, 100)
    if params.seed is not None:
        _check_range("seed", params.seed, -(2**63), 2**64 - 1)


def _check_stops(request: GenerationRequest, vocab_size: int) -> None:
    if len(request.stop) > MAX_STOPS or len(request.stop_token_ids) > MAX_STOPS:
        raise OutOfRangeError(f"more than {MAX_STOPS} stops; give fewer", param="stop")
    for text in request.stop:
        if not 1 <= len(text) <= MAX_STOP_CHARS:
            raise OutOfRangeError(
                f"a stop string of {len(text)} characters; give 1 to {MAX_STOP_CHARS}", param="stop"
            )
    _check_ids("stop_token_ids", request.stop_token_ids, vocab_size)


def _check_ids(param: str, ids: Iterable[int], vocab_size: int) -> None:
    for token_id in ids:
        if not 0 <= token_id < vocab_size:
            raise OutOfRangeError(
                f"{param} holds the token id {token_id}; ids of this model are 0 to "
                f"{vocab_size - 1}",
                param=param,
            )


def _check_range(param: str, value: float, least: float, most: float) -> None:
    """Refuses what lies outside, not-a-number included."""
    if not least <= value <= most:
        raise OutOfRangeError(f"{param} is {value}; give {least} to {most}", param=param)
