"""Tool calls and reasoning in text, cut into pieces in every way."""

import json
import random
from collections.abc import Iterator

import pytest

from fastchat.families.formats import ToolFormat, reasoning_formats, tool_formats
from fastchat.message import ToolCall
from fastchat.model.tool_text import written
from fastchat.protocol.chat_pieces import CallPiece, TextPiece
from fastchat.serve.reasoning import ReasoningSplitter, ThoughtCount
from fastchat.serve.tool_calls import CallParser, call_id, short_call_id

FORMATS = {name: form for name, form in tool_formats().items() if form.shape != "channels"}
TOOLS = {
    "f": {"properties": {"x": {"type": "string"}, "y": {"type": "array"}, "n": {"type": "number"}}},
    "g": {"properties": {}},
}
NASTY = '{"x": "a } \\" {[ </tool_call> é", "y": [1, {"z": null}]}'
TWO = (
    ToolCall(id="1", name="f", arguments=NASTY),
    ToolCall(id="2", name="g", arguments="{}"),
)


def cuts_of(text: str) -> list[list[int]]:
    """Ways to cut a text: whole, letter by letter, in two at each place, and 100 random ones."""
    draw = random.Random(text)
    some = [sorted(draw.sample(range(len(text)), min(len(text), k % 9))) for k in range(100)]
    return [[], list(range(len(text))), *([i] for i in range(len(text))), *some]


def parsed(name: str, text: str, *, is_single: bool = False) -> tuple[str, list[tuple[str, str]]]:
    """Text and calls, which are the same however the text is cut."""
    found = {json.dumps(_parsed(name, text, cuts, is_single=is_single)) for cuts in cuts_of(text)}
    assert len(found) == 1, found
    said, calls = json.loads(found.pop())
    return said, [tuple(call) for call in calls]


def _parsed(name: str, text: str, cuts: list[int], *, is_single: bool) -> object:
    parser = CallParser(FORMATS[name], TOOLS, is_single=is_single)
    pieces = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        pieces += parser.feed(text[start:end])
    pieces += parser.flush()
    calls: list[list[str]] = []
    for piece in pieces:
        if isinstance(piece, CallPiece) and piece.name is not None:
            assert piece.index == len(calls) and piece.id and not piece.arguments
            calls.append([piece.name, ""])
        elif isinstance(piece, CallPiece):
            assert piece.index == len(calls) - 1
            calls[-1][1] += piece.arguments
    return "".join(p.text for p in pieces if isinstance(p, TextPiece)), calls


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_model_writes_is_read(name: str) -> None:
    text = written(TWO, FORMATS[name])
    assert parsed(name, text) == ("", [("f", NASTY), ("g", "{}")])
    assert parsed(name, text, is_single=True) == ("", [("f", NASTY)])


@pytest.mark.parametrize("name", [n for n, form in FORMATS.items() if form.begin])
def test_text_before_a_call_streams_through_without_the_blanks_between(name: str) -> None:
    form = FORMATS[name]
    text = written(TWO[:1], form)
    text = text if text.startswith(form.begin) else form.begin + text
    assert parsed(name, f"Let me <see>.\n\n{text}") == ("Let me <see>.", [("f", NASTY)])


@pytest.mark.parametrize(
    ("name", "text", "said", "calls"),
    [
        ("json", '{"a": 1} and more', '{"a": 1} and more', []),
        ("json", "[1] says so", "[1] says so", []),
        ("json", '{"name": "other", "arguments": {}}', '{"name": "other", "arguments": {}}', []),
        ("json", '[{"name": "f", "arguments": {}}]', "", [("f", "{}")]),
        ("json", "", "", []),
        ("json", " \n plain", " \n plain", []),
        ("hermes", "1 < 2 <tool", "1 < 2 <tool", []),
        ("hermes", "<tool_call>hello</tool_call>", "<tool_call>hello</tool_call>", []),
        ("hermes", '<tool_call>{"name": "f"}</tool_call>\ndone', "\ndone", [("f", "{}")]),
        (
            "hermes",
            '<tool_call>{"id": 7, "arguments": {"q":1} , "name" : "f"} </tool_call>',
            "",
            [("f", '{"q":1}')],
        ),
        (
            "hermes",
            '<tool_call>{"name": "f", "arguments": "{\\"q\\": 1}"}</tool_call>',
            "",
            [("f", '{"q": 1}')],
        ),
        ("hermes", '<tool_call>\n{"name": "f", "arguments": {"a": "b', "", [("f", '{"a": "b')]),
        ("hermes", '<tool_call>\n{"nam', '<tool_call>\n{"nam', []),
        ("hermes", "<tool_call>\n{name: f}", "<tool_call>\n{name: f}", []),
        ("mistral", '[TOOL_CALLS] [{"name":"f","arguments":{}}]', "", [("f", "{}")]),
        (
            "mistral-named",
            '[TOOL_CALLS]f{"a":1}[TOOL_CALLS]g[ARGS]{"b":2}',
            "",
            [("f", '{"a":1}'), ("g", '{"b":2}')],
        ),
        ("qwen3-coder", "<tool_call>\n<function=h>", "<tool_call>\n<function=h>", []),
        ("qwen3-coder", "<tool_call>hello", "<tool_call>hello", []),
        (
            "qwen3-coder",
            "<tool_call><function=f><parameter=n>2.0</parameter>\n<parameter=x>\n\n</parameter>"
            "<parameter=z>True</parameter></function></tool_call>\ndone",
            "\ndone",
            [("f", '{"n": 2.0, "x": "", "z": true}')],
        ),
        (
            "qwen3-coder",
            "<tool_call>\n<function=f>\n<parameter=x>\na\n\n\n</parameter>\n</tool_call>",
            "",
            [("f", '{"x": "a\\n\\n"}')],
        ),
        (
            "qwen3-coder",
            '<tool_call>\n<function=f>\n<parameter=x>\ncut "he</par',
            "",
            [("f", '{"x": "cut \\"he</par')],
        ),
        ("glm", "<tool_call>g</tool_call>\n<tool_call>g\n</tool_call>", "", [("g", "{}")] * 2),
        (
            "glm",
            "ok<tool_call>f<arg_key>x</arg_key><arg_value>\n5\n</arg_value><arg_key>n</arg_key>"
            "\n<arg_value> five</arg_value></tool_call>",
            "ok",
            [("f", '{"x": "\\n5\\n", "n": " five"}')],
        ),
        ("glm", "<tool_call>hello</tool_call>", "<tool_call>hello</tool_call>", []),
        (
            "deepseek-v3",
            "So:\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n"
            '{"x": "`"}\n```\n<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
            "So:",
            [("f", '{"x": "`"}')],
        ),
        (
            "deepseek-v31",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
            "<｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call",
            "",
            [("f", "{}"), ("g", "{}")],
        ),
        (
            "kimi-k2",
            "<|tool_calls_section_begin|><|tool_call_begin|>f<|tool_call_argument_begin|>"
            '{"a":1}<|tool_call_end|><|tool_calls_section_end|>',
            "",
            [("f", '{"a":1}')],
        ),
        ("mistral-named", '[TOOL_CALLS][{"name": "f", "arguments": {}}]', "", [("f", "{}")]),
        ("mistral-named", "[TOOL_CALLS]no call {x}", "[TOOL_CALLS]no call {x}", []),
        ("llama3", '<|python_tag|>run("x")', '<|python_tag|>run("x")', []),
    ],
)
def test_nothing_is_lost_and_no_mark_of_a_call_leaks(
    name: str, text: str, said: str, calls: list[tuple[str, str]]
) -> None:
    assert parsed(name, text) == (said, calls)


def test_arguments_go_out_as_they_come() -> None:
    parser = CallParser(FORMATS["hermes"], {"f": {}}, new_id=lambda: "id")
    assert parser.feed('ok <tool_call>\n{"name": "f"') == [
        TextPiece("ok"),
        CallPiece(0, "id", "f"),
    ]
    assert parser.feed(', "arguments": {"a"') == [CallPiece(0, arguments='{"a"')]
    assert parser.feed(": [1") == [CallPiece(0, arguments=": [1")]
    assert parser.feed("]}}\n</tool_call>") == [CallPiece(0, arguments="]}")]


def soups(form: ToolFormat) -> Iterator[tuple[str, list[list[int]]]]:
    """Texts of a format's marks, of parts of them and of what stands between, each with cuts."""
    draw = random.Random(form.name)
    halves = [mark[: len(mark) // 2] for mark in form.marks]
    words = ["f", "g", "x", "5", "true", "functions.f:0", "to=functions.f", "analysis", "final"]
    signs = ["{", "}", "[", "]", ",", '"', "`", "<", ":", "\n", " "]
    wholes = ['{"name": "f", "arguments": {}}', '{"x": 1}', written(TWO[:1], form)]
    pieces = [*form.marks, *halves, *words, *signs, *wholes]
    for _ in range(150):
        text = "".join(draw.choices(pieces, k=draw.randrange(1, 14)))
        some = [draw.sample(range(len(text)), draw.randrange(min(6, len(text)))) for _ in range(3)]
        yield text, [[], list(range(len(text))), *map(sorted, some)]


@pytest.mark.parametrize("name", FORMATS)
def test_any_split_of_any_text_gives_the_same(name: str) -> None:
    for text, ways in soups(FORMATS[name]):
        found = {json.dumps(_parsed(name, text, cuts, is_single=False)) for cuts in ways}
        assert len(found) == 1, (text, found)


def test_texts_between_tags_go_out_as_they_come_and_other_values_when_they_are_whole() -> None:
    parser = CallParser(FORMATS["qwen3-coder"], TOOLS, new_id=lambda: "id")
    assert parser.feed("<tool_call>\n<function=f") == []
    assert parser.feed(">\n<parameter=x>") == [
        CallPiece(0, "id", "f"),
        CallPiece(0, arguments='{"x": '),
    ]
    assert parser.feed('\na "b"\n') == [CallPiece(0, arguments='"a \\"b\\"')]
    assert parser.feed("c\n</para") == [CallPiece(0, arguments="\\nc")]
    assert parser.feed("meter><parameter=y>\n[1,") == [CallPiece(0, arguments='", "y": ')]
    assert parser.feed(" 2]\n</parameter>") == [CallPiece(0, arguments="[1, 2]")]
    assert parser.feed("</function>") == [CallPiece(0, arguments="}")]
    assert parser.feed("</tool_call>") == []


def test_a_format_that_writes_ids_keeps_them() -> None:
    form = FORMATS["kimi-k2"]
    calls = (ToolCall(id="functions.f:7", name="f", arguments="{}"), TWO[1])
    parser = CallParser(form, TOOLS)
    pieces = parser.feed(written(calls, form)) + parser.flush()
    ids = [p.id for p in pieces if isinstance(p, CallPiece) and p.id]
    assert ids == ["functions.f:7", "functions.g:1"]


def test_ids_are_as_their_formats_demand() -> None:
    assert call_id().startswith("call_")
    assert len(short_call_id()) == 9 and short_call_id().isalnum()
    parser = CallParser(FORMATS["mistral"], TOOLS)
    (call,) = [p for p in parser.feed(written(TWO[:1], FORMATS["mistral"])) if p.name]  # type: ignore[union-attr]
    assert isinstance(call, CallPiece) and call.id and len(call.id) == 9


@pytest.mark.parametrize(
    ("text", "thought", "said"),
    [
        ("<think>\nhm < x </thin\n</think>\n\nhello <think>", "hm < x </thin", "hello <think>"),
        ("plain <think>no</think>", "", "plain <think>no</think>"),
        ("<think></think>ok", "", "ok"),
        ("<think>\n\n</think>\n\nok\n", "", "ok\n"),
        ("  <think>cut </th", "cut </th", ""),
        ("<thi", "", "<thi"),
        ("", "", ""),
    ],
)
def test_reasoning_is_split_off(text: str, thought: str, said: str) -> None:
    for cuts in cuts_of(text):
        splitter = ReasoningSplitter(reasoning_formats()["think"])
        parts = [
            splitter.feed(text[start:end])
            for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)
        ]
        parts.append(splitter.flush())
        assert ("".join(a for a, _ in parts), "".join(b for _, b in parts)) == (thought, said)


@pytest.mark.parametrize(
    ("pieces", "counted"),
    [
        (["<think>", "a", " b", "</think>", "c", "d"], 4),
        (["<th", "ink>", "a", "</th", "ink>", "c"], 5),
        (["<think>", "a"], 2),
        (["<think>", "</think>", "c"], 2),
        (["<b>", "a"], 0),
        (["<thin", "g>", "a"], 0),
        (["a", "<think>", "b", "</think>"], 0),
    ],
)
def test_tokens_of_reasoning_are_counted_with_their_marks(pieces: list[str], counted: int) -> None:
    count = ThoughtCount(reasoning_formats()["think"])
    assert sum(count.feed(piece, 1) for piece in pieces) == counted
