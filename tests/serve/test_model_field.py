import json
import random

import pytest

from fastchat.errors import UsageError
from fastchat.serve.model_field import (
    CAN_SCAN,
    PARSE_BYTES,
    SCAN_INLINE_BYTES,
    read_model,
    scan_model,
)

needs_scanning = pytest.mark.skipif(not CAN_SCAN, reason="this Python's patterns are faulty")

FILL = "x" * PARSE_BYTES


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ('{"model":"m"}', "m"),
        ('{"messages":[{"model":"inner"}],"model":"outer"}', "outer"),
        ('{"model":"first","model":"last"}', "last"),
        ('{"a":"\\"model\\":\\"no\\"","model":"yes"}', "yes"),
        ('{"mod\\u0065l":"escaped"}', "escaped"),
        ('{"\\u006D\\u006f\\u0064\\u0065\\u006C" : "all escaped"}', "all escaped"),
        ('{"a":[[[[[[[[{"model":"deep"}]]]]]]]],"model":"after"}', "after"),
        ('{"a":[{"b":[{"c":[{"d":[1,{}]}]}]},"model"],"model":"after"}', "after"),
        ('{"model":"before","a":{"model":{"model":["inner"]}}}', "before"),
        ('{"model" :\n\t"spaced", "models":"x", "model2":"y"}', "spaced"),
        ('{"model":"m","x":{"y":"}]"}}', "m"),
        ('{"model":null}', None),
        ('{"messages":[]}', None),
        ('{"model":"quote \\" and \\\\"}', 'quote " and \\'),
        (' \n{ "model" : "spaced" }', "spaced"),
        ('{"x":"model","y":"z"}', None),
    ],
)
async def test_a_large_body_gives_the_same_model_as_a_small_one(
    text: str, model: str | None
) -> None:
    assert await read_model(text.encode()) == model
    cut = text.index("{") + 1
    large = f'{text[:cut]}"fill":"{FILL}",{text[cut:]}'
    json.loads(large)
    assert len(large) > PARSE_BYTES
    assert await read_model(large.encode()) == model


async def test_a_body_beyond_the_inline_size_is_read_as_well() -> None:
    body = {"messages": [{"role": "user", "content": "x" * SCAN_INLINE_BYTES}], "model": "m"}
    assert await read_model(json.dumps(body).encode()) == "m"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b"3",
        b"null",
        b'"model"',
        b"{",
        b'{"model":"\xff"}',
        b'{"model":NaN}',
        b'\xef\xbb\xbf{"model":"m"}',
        b'{"model":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"model":3}',
        b'{"model":["m"]}',
        b'{"model":{"a":1}}',
        b'{"model":true}',
    ],
)
async def test_what_is_no_object_with_a_model_name_is_refused(body: bytes) -> None:
    with pytest.raises(UsageError):
        await read_model(body)


@pytest.mark.parametrize("value", ["3", '["m"]', '{"a":1}', "true"])
async def test_a_large_body_whose_model_is_no_text_is_refused(value: str) -> None:
    body = f'{{"fill":"{FILL}","model":{value}}}'.encode()
    with pytest.raises(UsageError) as caught:
        await read_model(body)
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    "body",
    [
        b"[" * (PARSE_BYTES + 1),
        b'{"a":' * PARSE_BYTES,
        pytest.param(b'{"a":[' + b"[[[[[[[[[1]]]]]]]]]," * 300_000 + b"1]}", marks=needs_scanning),
        b'"' + b"x" * PARSE_BYTES,
        b"x" * (PARSE_BYTES + 1),
    ],
)
async def test_large_nonsense_is_refused(body: bytes) -> None:
    with pytest.raises(UsageError):
        await read_model(body)


def _tree(rng: random.Random, depth: int) -> object:
    """A random JSON value with `model` in odd places."""
    kind = rng.randrange(6 if depth else 3)
    if kind < 3:
        return rng.choice(["model", 'a"b', "}]{[", "\\", "", 1, -2.5e3, True, None, "é"])
    items = [_tree(rng, depth - 1) for _ in range(rng.randrange(4))]
    keys = ["model", "models", "mode", "x", '"model"']
    return items if kind < 5 else {rng.choice(keys): item for item in items}


def test_scanning_agrees_with_parsing_on_random_bodies() -> None:
    rng = random.Random(5)
    for _ in range(2000):
        body = {"x": _tree(rng, 8), "model": rng.choice(["m", None]), "y": _tree(rng, 8)}
        items = list(body.items())
        rng.shuffle(items)
        text = json.dumps(dict(items), ensure_ascii=rng.random() < 0.5).encode()
        assert scan_model(text) == body["model"]


@needs_scanning
def test_an_unended_string_costs_one_pass() -> None:
    assert scan_model(b'{"a":"' + b"\\x" * 1_000_000) is None


def test_a_model_that_is_broken_text_is_refused() -> None:
    with pytest.raises(UsageError):
        scan_model(b'{"model":"\xff"}')
