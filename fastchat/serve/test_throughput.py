"""Measures how fast a model answers several callers at once.

python3 -m fastchat.serve.test_throughput --n-thread 8 --max-new-tokens 128
"""

import asyncio
import dataclasses
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastchat.errors import FastChatError, UsageError
from fastchat.serve.test_message import MessageSettings, find_worker
from fastchat.settings import alias, run_command

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__test__ = False  # published name; not a test


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputSettings:
    """Measures tokens a second, and how long callers wait."""

    controller_address: Annotated[str, alias("--controller")] = "http://localhost:21001"
    """Controller that is asked for a worker."""
    worker_address: Annotated[str | None, alias("--worker")] = None
    """Worker, gateway or other OpenAI-compatible server to measure directly."""
    model_name: Annotated[str | None, alias("--model")] = None
    """Model to ask; by default the first that is listed."""
    max_new_tokens: int = 2048
    """Longest answer, in tokens."""
    n_thread: int = 8
    """Callers at a time."""
    n_requests: int | None = None
    """Requests in all; the default is one for each caller."""
    test_dispatch: bool = False
    """Ask the controller for a worker before each request, not once."""
    message: str = "Tell me a story with more than 1000 words."
    """What is said to the model."""
    api_key: str = "EMPTY"
    """Key of a server that wants one."""
    timeout_s: float = 600.0
    """The longest an answer may take."""
    json: bool = False
    """Print the report as one JSON object."""
    debug: bool = False
    """Show tracebacks."""

    def __post_init__(self) -> None:
        for flag, value in (
            ("--max-new-tokens", self.max_new_tokens),
            ("--n-thread", self.n_thread),
            ("--n-requests", 1 if self.n_requests is None else self.n_requests),
        ):
            if value < 1:
                raise UsageError(f"{flag} {value}: must be 1 or more.")
        if self.test_dispatch and self.worker_address:
            raise UsageError(
                "--test-dispatch asks the controller for a worker; leave out --worker-address."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One answer, measured by the caller; times in seconds from the request."""

    first_s: float
    total_s: float
    n_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All answers together."""

    model: str
    n_requests: int
    n_callers: int
    seconds: float
    output_tokens: int
    output_tokens_per_s: float
    requests_per_s: float
    first_token_p50_s: float
    first_token_p95_s: float
    first_token_p99_s: float
    total_p50_s: float
    total_p95_s: float
    total_p99_s: float

    def text(self) -> str:
        """The lines for a person."""
        return "\n".join(
            [
                f"Model {self.model}: {self.n_requests} requests, {self.n_callers} at a time",
                f"Time (seconds): {self.seconds:.2f}",
                f"Throughput (tokens/s): {self.output_tokens_per_s:.1f}"
                f" ({self.output_tokens} tokens, {self.requests_per_s:.2f} requests/s)",
                f"First token (seconds): p50 {self.first_token_p50_s:.3f}"
                f"  p95 {self.first_token_p95_s:.3f}  p99 {self.first_token_p99_s:.3f}",
                f"Whole answer (seconds): p50 {self.total_p50_s:.3f}"
                f"  p95 {self.total_p95_s:.3f}  p99 {self.total_p99_s:.3f}",
            ]
        )


def report(samples: Sequence[Sample], *, model: str, n_callers: int, seconds: float) -> Report:
    """What the samples of one run say; `seconds` is the whole run."""
    first = [sample.first_s for sample in samples]
    total = [sample.total_s for sample in samples]
    tokens = sum(sample.n_tokens for sample in samples)
    return Report(
        model=model,
        n_requests=len(samples),
        n_callers=n_callers,
        seconds=seconds,
        output_tokens=tokens,
        output_tokens_per_s=tokens / seconds,
        requests_per_s=len(samples) / seconds,
        first_token_p50_s=percentile(first, 50),
        first_token_p95_s=percentile(first, 95),
        first_token_p99_s=percentile(first, 99),
        total_p50_s=percentile(total, 50),
        total_p95_s=percentile(total, 95),
        total_p99_s=percentile(total, 99),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of the values do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


async def measure(settings: ThroughputSettings) -> Report:
    """Sends all requests and reports.

    Raises:
        FastChatError: nobody serves the model, or an answer failed.
    """
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    target = MessageSettings(
        controller_address=settings.controller_address,
        worker_address=settings.worker_address,
        model_name=settings.model_name,
        api_key=settings.api_key,
    )
    models, url = await find_worker(target)
    model = settings.model_name or models[0]
    left = iter(range(settings.n_requests or settings.n_thread))
    samples: list[Sample] = []
    # No proxy of the environment may stand between us and our own machines.
    async with DefaultAsyncHttpxClient(trust_env=False) as http:

        async def call() -> None:
            for _ in left:
                began = time.perf_counter()
                place = (await find_worker(target))[1] if settings.test_dispatch else url
                client = AsyncOpenAI(
                    base_url=f"{place}/v1",
                    api_key=settings.api_key,
                    max_retries=0,
                    timeout=settings.timeout_s,
                    http_client=http,
                )
                samples.append(await sample(client, settings, model=model, began=began))

        began = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as callers:
                for _ in range(settings.n_thread):
                    callers.create_task(call())
        except ExceptionGroup as group:
            raise plain_error(group.exceptions[0]) from group
        seconds = time.perf_counter() - began
    return report(samples, model=model, n_callers=settings.n_thread, seconds=seconds)


async def sample(
    client: "AsyncOpenAI", settings: ThroughputSettings, *, model: str, began: float
) -> Sample:
    """One streamed answer."""
    stream = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": settings.message}],
        max_tokens=settings.max_new_tokens,
        stream=True,
        stream_options={"include_usage": True},
    )
    first, n_tokens = None, None
    async with stream:
        async for chunk in stream:
            if first is None and chunk.choices and chunk.choices[0].delta.content:
                first = time.perf_counter()
            if chunk.usage is not None:
                n_tokens = chunk.usage.completion_tokens
    ended = time.perf_counter()
    if n_tokens is None:
        raise FastChatError("The stream ended without its usage; is this an OpenAI server?")
    return Sample(first_s=(first or ended) - began, total_s=ended - began, n_tokens=n_tokens)


def plain_error(error: Exception) -> FastChatError:
    """The failure of a request as one line."""
    import openai

    if isinstance(error, FastChatError):
        return error
    if isinstance(error, openai.APIStatusError | openai.APIError):
        return FastChatError(f"A request failed: {error.message}")
    return FastChatError(f"A request failed: {error or type(error).__name__}")


def run(settings: ThroughputSettings) -> None:
    result = asyncio.run(measure(settings))
    print(json.dumps(dataclasses.asdict(result)) if settings.json else result.text())


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(
        ThroughputSettings, run, argv, prog="python3 -m fastchat.serve.test_throughput"
    )


if __name__ == "__main__":
    sys.exit(main())
