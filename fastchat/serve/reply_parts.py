"""An answer's parts as they come: what was thought, what is said, which tools are called."""

from collections.abc import Callable
from typing import Protocol

from fastchat.engine.base import EngineInfo
from fastchat.protocol.chat_pieces import ReasoningPiece, TextPiece
from fastchat.protocol.openai_api import ChatRequest
from fastchat.protocol.openai_replies import Part
from fastchat.serve.harmony import HarmonyReply
from fastchat.serve.reasoning import ReasoningSplitter
from fastchat.serve.tool_calls import CallParser

__all__ = ["MarkedReply", "Part", "ReplyParser", "parser_maker"]


class ReplyParser(Protocol):
    """Splits one growing answer."""

    n_calls: int
    """Calls that were found so far."""

    def feed(self, text: str, *, is_last: bool = False) -> list[Part]:
        """The parts that are certain now that `text` has come; is_last: and no more will."""
        ...


class MarkedReply:
    """An answer with reasoning between marks and then text and calls; either may be missing."""

    def __init__(self, reasoning: ReasoningSplitter | None, calls: CallParser | None) -> None:
        self._reasoning = reasoning
        self._calls = calls
        self.n_calls = 0

    def feed(self, text: str, *, is_last: bool = False) -> list[Part]:
        """The parts that are certain now that `text` has come; is_last: and no more will."""
        thought = ""
        if self._reasoning is not None:
            thought, text = self._reasoning.feed(text)
            if is_last:
                more, rest = self._reasoning.flush()
                thought, text = thought + more, text + rest
        parts: list[Part] = [ReasoningPiece(thought)] if thought else []
        if self._calls is None:
            return parts + ([TextPiece(text)] if text else [])
        parts += self._calls.feed(text)
        if is_last:
            parts += self._calls.flush()
        self.n_calls = self._calls.n_calls
        return parts


def parser_maker(body: ChatRequest, info: EngineInfo) -> Callable[[], ReplyParser] | None:
    """Makes the parser of each choice; None where an answer is plain text."""
    tools = {t.name: t.parameters for t in body.tools} if body.tool_choice.mode != "none" else {}
    is_single = not body.parallel_tool_calls or body.tool_choice.mode == "named"
    goes_on = body.continue_final_message
    if body.raw_prompt is None and info.tool_format.shape == "channels":
        return lambda: HarmonyReply(tools, is_single=is_single, is_inside=goes_on)
    reasoning = info.reasoning if body.raw_prompt is None else None
    if reasoning is None and not tools:
        return None

    def make() -> ReplyParser:
        splitter = ReasoningSplitter(reasoning) if reasoning is not None else None
        calls = None
        if tools:
            form = info.tool_format
            calls = CallParser(form, tools, is_single=is_single, may_be_bare=not goes_on)
        return MarkedReply(splitter, calls)

    return make
