"""An OpenAI-compatible endpoint that misbehaves on demand."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from real_processes import free_port

N_EVENTS = 5


class FakeEndpoint:
    """Answers on a port of 127.0.0.1 of its own, in the way that `mode` says.

    Modes: `answer`; `silent` (health answers, nothing else does); `hung` (nothing answers);
    `break_first` (closes before a byte); `break_middle` (closes in the middle of an event);
    `drip` (streams until the client goes); `flood` (the same, as fast as it can); `lull` (one
    event, then nothing); `busy` (429); `locked` (401); `garbage` (no HTTP); `cut_json` (closes
    inside a JSON body); `crlf` (events that end in CRLF).

    With `usage` set, replies tell it, and streams where they are asked to.
    """

    def __init__(self, *models: str) -> None:
        self.models = models or ("m",)
        self.mode = "answer"
        self.usage: dict[str, int] | None = None
        self.port = free_port()  # which stays ours while it is closed
        self.asked: list[str] = []
        """Paths of all requests, health and models too; `paths` has what else was asked."""
        self.bodies: list[bytes] = []
        self.heads: list[str] = []
        self.paths: list[str] = []
        self.n_connections = 0
        self.n_gone = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> "FakeEndpoint":
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def listen(self) -> None:
        """Opens the port; the same one when it was open before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def close(self) -> None:
        """Closes the port and all connections."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_connections += 1
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = 0
                for line in head.split("\r\n"):
                    name, _, value = line.partition(":")
                    if name.lower() == "content-length":
                        length = int(value)
                body = await reader.readexactly(length)
                path = head.split(" ")[1]
                if not await self._answer(path, head, body, reader, writer):
                    writer.transport.abort()
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(
        self,
        path: str,
        head: str,
        body: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Whether the connection stays open."""
        self.asked.append(path)
        if self.mode == "hung":
            await self._until_gone(reader)
            return False
        if path == "/health":
            return self._reply(writer, {"status": "ok"})
        if path == "/v1/models":
            cards = [{"id": m, "object": "model", "context_length": 64} for m in self.models]
            return self._reply(writer, {"object": "list", "data": cards})
        if path == "/worker_get_status":
            return self._reply(writer, {"detail": "Not Found"}, 404)
        self.paths.append(path)
        self.heads.append(head)
        self.bodies.append(body)
        match self.mode:
            case "silent":
                await self._until_gone(reader)
                return False
            case "break_first":
                return False
            case "garbage":
                writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
                return False
            case "busy":
                error = {"error": {"message": "full", "type": "x", "param": None, "code": "y"}}
                return self._reply(writer, error, 429, "retry-after: 7\r\nx-secret: no\r\n")
            case "locked":
                error = {"error": {"message": "wants its own key", "code": "invalid_api_key"}}
                return self._reply(writer, error, 401)
            case "cut_json":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
                await writer.drain()
                return False
        if path == "/tokenize":
            words = str(json.loads(body)["prompt"]).split()
            return self._reply(writer, {"count": len(words), "max_model_len": 64, "tokens": []})
        if not json.loads(body).get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": "ok"}}
            choice["finish_reason"] = "stop"
            told = {"usage": self.usage} if self.usage else {}
            return self._reply(writer, self._chat("chat.completion", choice) | told)
        asks = (json.loads(body).get("stream_options") or {}).get("include_usage")
        return await self._stream(reader, writer, self.usage if asks else None)

    async def _stream(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        usage: dict[str, int] | None,
    ) -> bool:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\nserver: hidden\r\n\r\n"
        )
        end = b"\r\n\r\n" if self.mode == "crlf" else b"\n\n"
        choice = {"index": 0, "delta": {"content": "a "}, "finish_reason": None}
        event = b"data: " + json.dumps(self._chat("chat.completion.chunk", choice)).encode() + end
        if self.mode == "flood":
            with contextlib.suppress(ConnectionError):
                while True:
                    self._chunk(writer, b"data: " + b"x" * 60_000 + end)
                    await writer.drain()
            self.n_gone += 1
            return False
        if self.mode == "lull":
            self._chunk(writer, event)
            await self._until_gone(reader)
            return False
        if self.mode == "drip":
            gone = asyncio.ensure_future(self._until_gone(reader))
            while not gone.done():
                self._chunk(writer, event)
                await asyncio.wait([gone], timeout=0.02)
            return False
        for _ in range(N_EVENTS):
            self._chunk(writer, event)
            await asyncio.sleep(0.002)
        if self.mode == "break_middle":
            self._chunk(writer, event[:20])
            await writer.drain()
            return False
        if usage:
            last = self._chat("chat.completion.chunk", {}) | {"choices": [], "usage": usage}
            self._chunk(writer, b"data: " + json.dumps(last).encode() + end)
        self._chunk(writer, b"data: [DONE]" + end)
        self._chunk(writer, b"")
        return True

    def _chat(self, kind: str, choice: dict[str, Any]) -> dict[str, Any]:
        return {"id": "x", "object": kind, "created": 1, "model": "m", "choices": [choice]}

    def _chunk(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _reply(
        self, writer: asyncio.StreamWriter, value: object, status: int = 200, more: str = ""
    ) -> bool:
        data = json.dumps(value).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{more}"
        writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        return True

    async def _until_gone(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(1)
        self.n_gone += 1


@contextlib.asynccontextmanager
async def fake_endpoints(n: int) -> AsyncIterator[list[FakeEndpoint]]:
    """`n` endpoints for the model `m`."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(FakeEndpoint("m")) for _ in range(n)]
