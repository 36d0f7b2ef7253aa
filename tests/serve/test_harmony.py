"""Answers in harmony, cut into pieces in every way."""

import json

import pytest

from fastchat.families.formats import reasoning_formats, tool_formats
from fastchat.protocol.chat_pieces import CallPiece, ReasoningPiece, TextPiece
from fastchat.serve.harmony import HarmonyReply
from fastchat.serve.reasoning import ThoughtCount
from tests.serve.test_tool_calls import cuts_of, soups

THINK = "<|channel|>analysis<|message|>hm, 1 < 2<|end|>"
CALL = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>"
AGAIN = "<|start|>assistant"
FINAL = "<|channel|>final<|message|>"


def parsed(text: str, *, is_single: bool = False, is_inside: bool = False) -> list[object]:
    """Thoughts, words and calls, which are the same however the text is cut."""
    found = {
        json.dumps(_parsed(text, cuts, is_single=is_single, is_inside=is_inside))
        for cuts in cuts_of(text)
    }
    assert len(found) == 1, found
    return json.loads(found.pop())


def _parsed(text: str, cuts: list[int], *, is_single: bool, is_inside: bool) -> list[object]:
    reply = HarmonyReply(("f", "g"), is_single=is_single, is_inside=is_inside)
    pieces = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        pieces += reply.feed(text[start:end])
    pieces += reply.feed("", is_last=True)
    thought = "".join(p.text for p in pieces if isinstance(p, ReasoningPiece))
    said = "".join(p.text for p in pieces if isinstance(p, TextPiece))
    calls: list[list[str]] = []
    for piece in pieces:
        if isinstance(piece, CallPiece):
            if piece.name is not None:
                assert piece.id and piece.index == len(calls)
                calls.append([piece.name, ""])
            calls[piece.index][1] += piece.arguments
    return [thought, said, calls]


@pytest.mark.parametrize(
    ("text", "thought", "said", "calls"),
    [
        (f"{THINK}{AGAIN}{FINAL}Rome.", "hm, 1 < 2", "Rome.", []),
        (f"{FINAL}Rome.<|return|>", "", "Rome.", []),
        (f"{THINK}{AGAIN}{CALL}" + '{"a": 1}<|call|>', "hm, 1 < 2", "", [["f", '{"a": 1}']]),
        (
            " to=functions.g<|channel|>commentary json<|message|>{}",
            "",
            "",
            [["g", "{}"]],
        ),
        (
            f"{THINK}{AGAIN}<|channel|>commentary<|message|>I look.<|end|>{AGAIN}{CALL}",
            "hm, 1 < 2",
            "I look.",
            [["f", "{}"]],
        ),
        (
            f"{CALL}" + '{"x": "<b>"}<|call|>' + f"{AGAIN}{CALL}" + "{}<|call|>",
            "",
            "",
            [["f", '{"x": "<b>"}'], ["f", "{}"]],
        ),
        (f"{THINK}\n{AGAIN}{THINK}{AGAIN}{FINAL}a", "hm, 1 < 2\nhm, 1 < 2", "a", []),
        (f"{FINAL}a<|end|>{AGAIN}{FINAL}b", "", "a\nb", []),
        ("<|channel|>analysis to=python<|message|>1+1<|call|>", "1+1", "", []),
        ("<|channel|>commentary to=functions.no<|message|>{}<|call|>", "", "{}", []),
        ("<|channel|>analysis<|message|>cut <|e", "cut <|e", "", []),
        ("<|channel|>analysis<|mess", "", "", []),
        ("plain words", "", "plain words", []),
        ("to be or", "", "to be or", []),
        ("to=5", "", "to=5", []),
        ("<b>", "", "<b>", []),
        ("", "", "", []),
    ],
)
def test_messages_go_to_those_they_are_for(
    text: str, thought: str, said: str, calls: list[object]
) -> None:
    assert parsed(text) == [thought, said, calls]


def test_any_split_of_any_text_gives_the_same() -> None:
    for text, ways in soups(tool_formats()["harmony"]):
        found = {json.dumps(_parsed(text, cuts, is_single=False, is_inside=False)) for cuts in ways}
        assert len(found) == 1, (text, found)


def test_one_call_at_most_where_one_is_asked_for() -> None:
    text = f"{CALL}" + '{"a": 1}<|call|>' + f"{AGAIN}{CALL}" + "{}<|call|>"
    assert parsed(text, is_single=True) == ["", "", [["f", '{"a": 1}']]]


def test_an_answer_that_goes_on_begins_with_words() -> None:
    assert parsed(" more.<|return|>", is_inside=True) == ["", " more.", []]


def test_thoughts_are_counted() -> None:
    count = ThoughtCount(reasoning_formats()["harmony"])
    pieces = ["<|channel|>", "analysis", "<|message|>", "a", "<|end|>", "<|start|>", "assistant"]
    assert sum(count.feed(piece, 1) for piece in pieces) == 5
