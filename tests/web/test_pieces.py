"""An event stream, read as it comes."""

from itertools import pairwise

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastchat.web.pieces import DONE, Events, Piece, piece_of

REQUEST = httpx2.Request("POST", "http://127.0.0.1/v1/chat/completions")
STREAM = (
    b": a comment\n\n"
    b'event: message\ndata: {"choices": [{"delta": {"content": "a"}}]}\r\n\r\n'
    b'data:{"x":\ndata: 1}\n\n'
    b"id: 7\n\n"
    b"data: [DONE]\n\n"
    b"data: cut off"
)
DATA = [b'{"choices": [{"delta": {"content": "a"}}]}', b'{"x":\n1}', DONE]


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_events_are_the_same_however_the_stream_is_cut(cuts: list[int]) -> None:
    events = Events()
    ends = [0, *sorted(cuts), len(STREAM)]
    blocks = [STREAM[a:b] for a, b in pairwise(ends)]
    assert [data for block in blocks for data in events.of(block)] == DATA


@pytest.mark.parametrize(
    ("data", "piece"),
    [
        (DATA[0], Piece(text="a", reason=None)),
        (b'{"choices": [{"delta": {}, "finish_reason": "stop"}]}', Piece(text="", reason="stop")),
        (b'{"choices": [{"delta": null, "finish_reason": null}]}', Piece(text="", reason=None)),
        (b'{"choices": [{"delta": {"content": ["a"]}}]}', Piece(text="", reason=None)),
        (b'{"choices": [], "usage": {}}', None),
        (b'{"choices": null}', None),
        (b'{"choices": {"delta": 1}}', None),
        (b"[1]", None),
    ],
)
def test_an_event_becomes_a_piece(data: bytes, piece: Piece | None) -> None:
    assert piece_of(data, REQUEST) == piece


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"error": {"message": "out of memory"}}', "out of memory"),
        (b'{"error": {"message": 7}}', "broke off"),
        (b'{"error": "gone"}', "broke off"),
    ],
)
def test_an_error_event_is_an_error(data: bytes, message: str) -> None:
    with pytest.raises(openai.APIError, match=message):
        piece_of(data, REQUEST)


def test_what_is_no_json_is_an_error() -> None:
    with pytest.raises(ValueError, match="JSON"):
        piece_of(b"<html>", REQUEST)
