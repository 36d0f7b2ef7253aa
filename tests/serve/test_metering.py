"""Use read from replies as they pass."""

import json
from typing import Any

import pytest

from fastchat.serve.metering import Meter, start, usage_in, with_usage


class Closed:
    """A charge that remembers how it was closed."""

    def __init__(self) -> None:
        self.how: Any = None

    def settle(self, *, prompt: int, completion: int, is_estimated: bool = False) -> None:
        self.how = (prompt, completion, is_estimated)

    def cancel(self) -> None:
        self.how = "cancelled"


def meter(*, asks: bool = True, costs: bool = True, n_bytes: int = 40) -> tuple[Meter, Closed]:
    charge = Closed()
    return Meter(charge, n_bytes=n_bytes, costs=costs, asks_usage=asks), charge  # type: ignore[arg-type]


def event(value: Any, end: str = "\n\n") -> bytes:
    return f"data: {json.dumps(value)}{end}".encode()


PIECE = {"choices": [{"index": 0, "delta": {"content": 'say "usage": {"x'}}], "usage": None}
LAST = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n"])
def test_the_event_that_only_we_asked_for_is_kept_from_the_client(end: str) -> None:
    m, charge = meter()
    first = event(PIECE, end)
    assert m.events(first + first) == first + first
    assert m.events(first + event(LAST, end) + DONE) == first + DONE
    m.close(failed=False)
    assert charge.how == (7, 3, False)


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n"])
def test_the_event_is_found_wherever_it_stands(end: str) -> None:
    others, last = event(PIECE, end) * 2, event(LAST, end)
    for before in (b"", others):
        for after in (b"", others, DONE):
            m, charge = meter()
            assert m.events(before + last + after) == before + after
            m.close(failed=False)
            assert charge.how == (7, 3, False)


def test_the_event_that_the_client_asked_for_passes() -> None:
    m, charge = meter(asks=False)
    data = event(PIECE) + event(LAST) + DONE
    assert m.events(data) == data
    m.close(failed=False)
    assert charge.how == (7, 3, False)


def test_usage_beside_a_choice_is_counted_and_passes() -> None:
    m, charge = meter()
    data = event({"choices": [{"index": 0, "delta": {}}], "usage": LAST["usage"]})
    assert m.events(data) == data
    m.close(failed=False)
    assert charge.how == (7, 3, False)


def test_a_stream_that_is_cut_is_estimated() -> None:
    m, charge = meter()
    m.sent()
    for text in ("", "a", "b"):
        m.events(event({"choices": [{"index": 0, "delta": {"content": text}}]}))
    m.close(failed=False)
    assert charge.how == (10, 3, True)


def test_long_events_count_by_their_length() -> None:
    m, charge = meter()
    m.events(event({"c": ""}))
    m.events(event({"c": "x" * 400}))
    m.close(failed=False)
    assert charge.how == (10, 100, True)


def test_plain_replies_tell_their_usage() -> None:
    m, charge = meter()
    m.sent()
    m.reply(200, json.dumps({"choices": [], "usage": {"prompt_tokens": 4}}).encode())
    m.close(failed=False)
    assert charge.how == (4, 0, False)


@pytest.mark.parametrize("status", [400, 429, 500])
def test_a_refused_request_costs_nothing(status: int) -> None:
    m, charge = meter()
    m.sent()
    m.reply(status, b'{"usage": {"prompt_tokens": 4}}')
    m.close(failed=False)
    assert charge.how == "cancelled"


def test_a_request_whose_client_left_costs_its_prompt() -> None:
    m, charge = meter()
    m.sent()
    m.close(failed=False)
    assert charge.how == (10, 0, True)


def test_a_request_that_no_endpoint_could_answer_costs_nothing() -> None:
    m, charge = meter()
    m.sent()
    m.close(failed=True)
    assert charge.how == "cancelled"


def test_a_route_without_tokens_counts_as_a_request() -> None:
    m, charge = meter(costs=False)
    m.reply(200, b"{}")
    m.close(failed=False)
    assert charge.how == (0, 0, False)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"usage":{"prompt_tokens":1,"completion_tokens":2,"d":{"e":{"f":1}}}}', (1, 2)),
        (b'{"usage" : {"prompt_tokens": 1, "completion_tokens": null}}', (1, 0)),
        (b'{"a":{"usage":{}},"usage":{"prompt_tokens":5,"total_tokens":5}}', (5, 0)),
        (b'{"usage":{"prompt_tokens":-1}}', None),
        (b'{"usage":{"prompt_tokens":true}}', None),
        (b'{"usage":{"prompt_tokens":1', None),
        (b'{"usage":null}', None),
        (b"", None),
    ],
)
def test_usage_is_read_or_not_there(body: bytes, expected: tuple[int, int] | None) -> None:
    assert usage_in(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"stream": true }', b'{"stream": true ,"stream_options":{"include_usage":true}}'),
        (
            b'{"stream":true,"stream_options":null}',
            b'{"stream":true,"stream_options":{"include_usage":true}}',
        ),
        (
            b'{"stream":true,"stream_options":{"x":1}}',
            b'{"stream":true,"stream_options":{"x":1,"include_usage":true}}',
        ),
        (b'{"stream":true,"stream_options":{"include_usage":true}}', None),
        (b'{"stream":true,"stream_options":3}', None),
        (b'{"stream":false}', None),
        (b"{}", None),
        (b"[]", None),
    ],
)
def test_usage_is_asked_for_where_the_client_did_not(body: bytes, expected: bytes | None) -> None:
    assert with_usage(body, json.loads(body)) == expected


async def test_pictures_are_not_counted_as_text() -> None:
    picture = "data:image/png;base64," + "A" * 40_000
    part = {"type": "image_url", "image_url": {"url": picture}}
    body = json.dumps({"messages": [{"role": "user", "content": [part]}], "max_tokens": 5})
    asked: list[int] = []

    class Caller:
        def admit(self, model: str, *, tokens: int) -> Closed:
            asked.append(tokens)
            return Closed()

    await start(Caller(), "m", "/v1/chat/completions", body.encode())  # type: ignore[arg-type]
    assert 5 < asked[0] < 60
