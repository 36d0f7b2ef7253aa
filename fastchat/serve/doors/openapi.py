"""`/openapi.json`, a true document of every route, and `/docs`, the same as a page to read.

The page is made here and asks nothing of anybody else.
"""

import functools
import html
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from fastchat import __version__
from fastchat.protocol.openapi_schemas import (
    GIVEN,
    INTEGER,
    STRING,
    Schema,
    record,
    ref,
    taken,
    words,
)
from fastchat.serve.doors.door import Door

STATUSES = {
    400: "What was asked cannot be done as asked; `param` names the field.",
    401: "A key is needed, or the one sent is not known.",
    403: "The key may not do this.",
    404: "No such model or object.",
    405: "The route takes another method.",
    413: "Too large.",
    429: "Too many requests, or all places taken; `retry-after` says when to try again.",
    500: "The server failed.",
    502: "The model's endpoint failed.",
    503: "Nobody can answer now.",
    504: "The model's endpoint did not answer in time.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    summary: str
    reply: str
    """Name of the reply's schema; empty for one that is no JSON."""
    body: str = ""
    """Name of the body's schema."""
    streams: bool = False
    query: tuple[str, ...] = ()
    longest_page: int = 100
    error: str = "Error"
    kind: str = "application/json"
    """Media type of the reply."""
    upload: bool = False


_PAGE = ("limit", "order", "after")


def _post(path: str, summary: str, body: str, reply: str, **more: Any) -> Operation:
    return Operation(method="POST", path=path, summary=summary, body=body, reply=reply, **more)


def _get(path: str, summary: str, reply: str, **more: Any) -> Operation:
    return Operation(method="GET", path=path, summary=summary, reply=reply, **more)


def _delete(path: str, summary: str) -> Operation:
    return Operation(method="DELETE", path=path, summary=summary, reply="Deleted")


_CHAT, _RESPONSE = "Answers a conversation.", "/v1/responses/{response_id}"
_FILE, _BATCH = "/v1/files/{file_id}", "/v1/batches/{batch_id}"
_RANK, _PAIR = "Ranks documents by a query.", "Scores pairs of texts."
OPERATIONS = (
    _post("/v1/chat/completions", _CHAT, "ChatRequest", "Chat", streams=True),
    _post("/api/v1/chat/completions", _CHAT, "ChatRequest", "Chat", streams=True),
    _post("/v1/completions", "Continues texts.", "CompletionRequest", "Completion", streams=True),
    _post("/v1/embeddings", "Gives texts their vectors.", "EmbeddingRequest", "Embeddings"),
    _post(
        "/v1/engines/{model_name}/embeddings",
        "Gives texts their vectors, by the model in the path unless the body names one.",
        "EmbeddingByPathRequest",
        "Embeddings",
    ),
    *(_post(p, _RANK, "RerankRequest", "Rerank") for p in ("/v1/rerank", "/v2/rerank", "/rerank")),
    *(_post(p, _PAIR, "ScoreRequest", "Scores") for p in ("/v1/score", "/score")),
    _post("/v1/responses", "Makes a response.", "ResponsesRequest", "Response", streams=True),
    _post(
        "/v1/responses/input_tokens",
        "Counts the tokens that a response would read.",
        "ResponsesRequest",
        "InputTokens",
    ),
    _get(_RESPONSE, "Gives a stored response.", "Response"),
    _delete(_RESPONSE, "Forgets a stored response."),
    _post(f"{_RESPONSE}/cancel", "Ends a response in the background.", "", "Response"),
    _get(f"{_RESPONSE}/input_items", "Lists a response's input.", "Items", query=_PAGE),
    _post(
        "/v1/messages",
        "Answers a conversation, in Anthropic's words.",
        "MessagesRequest",
        "Message",
        streams=True,
        error="AnthropicError",
    ),
    _post(
        "/v1/messages/count_tokens",
        "Counts the tokens that a message would read.",
        "CountTokensRequest",
        "MessageTokens",
        error="AnthropicError",
    ),
    _post("/v1/files", "Takes a file.", "FileUpload", "File", upload=True),
    _get("/v1/files", "Lists files.", "Files", query=(*_PAGE, "purpose"), longest_page=10_000),
    _get(_FILE, "Tells of a file.", "File"),
    _delete(_FILE, "Forgets a file."),
    _get(f"{_FILE}/content", "Gives a file's content.", "", kind="application/octet-stream"),
    _post("/v1/batches", "Begins a batch of requests.", "BatchRequest", "Batch"),
    _get("/v1/batches", "Lists batches, the newest first.", "Batches", query=("limit", "after")),
    _get(_BATCH, "Tells of a batch.", "Batch"),
    _post(f"{_BATCH}/cancel", "Ends a batch.", "", "Batch"),
    _get("/v1/models", "Lists the models.", "Models"),
    _get("/v1/models/{model_name}", "Tells of a model.", "Model"),
    _post("/tokenize", "Gives the tokens of a text.", "TokenizeRequest", "Tokens"),
    _post("/detokenize", "Gives the text of tokens.", "DetokenizeRequest", "Detokenized"),
    _post("/api/v1/token_check", "Tells whether prompts fit.", "TokenCheckRequest", "TokenCheck"),
    _get("/health", "Tells whether the server runs.", "Health"),
    _get("/metrics", "Gives the metrics, for Prometheus.", "", kind="text/plain"),
    _get("/openapi.json", "Gives this document.", ""),
    _get("/docs", "Gives this document as a page.", "", kind="text/html"),
)


class OpenApiDoors:
    """Gives the document and the page."""

    def __init__(self, *, has_keys: bool) -> None:
        self._has_keys = has_keys

    def doors(self) -> list[Door]:
        return [
            Door(method="GET", path="/openapi.json", handler=self._document),
            Door(method="GET", path="/docs", handler=self._page),
        ]

    async def _document(self, request: Request) -> Response:
        return Response(_as_json(self._has_keys), media_type="application/json")

    async def _page(self, request: Request) -> Response:
        headers = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return HTMLResponse(_as_page(), headers=headers)


@functools.cache
def _as_json(has_keys: bool) -> bytes:
    return orjson.dumps(document(has_keys=has_keys))


def document(*, has_keys: bool) -> dict[str, Any]:
    """The OpenAPI document.

    Args:
        has_keys: the server asks for a key.
    """
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    made: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "FastChat",
            "version": __version__,
            "description": "The OpenAI API, and others, in front of every model of the platform.",
        },
        "paths": paths,
        "components": {"schemas": {**taken(), **GIVEN}},
    }
    if has_keys:
        schemes = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
        made["components"]["securitySchemes"] = schemes
        made["security"] = [{name: []} for name in schemes]
        paths["/health"]["get"]["security"] = []
    return made


def _operation(operation: Operation) -> dict[str, Any]:
    schema = ref(operation.reply) if operation.reply else {}
    content: dict[str, Any] = {operation.kind: {"schema": schema}}
    if operation.streams:
        content["text/event-stream"] = {"schema": record({"data": STRING}, event=STRING)}
    replies: dict[str, Any] = {"200": {"description": operation.summary, "content": content}}
    failed = {"application/json": {"schema": ref(operation.error)}}
    for status, why in STATUSES.items():
        replies[str(status)] = {"description": why, "content": failed}
    made: dict[str, Any] = {"summary": operation.summary, "responses": replies}
    if operation.body:
        kind = "multipart/form-data" if operation.upload else "application/json"
        content = {kind: {"schema": ref(operation.body)}}
        made["requestBody"] = {"required": True, "content": content}
    steps = [step[1:-1] for step in operation.path.split("/") if step.startswith("{")]
    made["parameters"] = [
        {"name": name, "in": "path", "required": True, "schema": {**STRING, "minLength": 1}}
        for name in steps
    ] + [
        {"name": name, "in": "query", "schema": _query(name, operation)} for name in operation.query
    ]
    return made


def _query(name: str, operation: Operation) -> Schema:
    if name == "limit":
        return {**INTEGER, "minimum": 1, "maximum": operation.longest_page}
    return words("asc", "desc") if name == "order" else STRING


@functools.cache
def _as_page() -> str:
    """A page of all routes with the fields of their bodies."""
    schemas = taken()
    parts = [
        _route(operation, schemas[operation.body]["properties"] if operation.body else {})
        for operation in OPERATIONS
    ]
    return _PAGE_HEAD + "".join(parts) + "</main></body></html>"


def _route(operation: Operation, fields: dict[str, Schema]) -> str:
    shown = ", ".join(f"<code>{html.escape(name)}</code>" for name in fields)
    return (
        f"<section><h2><b>{operation.method}</b> {html.escape(operation.path)}</h2>"
        f"<p>{html.escape(operation.summary)}</p>" + (f"<p>{shown}</p>" if shown else "")
    ) + "</section>"


_PAGE_HEAD = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<title>FastChat API</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body{font:16px/1.5 system-ui,sans-serif;margin:0;color:#1d2330;background:#fff}
main{max-width:52rem;margin:0 auto;padding:1rem}h2{font:600 1rem ui-monospace,monospace;margin:0}
section{border-top:1px solid #d9dde5;padding:.8rem 0}p{margin:.3rem 0}code{font-size:.85em}
b{color:#0a5c8a}@media (prefers-color-scheme:dark){body{background:#12151c;color:#e4e7ee}
section{border-color:#333a48}b{color:#7cc4ee}}</style></head><body><main>
<h1>FastChat API</h1><p>The same for programs: <code>/openapi.json</code>.</p>"""
