"""Providers that speak OpenAI's protocol: only names, keys and a few fields change."""

from typing import Any

from fastchat.errors import UsageError
from fastchat.serve.providers.endpoint_file import Entry
from fastchat.serve.providers.wire import WireRequest

ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")


class SameReader:
    """Leaves replies as they are."""

    def whole(self, value: dict[str, Any]) -> dict[str, Any]:
        return value

    def events(self, data: bytes) -> bytes:
        return data

    def end(self) -> bytes:
        return b""


class OpenAIWire:
    """Chat, completions and embeddings."""

    def request(self, entry: Entry, path: str, body: dict[str, Any]) -> WireRequest:
        if path not in ROUTES:
            raise UsageError(f"The provider of {entry.name!r} has no route {path}.")
        kind = entry.kind
        value = dict(body)
        for ours, theirs in kind.rename.items():
            if ours in value:
                value.setdefault(theirs, value.pop(ours))
        dropped = tuple(name for name in kind.drop if value.pop(name, None) is not None)
        if not kind.streams:
            value.pop("stream_options", None)
            value["stream"] = False
        value |= kind.fixed
        value["model"] = kind.places.get("model", "{model}").format_map(_gaps(entry))
        # As the official client does: what follows the base, which may end in /v1 or not.
        route = path if entry.base_url.endswith("/v1") else path.removeprefix("/v1")
        if template := kind.places.get("route"):
            route = template.format_map(_gaps(entry) | {"route": path.removeprefix("/v1")})
        hidden = {"stream_options"}  # asked for by us, and nothing of the answer is lost
        ignored = tuple(name for name in dropped if name not in hidden)
        return WireRequest(route=route, value=value, reader=SameReader(), ignored=ignored)


def _gaps(entry: Entry) -> dict[str, str]:
    model = entry.model
    if entry.kind.name == "azure":  # published: a deployment is named after this mark
        model = model.removeprefix("azure-")
    return {**entry.places, "model": model}
