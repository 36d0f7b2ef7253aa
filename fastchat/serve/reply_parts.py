"""An answer's parts as they come: what was thought, what is said, which tools are called."""

from collections.abc import Callable

from fastchat.engine.base import EngineInfo
from fastchat.protocol.chat_pieces import ReasoningPiece, TextPiece
from fastchat.protocol.openai_api import ChatRequest
from fastchat.protocol.openai_replies import Part
from fastchat.serve.reasoning import ReasoningSplitter
from fastchat.serve.tool_calls import CallParser

__all__ = ["Part", "ReplyParser", "parser_maker"]


class ReplyParser:
    """Splits one growing answer; either splitter may be missing."""

    def __init__(self, reasoning: ReasoningSplitter | None, calls: CallParser | None) -> None:
        self._reasoning = reasoning
        self._calls = calls

    @property
    def n_calls(self) -> int:
        return self._calls.n_calls if self._calls is not None else 0

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
        return parts + (self._calls.flush() if is_last else [])


def parser_maker(body: ChatRequest, info: EngineInfo) -> Callable[[], ReplyParser] | None:
    """Makes the parser of each choice; None where an answer is plain text."""
    reasoning = info.reasoning if body.raw_prompt is None else None
    names = [tool.name for tool in body.tools] if body.tool_choice.mode != "none" else []
    if reasoning is None and not names:
        return None
    is_single = not body.parallel_tool_calls or body.tool_choice.mode == "named"

    def make() -> ReplyParser:
        splitter = ReasoningSplitter(reasoning) if reasoning is not None else None
        calls = CallParser(info.tool_format, names, is_single=is_single) if names else None
        return ReplyParser(splitter, calls)

    return make
