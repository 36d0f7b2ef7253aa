import json

from fastchat.engine.base import TokenLogprob
from fastchat.protocol.openai_replies import (
    ChatStream,
    CompletionStream,
    ReplyHead,
    chat_logprobs,
    legacy_logprobs,
    model_card,
    new_id,
    usage_fields,
)

HEAD = ReplyHead(id="x-1", object="o", model='a "model"\n', fingerprint="fp_1", created=5)


def data(event: bytes) -> dict:
    assert event.startswith(b"data: ") and event.endswith(b"\n\n")
    return json.loads(event.removeprefix(b"data: "))


def token(text: str, logprob: float | None = -1.0) -> TokenLogprob:
    return TokenLogprob(text, 1, logprob, ((text, 1, -1.0), ("z", 2, -2.0)))


def test_the_quick_way_writes_the_same_event_as_the_general_one() -> None:
    for stream in (
        ChatStream(HEAD, with_usage=True),
        ChatStream(HEAD, with_usage=False),
        CompletionStream(HEAD, with_usage=True, with_top=True),
    ):
        text = 'quote " slash \\ line \n é 😀 \x00'
        quick, general = data(stream.piece(1, text)), data(stream.piece(1, text, []))
        general["choices"][0]["logprobs"] = None
        assert quick == general
        assert quick["model"] == HEAD.model
        assert quick["choices"][0]["index"] == 1
        assert ("usage" in quick) == ("usage" in data(stream.finish(0, "stop")))


def test_only_the_last_event_has_usage_and_no_choice() -> None:
    stream = ChatStream(HEAD, with_usage=True)
    usage = usage_fields(prompt=3, completion=4, cached=2)
    event = data(stream.usage(usage))
    assert event["choices"] == []
    assert event["usage"]["total_tokens"] == 7
    assert event["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}
    assert data(stream.piece(0, "x"))["usage"] is None


def test_offsets_pass_over_tokens_that_are_not_in_the_text() -> None:
    tokens = [token("<s>", None), token("a"), token("\ufffd"), token("\ufffd"), token(" b")]
    lists = legacy_logprobs(tokens, "aé b")
    assert lists["text_offset"] == [0, 0, 1, 1, 2]
    assert lists["tokens"] == ["<s>", "a", "\ufffd", "\ufffd", " b"]
    assert lists["token_logprobs"] == [None, -1, -1, -1, -1]
    assert lists["top_logprobs"][0] is None
    assert lists["top_logprobs"][1] == {"a": -1, "z": -2}


def test_offsets_run_on_from_piece_to_piece() -> None:
    stream = CompletionStream(HEAD, with_usage=False, with_top=False)
    first = data(stream.piece(0, "ab", [token("a"), token("b")]))
    second = data(stream.piece(0, "c", [token("c")]))
    other = data(stream.piece(1, "c", [token("c")]))
    offsets = [e["choices"][0]["logprobs"]["text_offset"] for e in (first, second, other)]
    assert offsets == [[0, 1], [2], [0]]
    assert first["choices"][0]["logprobs"]["top_logprobs"] is None


def test_minus_infinity_is_a_number_of_json() -> None:
    entry = chat_logprobs([token("é", float("-inf"))])["content"][0]
    assert entry["logprob"] == -9999.0
    assert entry["bytes"] == [0xC3, 0xA9]
    json.dumps(entry, allow_nan=False)


def test_ids_differ_and_a_card_does_not() -> None:
    assert len({new_id("chatcmpl") for _ in range(100)}) == 100
    card = model_card("m", created=1, root="m", context_length=64)
    assert card == model_card("m", created=1, root="m", context_length=64)
    assert (card["context_length"], card["max_model_len"]) == (64, 64)
