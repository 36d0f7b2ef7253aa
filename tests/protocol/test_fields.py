"""No field is accepted and ignored: it works, is refused by name, is told, or is documented."""

import fnmatch
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_create_params as beta_message_create_params
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from fastchat.errors import UsageError
from fastchat.protocol.anthropic_api import CountTokensRequest, MessagesRequest
from fastchat.protocol.openai_api import (
    Body,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeRequest,
    ignored_fields,
    parse,
)
from fastchat.protocol.rank_api import RerankRequest, ScoreRequest
from fastchat.protocol.responses_api import ResponsesRequest

KINDS: tuple[type[Body], ...] = (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    TokenizeRequest,
    DetokenizeRequest,
    RerankRequest,
    ScoreRequest,
    MessagesRequest,
    CountTokensRequest,
    ResponsesRequest,
)

SENT: tuple[tuple[type[Body], Any], ...] = (
    (ChatRequest, chat_create_params.CompletionCreateParamsBase),
    (CompletionRequest, completion_create_params.CompletionCreateParamsBase),
    (EmbeddingRequest, embedding_create_params.EmbeddingCreateParams),
    (ResponsesRequest, response_create_params.ResponseCreateParamsBase),
    (MessagesRequest, message_create_params.MessageCreateParamsBase),
    (MessagesRequest, beta_message_create_params.MessageCreateParamsBase),
    (CountTokensRequest, message_count_tokens_params.MessageCountTokensParams),
)
"""What the official clients can send to each route."""


def documented(root: Path) -> list[str]:
    """The names in backticks of the API's page; some end in a star."""
    return re.findall(r"`([A-Za-z_*]+)`", (root / "docs" / "api.md").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_effect_or_is_refused_is_documented(kind: type[Body], root: Path) -> None:
    patterns = documented(root)
    for name in {*kind.quiet, *kind.not_built}:
        assert any(fnmatch.fnmatchcase(name, p) for p in patterns), f"{kind.__name__}.{name}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_field_is_refused_by_its_name(kind: type[Body]) -> None:
    for name in kind.not_built:
        with pytest.raises(UsageError, match="not supported") as caught:
            parse(kind, {"model": "m", name: {"some": "value"}})
        assert caught.value.param == name


@pytest.mark.parametrize(("kind", "client"), SENT)
def test_every_field_of_the_clients_is_known_or_told(kind: type[Body], client: Any) -> None:
    names = set(get_type_hints(client)) - {"betas"}  # a header of Anthropic's, not a field
    assert {"model"} < names
    told = set(ignored_fields(kind, dict.fromkeys(names, "x")))
    known = kind.model_fields.keys() | kind.quiet | kind.not_built.keys() | kind.renamed
    assert names - told <= known


def test_empty_web_search_options_ask_for_a_search_too() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(UsageError) as caught:
        parse(ChatRequest, {**body, "web_search_options": {}})
    assert caught.value.param == "web_search_options"
    assert parse(ChatRequest, {**body, "web_search_options": None}).model == "m"
