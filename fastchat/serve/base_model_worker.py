"""The published base class for workers of other projects.

A subclass writes the published calls (`generate_stream_gate` and its kin). `app` gives it all
routes of a worker: the published ones hand it the bodies as they came, and for the OpenAI API
it stands behind the Engine protocol.
"""

import asyncio
import atexit
import contextlib
import json
import logging
import threading
import urllib.request
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fastchat.conversation import Conversation, get_conv_template
from fastchat.errors import UnavailableError, UsageError
from fastchat.families.registry import registry
from fastchat.serve.asgi import EventStream, Handler, json_response, unless_gone
from fastchat.serve.gate_engine import CONTEXT_LENGTH, GateEngine, Params, called, gate_objects
from fastchat.serve.published_worker import error_frame, error_object, read_fields
from fastchat.serve.registration import Registration
from fastchat.serve.worker import Worker
from fastchat.serve.worker_settings import WorkerSettings

log = logging.getLogger(__name__)

_TIMEOUT_S = 5.0


class BaseModelWorker:
    """What a worker of another project inherits. Constructor and methods are published.

    A subclass sets `context_len`, and `tokenizer` where it has one, and writes
    `generate_stream_gate`; the rest has defaults.
    """

    def __init__(
        self,
        controller_addr: str,
        worker_addr: str,
        worker_id: str,
        model_path: str,
        model_names: Sequence[str] | None,
        limit_worker_concurrency: int,
        conv_template: str | None = None,
        multimodal: bool = False,
    ) -> None:
        global worker
        self.controller_addr = controller_addr.rstrip("/")
        self.worker_addr = worker_addr
        self.worker_id = worker_id
        self.model_path = model_path
        self.model_names = list(model_names or [model_path.rstrip("/").split("/")[-1]])
        self.limit_worker_concurrency = limit_worker_concurrency
        self.multimodal = multimodal
        self.conv = self.make_conv_template(conv_template, model_path)
        self.tokenizer: Any = None
        self.context_len: int | None = None
        self._server: Worker | None = None
        self._heart: _Heart | None = None
        worker = self

    def make_conv_template(
        self, conv_template: str | None = None, model_path: str | None = None
    ) -> Conversation:
        """An empty conversation: the template named, else the one that fits the model."""
        name = conv_template or registry().recognise(model_path or "").serving_template
        return get_conv_template(name)

    # What a subclass writes

    def generate_stream_gate(self, params: Params) -> Any:
        """A generator, asynchronous or not, of JSON objects that end in a zero byte."""
        raise NotImplementedError

    def generate_gate(self, params: Params) -> Any:
        """The last object of the stream, as an object; a coroutine is awaited."""
        return self._last_object(params)

    def get_embeddings(self, params: Params) -> Any:
        """`{"embedding", "token_num"}` for the texts in `input`; a coroutine is awaited."""
        raise NotImplementedError

    def count_token(self, params: Params) -> dict[str, int]:
        return {"count": len(self.token_ids(params["prompt"])), "error_code": 0}

    # What a subclass calls

    def init_heart_beat(self) -> None:
        """Registers and beats in a thread of its own, for as long as the process lives."""
        registration = Registration(
            self.controller_addr,
            self._registration_body,
            interval_s=WorkerSettings().heart_beat_interval_s,
        )
        self._heart = _Heart(registration)
        atexit.register(self.close)

    def close(self) -> None:
        """Stops beating and tells the controller that we leave."""
        if self._heart is not None:
            self._heart.stop()
            self._heart = None

    def register_to_controller(self) -> None:
        """Registers once.

        Raises:
            UnavailableError: the controller does not answer, or refuses.
        """
        self._post("/register_worker", self._registration_body())

    def send_heart_beat(self) -> None:
        """Beats once, and registers again where the controller has forgotten us."""
        beat = {"worker_name": self.worker_addr, "queue_length": self.get_queue_length()}
        if not self._post("/receive_heart_beat", beat)["exist"]:
            self.register_to_controller()

    def get_queue_length(self) -> int:
        return self.server.admission.queue_length

    def get_status(self) -> dict[str, Any]:
        return {
            "model_names": self.model_names,
            "speed": 1,
            "queue_length": self.get_queue_length(),
        }

    def get_conv_template(self) -> dict[str, Any]:
        return {"conv": self.conv.to_published()}

    @property
    def server(self) -> Worker:
        """The routes around this worker; made when they are first needed."""
        if self._server is None:
            embeds = type(self).get_embeddings is not BaseModelWorker.get_embeddings
            engine = GateEngine(self, embeds=embeds)
            settings = WorkerSettings(limit_worker_concurrency=self.limit_worker_concurrency)
            engines = dict.fromkeys(self.model_names, engine)
            self._server = Worker(engines, settings, extra_routes=lambda _: _gate_routes(self))
        return self._server

    def objects(self, params: Params) -> AsyncGenerator[dict[str, Any]]:
        """The objects of `generate_stream_gate`, however it was written."""
        return gate_objects(self.generate_stream_gate(params))

    def token_ids(self, text: str) -> list[int]:
        if self.tokenizer is None:
            raise UsageError("This worker has no tokenizer.")
        return list(self.tokenizer(text).input_ids)

    async def _last_object(self, params: Params) -> dict[str, Any]:
        last: dict[str, Any] = {}
        async with aclosing(self.objects(params)) as objects:
            async for value in objects:
                last = value
        return last

    def _registration_body(self) -> dict[str, Any]:
        return {
            "worker_name": self.worker_addr,
            "check_heart_beat": True,
            "worker_status": self.get_status(),
            "multimodal": self.multimodal,
            "worker_info": {"context_length": self.context_len or CONTEXT_LENGTH},
        }

    def _post(self, route: str, body: Any) -> Any:
        request = urllib.request.Request(
            self.controller_addr + route,
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        try:
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(request, timeout=_TIMEOUT_S) as reply:
                return json.load(reply)
        except (OSError, ValueError) as error:
            raise UnavailableError(
                f"The controller at {self.controller_addr} did not take {route}: {error}"
            ) from None


class _Heart:
    """A registration in a thread of its own, from now until `stop`."""

    def __init__(self, registration: Registration) -> None:
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(registration.run())
        self._thread = threading.Thread(target=self._beat, name="heart-beat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(2 * _TIMEOUT_S)

    def _beat(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()


worker: BaseModelWorker | None = None
"""Whom `app` serves: the worker that was made last, unless another is put here."""


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """All routes of `worker`."""
    if worker is None:
        raise RuntimeError("No BaseModelWorker has been made yet.")
    await worker.server.app(scope, receive, send)


def _gate_routes(gate: BaseModelWorker) -> dict[str, Handler]:
    """The published routes, which pass the bodies on as they came."""

    def admitted(work: Callable[[Params], Awaitable[Any]]) -> Handler:
        async def answer(request: Request) -> Response:
            params = await read_fields(request)
            try:
                held = gate.server.admitted(lambda: work(params))
                return json_response(await unless_gone(request, held))
            except Exception as error:
                return json_response(error_object(error))

        return answer

    def told(work: Callable[[Params], Any]) -> Handler:
        async def answer(request: Request) -> Response:
            return json_response(await called(work, await read_fields(request)))

        return answer

    async def generate_stream(request: Request) -> Response:
        return EventStream(
            _gate_frames(gate, await read_fields(request)),
            media_type="application/octet-stream",
            keepalive=None,
            failure=error_frame,
        )

    return {
        "/worker_generate_stream": generate_stream,
        "/worker_generate": admitted(lambda params: called(gate.generate_gate, params)),
        "/worker_get_embeddings": admitted(lambda params: called(gate.get_embeddings, params)),
        "/worker_get_status": told(lambda _: gate.get_status()),
        "/count_token": told(gate.count_token),
        "/worker_get_conv_template": told(lambda _: gate.get_conv_template()),
        "/model_details": told(lambda _: {"context_length": gate.context_len or CONTEXT_LENGTH}),
    }


async def _gate_frames(gate: BaseModelWorker, params: Params) -> AsyncGenerator[bytes]:
    try:
        async with gate.server.admission, aclosing(gate.objects(params)) as objects:
            async for value in objects:
                yield orjson.dumps(value) + b"\0"
    except Exception as error:
        yield error_frame(error)
