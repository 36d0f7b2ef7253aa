"""Answers in harmony taken apart as they come: messages with channels, for readers or for tools."""

from collections.abc import Callable, Collection

from fastchat.protocol.chat_pieces import CallPiece, ReasoningPiece, TextPiece
from fastchat.protocol.openai_replies import Part
from fastchat.serve.tool_calls import call_id

_CHANNEL, _MESSAGE, _START = "<|channel|>", "<|message|>", "<|start|>"
_ENDS = ("<|end|>", "<|return|>", "<|call|>", _START, _CHANNEL, _MESSAGE)
_TO = "to="
_PREFIX = "functions."
_LONGEST_HEAD = 512
_BETWEEN = "\n"
"""Between two messages that become one text."""


class HarmonyReply:
    """Splits one growing answer: `analysis` is thought, a call has a function as its recipient,
    all else is said.

    The first message's head may lack its beginning, which stands in the prompt. What is no
    message at all is text. However the answer is cut, what comes out in all is the same.
    """

    def __init__(
        self,
        names: Collection[str],
        *,
        is_single: bool = False,
        is_inside: bool = False,
        new_id: Callable[[], str] = call_id,
    ) -> None:
        """
        Args:
            names: of the tools; what is said to others is text.
            is_single: calls after the first are left out.
            is_inside: the answer goes on within a message to the reader.
            new_id: makes the ids of the calls.
        """
        self._names = names
        self._is_single = is_single
        self._new_id = new_id
        self._buffer = ""
        """What was not decided on."""
        self._state = self._body if is_inside else self._first
        self._kind: type[Part] = TextPiece
        """What the message that is being read becomes."""
        self._has_said: set[type[Part]] = {TextPiece} if is_inside else set()
        self._is_new = False
        """Whether nothing of the message that is being read is out."""
        self._has_begun = is_inside
        """Whether there has been a message."""
        self._out: list[Part] = []
        self.n_calls = 0

    def feed(self, text: str, *, is_last: bool = False) -> list[Part]:
        """The parts that are certain now that `text` has come; is_last: and no more will."""
        self._buffer += text
        while self._buffer and self._state():
            pass
        if is_last:
            self._flush()
        out, self._out = self._out, []
        return out

    # Each state takes something off the buffer and gives True, or False to wait for more.

    def _first(self) -> bool:
        """The very beginning, which is a head or no harmony at all."""
        text = self._buffer.lstrip()
        beginnings = (_CHANNEL, _START, _MESSAGE, _TO)
        if any(mark.startswith(text[: len(mark)]) for mark in beginnings):
            if not any(text.startswith(mark) for mark in beginnings):
                return False
            self._state = self._head
        else:
            self._begin("final", "")
        return True

    def _head(self) -> bool:
        """From the start of a message to its text: role, channel and recipient."""
        head, mark, rest = self._buffer.partition(_MESSAGE)
        if not mark:
            if len(head) > _LONGEST_HEAD:
                self._begin("final", "")
                return True
            return False
        self._buffer = rest
        before, _, after = head.rpartition(_CHANNEL)
        words = after.replace("<|constrain|>", " ").split()
        channel = words[0] if words else "final"
        self._begin(channel, _recipient(before) or _recipient(after))
        return True

    def _begin(self, channel: str, recipient: str) -> None:
        """The message that follows, from its head."""
        self._state, self._is_new, self._has_begun = self._body, True, True
        name = recipient.removeprefix(_PREFIX)
        if name and name in self._names:
            self._kind = CallPiece
            self.n_calls += 1
            if self._is_told:
                self._out.append(CallPiece(self.n_calls - 1, self._new_id(), name))
        else:
            self._kind = ReasoningPiece if channel == "analysis" else TextPiece

    def _body(self) -> bool:
        """The text of a message."""
        found = [(place, mark) for mark in _ENDS if (place := self._buffer.find(mark)) >= 0]
        if not found:
            place = _held_from(self._buffer)
            self._say(self._buffer[:place])
            self._buffer = self._buffer[place:]
            return False
        place, mark = min(found)
        self._say(self._buffer[:place])
        self._end_message()
        # A mark of the next head belongs to it.
        is_head = mark in (_START, _CHANNEL, _MESSAGE)
        self._buffer = self._buffer[place if is_head else place + len(mark) :]
        self._state = self._head if is_head else self._next
        return True

    def _next(self) -> bool:
        """After a message: the next one's start, before which blanks are nothing."""
        self._buffer = self._buffer.lstrip()
        if self._buffer.startswith((_START, _CHANNEL)):
            self._state = self._head
            return True
        if any(mark.startswith(self._buffer) for mark in (_START, _CHANNEL)):
            return False
        self._begin("final", "")
        return True

    @property
    def _is_told(self) -> bool:
        """Whether the call that is being read goes out."""
        return self.n_calls == 1 or not self._is_single

    def _say(self, text: str) -> None:
        if not text:
            return
        if self._kind is CallPiece:
            if self._is_told:
                self._out.append(CallPiece(self.n_calls - 1, arguments=text))
        else:
            gap = _BETWEEN if self._is_new and self._kind in self._has_said else ""
            piece = ReasoningPiece if self._kind is ReasoningPiece else TextPiece
            self._out.append(piece(gap + text))
        self._has_said.add(self._kind)
        self._is_new = False

    def _end_message(self) -> None:
        """A call without arguments has an empty object."""
        if self._kind is CallPiece and self._is_new and self._is_told:
            self._out.append(CallPiece(self.n_calls - 1, arguments="{}"))
        self._is_new = False

    def _flush(self) -> None:
        """What was withheld; a head that was cut is nothing."""
        text, self._buffer = self._buffer, ""
        if self._state == self._body:
            self._say(text)
            self._end_message()
        elif not self._has_begun and not text.lstrip().startswith("<|"):
            self._kind = TextPiece
            self._say(text)


def _recipient(text: str) -> str:
    """Whom a part of a head names as its recipient."""
    _, to, rest = text.partition(_TO)
    words = rest.replace("<", " <").split()
    return words[0] if to and words else ""


def _held_from(text: str) -> int:
    """Where the tail begins that may become one of the marks."""
    bracket = text.rfind("<")
    if bracket < 0 or not any(mark.startswith(text[bracket:]) for mark in _ENDS):
        return len(text)
    return bracket
