"""A judge that decides by a rule, behind a real OpenAI server; and what makes work for it."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from fastchat.llm_judge import gen_judgment, gen_model_answer

LIMIT_S = 180
"""For what must happen."""

Rule = Callable[[dict[str, Any]], "str | tuple[int, dict[str, str]] | None"]


def is_pair(body: dict[str, Any]) -> bool:
    return "[[A]]" in body["messages"][0]["content"]


def longer_is_better(body: dict[str, Any]) -> str:
    """Grades by length; of two answers the longer one wins, wherever it stands."""
    asked = next(m["content"] for m in body["messages"] if m["role"] == "user")
    if not is_pair(body):
        return f"Rating: [[{1 + len(asked) % 10}]]"
    a, b = asked.count("A" * 5), asked.count("B" * 5)
    return "[[A]]" if a > b else "[[B]]" if b > a else "[[C]]"


class FakeJudge:
    """An OpenAI server on a free port; `rule` makes each reply, or a status with headers."""

    def __init__(self) -> None:
        self.rule: Rule = longer_is_better
        self.bodies: list[dict[str, Any]] = []
        self.refuses: set[str] = {"response_format"}
        """Parameters that it does not know."""
        self.counts_tokens = True
        self.waiting = 0
        self.most_waiting = 0
        self.together = 1
        """So many requests wait for each other before the first is answered."""
        self.most: int | None = None
        """So many requests are answered; later ones wait until this is raised."""
        self._met = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(LIMIT_S)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(LIMIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT_S)
        self._loop.close()

    def wait_until_alone(self) -> None:
        """Returns once everything that was sent has been read, and every client has gone."""
        end = time.monotonic() + LIMIT_S
        server = self._runner.server
        while server and server.connections:
            assert time.monotonic() < end, "a client stays"
            time.sleep(0.01)

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        for name in sorted(self.refuses & body.keys()):
            error = {"message": f"{name} is not known here", "param": name, "code": "x"}
            return web.json_response({"error": error}, status=400)
        self.bodies.append(body)
        number = len(self.bodies)
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        if self.waiting >= self.together:
            self._met.set()
        while self.most is not None and number > self.most:
            await asyncio.sleep(0.01)
        with contextlib.suppress(TimeoutError):  # then `most_waiting` tells what went wrong
            await asyncio.wait_for(self._met.wait(), LIMIT_S)
        await asyncio.sleep(0.01)
        self.waiting -= 1
        said = self.rule(body)
        if said is None:
            await asyncio.sleep(3600)  # a reply that never comes
        if isinstance(said, tuple):
            error = {"message": "the fake judge fails as it was told to", "code": "x"}
            return web.json_response({"error": error}, status=said[0], headers=said[1])
        text = completion(body, said or "")
        if not self.counts_tokens:
            text = json.dumps({k: v for k, v in json.loads(text).items() if k != "usage"})
        return web.Response(text=text, content_type="application/json")


def completion(body: dict[str, Any], text: str) -> str:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    value = {"id": "1", "object": "chat.completion", "created": 1, "model": f"{body['model']}-1"}
    return json.dumps({**value, "choices": [{**choice, "finish_reason": "stop"}], "usage": usage})


BENCH = ("--bench-name", "fastchat_bench")


def answer(model: str, *flags: str) -> int:
    """Answers our own questions with the engine that repeats them."""
    return gen_model_answer.main(
        ["--model-path", "echo:", "--model-id", model, "--max-new-token", "40", *BENCH, *flags]
    )


def judge(fake: FakeJudge, *flags: str) -> int:
    """Runs a judging with short waits."""
    words = [*BENCH, "--api-base", fake.url, "--retry-wait-s", "0.001", "--max-tries", "3"]
    return gen_judgment.main([*words, "--judge-model", "rule", *flags])


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
