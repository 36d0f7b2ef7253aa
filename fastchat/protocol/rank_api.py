"""Bodies of rerank (Jina's and Cohere's) and score (vLLM's), and their replies."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import AliasChoices, BeforeValidator, Field, WithJsonSchema, model_validator

from fastchat.protocol.openai_api import Body, refuse
from fastchat.protocol.openai_replies import ReplyHead

MAX_DOCUMENTS = 2048

Text = Annotated[str, Field(min_length=1)]


def _documents(value: Any) -> Any:
    """Texts, or objects with a `text`, as texts."""
    if not isinstance(value, list) or not value or len(value) > MAX_DOCUMENTS:
        raise refuse(f"must be a list of 1 to {MAX_DOCUMENTS} texts")
    texts = [item.get("text") if isinstance(item, dict) else item for item in value]
    if not all(isinstance(text, str) and text for text in texts):
        raise refuse("must hold texts, or objects with a `text`, none of them empty")
    return texts


def _texts(value: Any) -> Any:
    """One text or several, as a list."""
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not value or len(value) > MAX_DOCUMENTS:
        raise refuse(f"must be a text, or a list of 1 to {MAX_DOCUMENTS} texts")
    if not all(isinstance(text, str) and text for text in value):
        raise refuse("must hold texts, none of them empty")
    return value


_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
_LIST = {"type": "array", "minItems": 1, "maxItems": MAX_DOCUMENTS}
_RECORD = {"type": "object", "properties": {"text": _TEXT}, "required": ["text"]}
Documents = Annotated[
    list[str],
    BeforeValidator(_documents),
    WithJsonSchema({**_LIST, "items": {"anyOf": [_TEXT, _RECORD]}}),
]
Texts = Annotated[
    list[str],
    BeforeValidator(_texts),
    WithJsonSchema({"anyOf": [_TEXT, {**_LIST, "items": _TEXT}]}),
]


class RerankRequest(Body):
    """`POST /v1/rerank`."""

    not_built: ClassVar[dict[str, str]] = {
        "rank_fields": "send the fields to rank by as the document's text",
        "max_chunks_per_doc": "cut the documents in your client",
        "max_tokens_per_doc": "cut the documents in your client",
        "truncate_prompt_tokens": "cut the documents in your client",
    }
    quiet: ClassVar[frozenset[str]] = frozenset({"user", "priority"})

    query: Text
    documents: Documents
    top_n: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    return_documents: bool | None = None


class ScoreRequest(Body):
    """`POST /v1/score`: of one text against others, or of texts in pairs."""

    not_built: ClassVar[dict[str, str]] = {
        "truncate_prompt_tokens": "cut the texts in your client",
    }
    quiet: ClassVar[frozenset[str]] = frozenset({"user", "priority", "encoding_format"})

    text_1: Annotated[Texts, Field(validation_alias=AliasChoices("text_1", "queries", "data_1"))]
    text_2: Annotated[Texts, Field(validation_alias=AliasChoices("text_2", "documents", "data_2"))]

    @model_validator(mode="after")
    def _they_pair(self) -> "ScoreRequest":
        if len(self.text_1) not in (1, len(self.text_2)):
            raise refuse("must be one text, or as many as `text_2`", param="text_1")
        return self

    @property
    def pairs(self) -> list[tuple[str, str]]:
        firsts = self.text_1 * len(self.text_2) if len(self.text_1) == 1 else self.text_1
        return list(zip(firsts, self.text_2, strict=True))


def rerank_reply(
    head: ReplyHead, body: RerankRequest, scores: Sequence[float], *, n_tokens: int, shows: bool
) -> dict[str, Any]:
    """The reply of a rerank: the best documents first.

    Args:
        shows: the documents' texts are repeated.
    """
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    results: list[dict[str, Any]] = [
        {"index": i, "relevance_score": scores[i]}
        | ({"document": {"text": body.documents[i]}} if shows else {})
        for i in order[: body.top_n]
    ]
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return {"id": head.id, "model": head.model, "usage": usage, "results": results}


def score_reply(head: ReplyHead, scores: Sequence[float], *, n_tokens: int) -> dict[str, Any]:
    """The reply of a score: a number for each pair."""
    data = [{"index": i, "object": "score", "score": score} for i, score in enumerate(scores)]
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens, "completion_tokens": 0}
    return {
        "id": head.id,
        "object": "list",
        "created": head.created,
        "model": head.model,
        "data": data,
        "usage": usage,
    }
