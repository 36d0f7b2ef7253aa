"""JSON schemas of the bodies that the API takes and gives, for its OpenAPI document.

Those taken come from the pydantic bodies; what a validator accepts beyond its field's type stands
in `TAKEN_AS`. Those given say what every reply has; endpoints may add fields.
"""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from fastchat.protocol import anthropic_api, responses_api
from fastchat.protocol.anthropic_api import CountTokensRequest, MessagesRequest
from fastchat.protocol.batch_lines import ENDPOINTS, WINDOWS
from fastchat.protocol.openai_api import (
    MAX_TEXTS,
    Body,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeRequest,
)
from fastchat.protocol.openai_messages import ROLES
from fastchat.protocol.rank_api import RerankRequest, ScoreRequest
from fastchat.protocol.responses_api import ResponsesRequest

Schema = dict[str, Any]

BODIES: tuple[type[Body], ...] = (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    TokenizeRequest,
    DetokenizeRequest,
    RerankRequest,
    ScoreRequest,
    ResponsesRequest,
    MessagesRequest,
    CountTokensRequest,
)
INTERNAL = frozenset({"constraint", "raw_prompt"})
"""Fields that a body has for our own use."""

STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}


def ref(name: str) -> Schema:
    """A reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Schema, **bounds: int) -> Schema:
    return {"type": "array", "items": items, **bounds}


def record(required: dict[str, Schema], **optional: Schema) -> Schema:
    """An object with these properties; others may be there."""
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
    }


def nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def words(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


_TOKENS = array({"type": "integer", "minimum": 0, "maximum": (1 << 31) - 1}, minItems=1)
_PROMPTS: Schema = {
    "anyOf": [
        STRING,
        array(STRING, minItems=1, maxItems=MAX_TEXTS),
        _TOKENS,
        array(_TOKENS, minItems=1, maxItems=MAX_TEXTS),
    ]
}
_INPUT: Schema = {
    "anyOf": [
        {**STRING, "minLength": 1},
        array({**STRING, "minLength": 1}, minItems=1, maxItems=MAX_TEXTS),
        _TOKENS,
        array(_TOKENS, minItems=1, maxItems=MAX_TEXTS),
    ]
}
_PART = record({"type": words("text", "image_url", "input_text", "refusal")})
_MESSAGE = record(
    {"role": words(*ROLES)},
    content={"anyOf": [STRING, array(_PART), {"type": "null"}]},
    name=nullable(STRING),
    tool_calls=nullable(array(OBJECT)),
    tool_call_id=nullable(STRING),
    reasoning_content=nullable(STRING),
)
_FUNCTION = record(
    {"name": {**STRING, "pattern": "^[A-Za-z0-9_.-]{1,64}$"}},
    description=nullable(STRING),
    parameters=nullable(OBJECT),
    strict=nullable(BOOLEAN),
)
_TOOLS = array(record({"function": _FUNCTION}, type=words("function")), maxItems=128)
_CHOICE: Schema = {"anyOf": [words("none", "auto", "required"), OBJECT]}

TAKEN_AS: dict[str, dict[str, Schema]] = {
    "ChatRequest": {
        "messages": {"anyOf": [STRING, array(_MESSAGE, minItems=1)]},
        "tools": _TOOLS,
        "tool_choice": _CHOICE,
        "response_format": record({"type": words("text", "json_object", "json_schema")}),
        "stop": {"anyOf": [{**STRING, "minLength": 1}, array({**STRING, "minLength": 1})]},
        "logit_bias": {"type": "object", "additionalProperties": NUMBER},
    },
    "CompletionRequest": {
        "prompt": _PROMPTS,
        "stop": {"anyOf": [{**STRING, "minLength": 1}, array({**STRING, "minLength": 1})]},
        "logit_bias": {"type": "object", "additionalProperties": NUMBER},
    },
    "EmbeddingRequest": {"input": _INPUT},
    "TokenizeRequest": {"messages": array(_MESSAGE), "tools": _TOOLS},
    "ScoreRequest": {},
}
"""What stands on the wire where a field's type does not say it."""


class _Quiet(GenerateJsonSchema):
    """Leaves out defaults that are no JSON."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012


def taken() -> dict[str, Schema]:
    """The schemas of the bodies that are taken, by name."""
    kinds: list[tuple[type[BaseModel], Any]] = [(kind, "validation") for kind in BODIES]
    _, made = models_json_schema(
        kinds, ref_template="#/components/schemas/{model}", schema_generator=_Quiet
    )
    found: dict[str, Schema] = made["$defs"]
    for kind in BODIES:
        _correct(found[kind.__name__], kind)
    for part in (*anthropic_api.Part.__subclasses__(), *responses_api.Part.__subclasses__()):
        long_name = f"{part.__module__}.{part.__name__}".replace(".", "__")
        for name in (part.__name__, long_name):
            _allow_nulls(found.get(name, {}))
    found["ScoreRequest"]["required"] = ["model", "text_1", "text_2"]
    for name in ("TokenizeRequest", "DetokenizeRequest"):
        found[name] = _without_model(found[name])  # where there is one only
    by_path = _without_model(found["EmbeddingRequest"])
    return {**found, "EmbeddingByPathRequest": by_path, **TAKEN_BY_HAND}


def _correct(schema: Schema, kind: type[Body]) -> None:
    """Says of a body what its validators do."""
    properties = schema["properties"]
    for name in INTERNAL & properties.keys():
        del properties[name]
    properties.update(TAKEN_AS.get(kind.__name__, {}))
    _allow_nulls(schema)
    schema["description"] = (kind.__doc__ or "").split("\n")[0]


def _allow_nulls(schema: Schema) -> None:
    """Says that a field which is null counts as absent."""
    for name, value in schema.get("properties", {}).items():
        value.pop("default", None)
        if name not in schema.get("required", ()) and {"type": "null"} not in value.get(
            "anyOf", ()
        ):
            schema["properties"][name] = nullable(value)


def _without_model(schema: Schema) -> Schema:
    """The schema of a body that may leave out its model."""
    required = [name for name in schema.get("required", ()) if name != "model"]
    model = nullable(schema["properties"]["model"])
    return {**schema, "required": required, "properties": {**schema["properties"], "model": model}}


TAKEN_BY_HAND: dict[str, Schema] = {
    "TokenCheckRequest": record(
        {
            "prompts": array(
                record({"model": STRING, "prompt": STRING}, max_tokens={**INTEGER, "minimum": 0}),
                maxItems=256,
            )
        }
    ),
    "BatchRequest": record(
        {
            "input_file_id": {**STRING, "maxLength": 80},
            "endpoint": words(*ENDPOINTS),
            "completion_window": words(*WINDOWS),
        },
        metadata=nullable(
            {
                "type": "object",
                "maxProperties": 16,
                "additionalProperties": {**STRING, "maxLength": 512},
            }
        ),
    ),
    "FileUpload": record(
        {"purpose": words("batch"), "file": {"type": "string", "format": "binary"}}
    ),
}

_USAGE = record({"prompt_tokens": INTEGER, "total_tokens": INTEGER})
_ERROR = record(
    {"message": STRING, "type": STRING, "param": nullable(STRING), "code": nullable(STRING)}
)
_CARD = record({"id": STRING, "object": words("model"), "created": INTEGER, "owned_by": STRING})
_FILE = record(
    {
        "id": STRING,
        "object": words("file"),
        "bytes": INTEGER,
        "created_at": INTEGER,
        "filename": STRING,
        "purpose": STRING,
        "status": words("processed"),
    },
    expires_at=nullable(INTEGER),
)
_BATCH = record(
    {
        "id": STRING,
        "object": words("batch"),
        "endpoint": STRING,
        "input_file_id": STRING,
        "completion_window": STRING,
        "status": words(
            *("validating", "failed", "in_progress", "finalizing", "completed"),
            *("expired", "cancelling", "cancelled"),
        ),
        "created_at": INTEGER,
        "request_counts": record({"total": INTEGER, "completed": INTEGER, "failed": INTEGER}),
    },
    output_file_id=nullable(STRING),
    error_file_id=nullable(STRING),
)


def _choices(what: str, schema: Schema) -> Schema:
    return array(record({"index": INTEGER, what: schema, "finish_reason": nullable(STRING)}))


def _page(name: str) -> Schema:
    return record(
        {
            "object": words("list"),
            "data": array(ref(name)),
            "first_id": nullable(STRING),
            "last_id": nullable(STRING),
            "has_more": BOOLEAN,
        }
    )


_DELETED = record({"id": STRING, "object": STRING, "deleted": {"type": "boolean", "enum": [True]}})
_ITEM = record({"id": STRING, "type": STRING})
_BLOCK = record({"type": words("text", "thinking", "tool_use")})

GIVEN: dict[str, Schema] = {
    "Error": record({"error": _ERROR}),
    "AnthropicError": record(
        {"type": words("error"), "error": record({"type": STRING, "message": STRING})}
    ),
    "Chat": record(
        {
            "id": STRING,
            "object": words("chat.completion"),
            "created": INTEGER,
            "model": STRING,
            "choices": _choices("message", record({"role": words("assistant")})),
            "usage": _USAGE,
        }
    ),
    "Completion": record(
        {
            "id": STRING,
            "object": words("text_completion"),
            "created": INTEGER,
            "model": STRING,
            "choices": _choices("text", STRING),
            "usage": _USAGE,
        }
    ),
    "Embeddings": record(
        {
            "object": words("list"),
            "model": STRING,
            "data": array(
                record(
                    {
                        "object": words("embedding"),
                        "index": INTEGER,
                        "embedding": {"anyOf": [array(NUMBER), STRING]},
                    }
                )
            ),
            "usage": _USAGE,
        }
    ),
    "Model": _CARD,
    "Models": record({"object": words("list"), "data": array(ref("Model"))}),
    "Tokens": record({"count": INTEGER, "max_model_len": INTEGER, "tokens": array(INTEGER)}),
    "Detokenized": record({"prompt": STRING}),
    "TokenCheck": record(
        {
            "prompts": array(
                record({"fits": BOOLEAN, "tokenCount": INTEGER, "contextLength": nullable(INTEGER)})
            )
        }
    ),
    "Rerank": record(
        {
            "id": STRING,
            "model": STRING,
            "usage": _USAGE,
            "results": array(
                record(
                    {"index": INTEGER, "relevance_score": NUMBER},
                    document=record({"text": STRING}),
                )
            ),
        }
    ),
    "Scores": record(
        {
            "id": STRING,
            "object": words("list"),
            "created": INTEGER,
            "model": STRING,
            "data": array(record({"index": INTEGER, "object": words("score"), "score": NUMBER})),
            "usage": _USAGE,
        }
    ),
    "Response": record(
        {
            "id": STRING,
            "object": words("response"),
            "created_at": INTEGER,
            "model": STRING,
            "status": words(
                *("queued", "in_progress", "completed", "incomplete", "failed", "cancelled")
            ),
            "output": array(_ITEM),
            "error": nullable(record({"code": STRING, "message": STRING})),
            "usage": nullable(record({"input_tokens": INTEGER, "output_tokens": INTEGER})),
            "parallel_tool_calls": BOOLEAN,
            "tools": array(OBJECT),
        }
    ),
    "Item": _ITEM,
    "Items": _page("Item"),
    "InputTokens": record({"object": words("response.input_tokens"), "input_tokens": INTEGER}),
    "Message": record(
        {
            "id": STRING,
            "type": words("message"),
            "role": words("assistant"),
            "model": STRING,
            "content": array(_BLOCK),
            "stop_reason": nullable(STRING),
            "stop_sequence": nullable(STRING),
            "usage": record({"input_tokens": INTEGER, "output_tokens": INTEGER}),
        }
    ),
    "MessageTokens": record({"input_tokens": INTEGER}),
    "File": _FILE,
    "Files": _page("File"),
    "Deleted": _DELETED,
    "Batch": _BATCH,
    "Batches": _page("Batch"),
    "Health": record({"status": words("ok"), "models": INTEGER, "endpoints": INTEGER}),
}
