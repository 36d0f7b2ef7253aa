"""The published question whether prompts fit their models, asked of the endpoints."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from fastchat.errors import FastChatError, UnavailableError, UsageError
from fastchat.serve.forwarder import REFUSED_STATUS, refused
from fastchat.serve.gateway_replies import no_endpoint, shown_name
from fastchat.serve.roster import Roster

MAX_PROMPTS = 256
MAX_AT_ONCE = 8
REPLY_LIMIT_BYTES = 64 * 1024 * 1024


async def check_tokens(
    body: Mapping[str, Any],
    roster: Roster,
    *,
    model_of: Callable[[str], str],
    need_model: Callable[[str], None],
    timeout_s: float,
) -> list[dict[str, Any]]:
    """For each of the body's prompts: its tokens, the context, and whether both fit.

    Args:
        model_of: the model that a name means.
        need_model: raises when nobody serves a model.

    Raises:
        UsageError: the body is malformed.
        UnavailableError: an endpoint does not answer.
    """
    prompts = body.get("prompts")
    if not isinstance(prompts, list) or len(prompts) > MAX_PROMPTS:
        raise UsageError(f"'prompts' must be a list of at most {MAX_PROMPTS}.", param="prompts")
    asked = [_read(prompt) for prompt in prompts]
    questions = [(model_of(name), text, max_tokens) for name, text, max_tokens in asked]
    for model, _, _ in questions:
        need_model(model)
    gate = asyncio.Semaphore(MAX_AT_ONCE)

    async def check(model: str, prompt: str, max_tokens: int) -> dict[str, Any]:
        async with gate:
            count, context = await _count(roster, model, prompt, timeout_s=timeout_s)
        fits = context is None or count + max_tokens <= context
        return {"fits": fits, "tokenCount": count, "contextLength": context}

    return await asyncio.gather(*(check(*question) for question in questions))


def _read(prompt: Any) -> tuple[str, str, int]:
    """Model, text and new tokens of one question."""
    if not isinstance(prompt, Mapping):
        raise UsageError("Each of 'prompts' must be an object.", param="prompts")
    model, text, max_tokens = prompt.get("model"), prompt.get("prompt"), prompt.get("max_tokens", 0)
    if not isinstance(model, str) or not isinstance(text, str):
        raise UsageError("'model' and 'prompt' of each prompt must be text.", param="prompts")
    is_count = isinstance(max_tokens, int) and not isinstance(max_tokens, bool)
    if not is_count or max_tokens < 0:
        raise UsageError("'max_tokens' must be an integer from 0 on.", param="prompts")
    return model, text, max_tokens


async def _count(
    roster: Roster, model: str, prompt: str, *, timeout_s: float
) -> tuple[int, int | None]:
    """Tokens of `prompt`, and the model's context where the endpoint says it."""
    endpoint = roster.pick(model)
    if endpoint is None:
        raise no_endpoint(model)
    if endpoint.name in roster.remotes:
        raise UsageError(f"The provider of {shown_name(model)} does not count tokens.")
    question = orjson.dumps({"model": model, "prompt": prompt})
    try:
        async with asyncio.timeout(timeout_s):
            connection = await roster.origin(endpoint).send("POST", "/tokenize", question)
            try:
                reply = await connection.read_all(REPLY_LIMIT_BYTES)
            finally:
                connection.release()
    except TimeoutError:
        raise UnavailableError("The endpoint did not count the tokens in time.") from None
    try:
        answer = orjson.loads(reply)
    except orjson.JSONDecodeError:
        answer = None
    answer = answer if isinstance(answer, dict) else {}
    count = answer.get("count")
    if connection.status in REFUSED_STATUS:
        raise refused(model, endpoint.name, connection.status)
    if connection.status != 200 or not isinstance(count, int):
        message = _message(answer) or "This model's endpoint cannot count tokens."
        raise UsageError(message) if connection.status < 500 else FastChatError(message)
    context = endpoint.context_length(model) or answer.get("max_model_len")
    return count, context if isinstance(context, int) else None


def _message(answer: dict[str, Any]) -> str | None:
    """The message of an OpenAI error body."""
    error = answer.get("error")
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else None
