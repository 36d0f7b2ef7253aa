"""Grammars of calls: what they let through is what the parser reads as calls that fit."""

import json
import random
import re
from typing import Any

import jsonschema
import numpy as np
import pytest

from fastchat.engine.base import EngineInfo, Grammar
from fastchat.families.formats import ToolFormat, reasoning_format, tool_formats
from fastchat.message import ToolCall
from fastchat.model.tool_text import written
from fastchat.protocol.chat_pieces import CallPiece, ReasoningPiece, TextPiece
from fastchat.protocol.openai_api import ChatRequest, parse
from fastchat.serve.reply_parts import parser_maker
from fastchat.serve.tool_grammar import chat_grammar
from tests.engine.conftest import make_tokenizer

FORMATS = tool_formats()
KINDS = ("special", "added", "letters")
SHOP: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Rome", "São Paulo"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
        "code": {"type": "string", "minLength": 1, "maxLength": 4},
        "plate": {"type": "string", "pattern": "^[A-C]{2}[0-9]$"},
        "fast": {"type": "boolean"},
        "mixed": {"enum": ["up", 5, None]},
        "list": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
        "sort": {"$ref": "#/$defs/sort"},
    },
    "required": ["city", "days", "plate"],
    "$defs": {"sort": {"enum": ["a", "b"]}},
}
PLAIN: dict[str, Any] = {"type": "object", "properties": {}}
TOOLS = [
    {"type": "function", "function": {"name": "shop", "parameters": SHOP}},
    {"type": "function", "function": {"name": "shop2", "parameters": PLAIN}},
]
GOOD = (
    ToolCall(id="", name="shop", arguments='{"city": "Rome", "days": 3, "plate": "AB7"}'),
    ToolCall(id="", name="shop2", arguments="{}"),
)
BAD = (
    '{"city": "Oslo", "days": 3, "plate": "AB7"}',
    '{"city": "Rome", "days": 9, "plate": "AB7"}',
    '{"city": "Rome", "days": 3, "plate": "AD7"}',
    '{"city": "Rome", "days": 3}',
    '{"city": "Rome", "days": 3, "plate": "AB7", "more": 1}',
)


class World:
    """A tokenizer that has a format's marks as special tokens, as added ones, or as letters."""

    def __init__(self, form: ToolFormat, kind: str) -> None:
        from llguidance import hf

        self.form = form
        tokenizer = make_tokenizer()
        marks = [m for text in form.marks for m in _marks(text)]
        is_special = kind == "special"
        if kind == "letters":
            marks = []
        tokenizer.add_tokens(marks, special_tokens=is_special)
        self.ll = hf.from_tokenizer(tokenizer, n_vocab=len(tokenizer), eos_token=[2])
        vocabulary = tokenizer.get_vocab()
        # What `prompting` finds: special tokens, and added ones in angle brackets.
        self.special_ids = {
            m: vocabulary[m] for m in marks if is_special or (m.startswith("<") and m.endswith(">"))
        }
        self.texts = {i: t for t, i in vocabulary.items() if t in marks}
        self.info = EngineInfo(
            model_path="",
            family="",
            context_length=4096,
            vocab_size=len(tokenizer),
            dtype="",
            device="",
            scheduler="",
            template="",
            max_running=1,
            abilities=frozenset({"grammar"}),
            tool_format=form,
            reasoning=reasoning_format("harmony", "") if form.shape == "channels" else None,
            special_ids=self.special_ids,
        )

    def body(self, **fields: Any) -> ChatRequest:
        said = [{"role": "user", "content": "?"}]
        return parse(ChatRequest, {"model": "m", "messages": said, "tools": TOOLS, **fields})

    def grammar(self, body: ChatRequest) -> Grammar:
        found = chat_grammar(body, self.info)
        assert found is not None and found.kind == "lark"
        return found

    def matcher(self, grammar: Grammar) -> Any:
        from llguidance import LLMatcher

        matcher = LLMatcher(self.ll, LLMatcher.grammar_from_lark(grammar.source), log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        return matcher

    def takes(self, grammar: Grammar, text: str) -> bool:
        """Whether a text is a whole answer under the grammar."""
        matcher = self.matcher(grammar)
        ids = self.ll.tokenize_str(text)
        return matcher.validate_tokens(ids) == len(ids) and (
            matcher.consume_tokens(ids) and matcher.is_accepting()
        )

    def walk(self, grammar: Grammar, seed: int) -> str:
        """A random whole answer under the grammar."""
        draw = random.Random(seed)
        matcher = self.matcher(grammar)
        text = b""
        for _ in range(2000):
            mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
            bits = np.unpackbits(mask, bitorder="little")[: self.info.vocab_size]
            allowed = [int(i) for i in np.flatnonzero(bits)]
            token = draw.choice(allowed)
            if token == 2:
                break
            assert matcher.consume_token(token), (matcher.get_error(), token, text[-80:])
            text += (
                self.texts[token].encode() if token in self.texts else self.ll.decode_bytes([token])
            )
            if matcher.is_stopped():
                break
        else:
            pytest.fail(f"no end: {text[-200:]!r}")
        return text.decode()

    def calls(self, body: ChatRequest, text: str) -> tuple[list[tuple[str, str]], str]:
        """The calls and the words that the parser finds in an answer."""
        make = parser_maker(body, self.info)
        assert make is not None
        calls: list[tuple[str, str]] = []
        said = ""
        for part in make().feed(text, is_last=True):
            match part:
                case CallPiece():
                    if part.name is not None:
                        calls.append((part.name, ""))
                    name, before = calls[part.index]
                    calls[part.index] = (name, before + part.arguments)
                case TextPiece():
                    said += part.text
                case ReasoningPiece():
                    pass
        return calls, said


def _marks(text: str) -> list[str]:
    """The tags and tokens in a piece of a format, those that are whole."""
    return re.findall(r"<[^<>=\s]+>|\[[A-Z_]+\]", text)


CASES = [
    pytest.param((n, k), id=f"{n}-{k}", marks=[pytest.mark.slow] if k != "special" else [])
    for n in FORMATS
    for k in KINDS
    if (n, k) != ("harmony", "letters")
]
"""Harmony's marks are tokens in every tokenizer that has them."""


@pytest.fixture(params=CASES)
def world(request: pytest.FixtureRequest) -> World:
    name, kind = request.param
    return World(FORMATS[name], kind)


def check(calls: list[tuple[str, str]]) -> None:
    for name, arguments in calls:
        jsonschema.validate(json.loads(arguments), {"shop": SHOP, "shop2": PLAIN}[name])


def test_every_answer_under_the_grammar_is_calls_that_fit(world: World) -> None:
    body = world.body(tool_choice="required")
    grammar = world.grammar(body)
    names: set[str] = set()
    for seed in range(12):
        calls, said = world.calls(body, text := world.walk(grammar, seed))
        # Harmony may have words to the reader before a call.
        assert calls and (not said.strip() or world.form.shape == "channels"), text
        names |= {name for name, _ in calls}
        check(calls)
    assert names == {"shop", "shop2"}


def test_one_call_where_one_is_asked_for(world: World) -> None:
    body = world.body(tool_choice="required", parallel_tool_calls=False)
    grammar = world.grammar(body)
    for seed in range(5):
        calls, _ = world.calls(body, world.walk(grammar, seed))
        assert len(calls) == 1
    body = world.body(tool_choice={"type": "function", "function": {"name": "shop"}})
    calls, _ = world.calls(body, world.walk(world.grammar(body), 0))
    assert [name for name, _ in calls] == ["shop"]


def test_what_a_model_writes_fits_and_what_no_tool_takes_does_not(world: World) -> None:
    body = world.body(tool_choice="required")
    grammar = world.grammar(body)
    end = "<|call|>" if world.form.shape == "channels" else ""
    good = GOOD[:1] if end else GOOD
    text = written(good, world.form).removesuffix(end)
    assert world.takes(grammar, text), text
    for arguments in BAD:
        call = ToolCall(id="", name="shop", arguments=arguments)
        assert not world.takes(grammar, written((call,), world.form).removesuffix(end))
    call = ToolCall(id="", name="shoe", arguments="{}")
    assert not world.takes(grammar, written((call,), world.form).removesuffix(end))


def test_an_offered_call_is_held_to_its_tool_from_its_beginning_on(world: World) -> None:
    """With `auto`: what follows the first mark, or a whole answer that may be a call."""
    body = world.body()
    grammar = world.grammar(body)
    form = world.form
    names: set[str] = set()
    for seed in range(12):
        text = world.walk(grammar, seed)
        is_rest = grammar.after and not grammar.opens
        calls, _ = world.calls(body, form.begin + text if is_rest else text)
        names |= {name for name, _ in calls}
        check(calls)
    # Random words seldom are a call, where words are let through too.
    assert names == {"shop", "shop2"} if is_rest else names <= {"shop", "shop2"}


@pytest.mark.parametrize("name", ["json", "llama3", "harmony"])
def test_an_offered_call_may_be_made_or_left(name: str) -> None:
    world = World(FORMATS[name], "special")
    grammar = world.grammar(world.body())
    end = "<|call|>" if name == "harmony" else ""
    final = "<|channel|>final<|message|>" if name == "harmony" else ""
    for text in ("", "Good day.", '{"a": 1}', '{"name": "Ann"}', '[{"x": 1}, 2]', "\n {1}"):
        assert world.takes(grammar, final + text), text
    assert world.takes(grammar, written(GOOD[:1], world.form).removesuffix(end))
    for arguments in BAD:
        call = ToolCall(id="", name="shop", arguments=arguments)
        assert not world.takes(grammar, written((call,), world.form).removesuffix(end))


@pytest.mark.parametrize("arguments", ["arguments", "parameters"])
def test_a_bare_call_may_have_blanks_and_neighbours(arguments: str) -> None:
    name = {"arguments": "json", "parameters": "llama3"}[arguments]
    world = World(FORMATS[name], "special")
    grammar = world.grammar(world.body())
    good = '{"city": "Rome", "days": 3, "plate": "AB7"}'
    one = f'{{"name": "shop", "{arguments}": {good}}}'
    spaced = f'{{\n  "name" : "shop",\n  "{arguments}": {good}\n}}'
    typed = f'{{"type": "function", "name": "shop", "{arguments}": {good}}}'
    for text in (one, spaced, typed, f"{one}; {one}", f"{one}\n{spaced}", f"[{one}, {one}]"):
        assert world.takes(grammar, text), text
        calls, said = world.calls(world.body(), text)
        assert calls and not said
        check(calls)
    for text in (f"{one} and so on", f"[{one}", spaced.replace("3", "9")):
        assert not world.takes(grammar, text), text


@pytest.mark.parametrize("name", ["qwen3-coder", "glm", "seed", "minimax"])
def test_texts_between_tags_are_held_to_what_can_be_held(name: str) -> None:
    world = World(FORMATS[name], "added")
    tool = {
        "name": "note",
        "parameters": {
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "maybe": {"type": ["string", "null"]},
                "any": {},
                "day": {"type": "string", "pattern": "^(?!x)", "format": "date"},
            },
            "required": ["text"],
            "additionalProperties": {"type": "string"},
        },
    }
    body = world.body(tools=[{"type": "function", "function": tool}], tool_choice="required")
    grammar = world.grammar(body)
    given = {
        "text": '<b>one\n two</b> "q" <para',
        "maybe": None,
        "any": [1, {"a": None}],
        "day": "today",
        "other": "x",
    }
    text = written((ToolCall(id="", name="note", arguments=json.dumps(given)),), world.form)
    assert world.takes(grammar, text), text
    ((called, arguments),), said = world.calls(body, text)
    assert (called, json.loads(arguments), said) == ("note", given, "")


def test_a_form_holds_the_final_words_of_harmony() -> None:
    world = World(FORMATS["harmony"], "special")
    thought = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant"
    final = "<|channel|>final<|message|>"
    forms: list[tuple[dict[str, Any], str, str]] = [
        ({"guided_regex": "[0-9]/[0-9]"}, "1/2", "12"),
        ({"guided_choice": ["left", "right"]}, "left", "up"),
        ({"guided_json": {"enum": [1, 2]}}, "2", "3"),
        ({"guided_grammar": 'start: "a" b\nb: "b"'}, "ab", "aa"),
        ({"response_format": {"type": "json_object"}}, '{"a": 1}', "[]"),
    ]
    for fields, good, bad in forms:
        grammar = world.grammar(world.body(tools=[], **fields))
        assert world.takes(grammar, f"{final}{good}"), fields
        assert world.takes(grammar, f"{thought}{thought}{final}{good}"), fields
        assert not world.takes(grammar, f"{final}{bad}")
        assert not world.takes(grammar, good)


def test_a_schema_beside_tools_is_the_form_of_the_final_words() -> None:
    world = World(FORMATS["harmony"], "special")
    wanted = {"type": "json_schema", "json_schema": {"name": "v", "schema": {"enum": [1, 2]}}}
    body = world.body(response_format=wanted)
    grammar = world.grammar(body)
    assert world.takes(grammar, "<|channel|>final<|message|>2")
    assert not world.takes(grammar, "<|channel|>final<|message|>3")
    assert world.takes(grammar, written(GOOD[:1], world.form).removesuffix("<|call|>"))


def test_names_with_signs_are_names(world: World) -> None:
    tools = [
        {"type": "function", "function": {"name": name, "parameters": PLAIN}}
        for name in ("a-b.c_d", "a-b", "a-bxc_d")
    ]
    end = "<|call|>" if world.form.shape == "channels" else ""
    for choice in ("auto", "required"):
        body = world.body(tools=tools[:2], tool_choice=choice)
        grammar = world.grammar(body)
        if grammar.after and not grammar.opens:
            continue  # what follows a mark is tried above
        for tool, is_known in zip(tools, (True, True, False), strict=True):
            call = ToolCall(id="", name=tool["function"]["name"], arguments="{}")
            text = written((call,), world.form).removesuffix(end)
            # Of a tool that is not there no call is made; without a mark it is a text.
            is_text = choice == "auto" and world.form.may_be_bare
            assert world.takes(grammar, text) == (is_known or is_text), (text, choice)
