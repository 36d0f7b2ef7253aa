"""Answers that do not end in the middle of a sentence, for `cli --judge-sent-end`.

Where the model would end its answer after anything but a mark that closes a sentence, its end
token is replaced by the next token it would have chosen without it, and it goes on.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import cast

from fastchat.engine.base import Chunk, Engine, GenerationRequest
from fastchat.families.registry import registry

CLOSING_MARKS = (".", "?", "!", "。", "？", "！", "…", '"', "'", "”")
BAN = -100.0
"""A bias that no token survives."""


async def to_sentence_end(engine: Engine, request: GenerationRequest) -> AsyncIterator[Chunk]:
    """The chunks of the answer to `request`, whose `messages` and `max_tokens` are given.

    The chunk that ends it counts the tokens of its last piece only.
    """
    assert request.messages is not None and request.max_tokens is not None
    templates = registry()
    is_ours = engine.info.template in templates.template_names
    # A chat template of the tokenizer writes the special tokens into the text.
    prompt = engine.tokenize(engine.render(request.messages), add_special_tokens=is_ours)
    stop = templates.template(engine.info.template).stop if is_ours else ()
    plain = replace(request, messages=None, stop=(*request.stop, *stop))

    text, written, banned = "", list[int](), set[int]()
    step = request
    while True:
        last: Chunk | None = None
        async with contextlib.aclosing(
            cast(AsyncGenerator[Chunk, None], engine.generate(step))
        ) as chunks:
            async for chunk in chunks:
                text += chunk.text
                written += chunk.token_ids
                if chunk.finish_reason is not None:
                    last = chunk
                else:
                    yield chunk
        if last is None:
            return
        if _ends_too_early(engine, last, text):
            # A model may have several end tokens; none of them may stand here.
            banned.add(written.pop())
            last = replace(last, token_ids=last.token_ids[:-1])
        elif banned and last.finish_reason == "length" and len(written) < request.max_tokens:
            banned.clear()  # The token in place of the end is written; now go on freely.
        else:
            yield last
            return
        yield replace(last, finish_reason=None, usage=None)
        bias = {**request.sampling.logit_bias, **dict.fromkeys(banned, BAN)}
        step = replace(
            plain,
            prompt=(*prompt, *written),
            max_tokens=1 if banned else request.max_tokens - len(written),
            sampling=replace(request.sampling, logit_bias=bias),
        )


def _ends_too_early(engine: Engine, last: Chunk, text: str) -> bool:
    """Whether an end token, which has no text, came before a closing mark."""
    return (
        last.finish_reason == "stop"
        and bool(last.token_ids)
        and engine.detokenize(last.token_ids[-1:]) == ""
        and not text.rstrip().endswith(CLOSING_MARKS)
    )
