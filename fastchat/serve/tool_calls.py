"""Tool calls found in an answer as it comes, in the format that the model writes."""

import random
import string
from collections.abc import Callable, Mapping
from typing import Any

from fastchat.families.formats import ToolFormat
from fastchat.protocol.chat_pieces import CallPiece, TextPiece
from fastchat.serve.call_reader import CallReader, new_reader, opening
from fastchat.serve.call_scanner import CallScanner
from fastchat.serve.reasoning import held_from

_BETWEEN_CALLS = " \n\r\t,;[]"
_ALPHABET = string.ascii_letters + string.digits

Piece = TextPiece | CallPiece


class CallParser:
    """Splits a growing answer into text and calls.

    A call's name goes out when it is known, its arguments letter by letter as they come. No
    part of a mark ever stands in the text; what looked like a call and is none is text again,
    so nothing is lost. However the answer is cut into pieces, what comes out in all is the same.
    """

    def __init__(
        self,
        form: ToolFormat,
        tools: Mapping[str, Any],
        *,
        is_single: bool = False,
        may_be_bare: bool = True,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        """
        Args:
            form: how the model writes calls.
            tools: their parameters' schemas by name; a call without a mark must name one.
            is_single: calls after the first are left out.
            may_be_bare: a call without a mark is one, in formats that have such calls.
            new_id: makes the ids of the calls.
        """
        self._form = form
        self._tools = tools
        self._is_single = is_single
        self._new_id = new_id or (short_call_id if form.has_short_ids else call_id)
        self._buffer = ""
        """Text that was not decided on."""
        self._seen = ""
        """Text since the mark, for the case that no call follows."""
        self._opening = opening(form)
        self._between = _marks_between(form)
        self._state = self._start if form.may_be_bare and may_be_bare else self._text
        self._is_bare = False
        self._seen_call = False
        """Whether a call has come since the mark."""
        self._reader: CallReader | None = None
        self._is_announced = False
        """Whether the name of the call that is being read is out."""
        self._arguments_begun = False
        self._out: list[Piece] = []
        self.n_calls = 0

    def feed(self, text: str) -> list[Piece]:
        """What is certain now that `text` has come."""
        self._buffer += text
        while self._buffer and self._state():
            pass
        out, self._out = self._out, []
        return out

    def flush(self) -> list[Piece]:
        """What was withheld, once no more will come."""
        self.feed("")
        rest = self._seen + self._buffer
        if self._reader is not None:
            if self._is_announced:
                self._argue(self._reader.rest())
            rest = "" if self._is_announced else self._seen
            self._reader = None
        elif self._state == self._seek and self._seen_call:
            rest = rest.strip(_BETWEEN_CALLS)
            marks = (self._form.end, self._form.call_begin, *self._between)
            rest = "" if any(mark.startswith(rest) for mark in marks) else rest
        if not self.n_calls or rest.strip():
            self._say(rest)
        self._buffer = self._seen = ""
        out, self._out = self._out, []
        return out

    # Each state takes something off the buffer and gives True, or False to wait for more.

    def _start(self) -> bool:
        """The very beginning of an answer that may be a call without a mark."""
        body = self._buffer.lstrip()
        if not body:
            return False
        self._state = self._text
        if body[0] in "{[":
            self._seen = self._buffer[: len(self._buffer) - len(body)]
            self._buffer = body
            self._is_bare, self._seen_call = True, False
            self._state = self._seek
        return True

    def _text(self) -> bool:
        begin = self._form.begin
        if not begin:
            self._say(self._buffer)
            self._buffer = ""
            return False
        place = self._buffer.find(begin)
        if place < 0:
            place = held_from(self._buffer, begin)
            self._say(self._buffer[:place])
            self._buffer = self._buffer[place:]
            return False
        said = self._buffer[:place].rstrip()
        self._say(said)
        self._seen = self._buffer[len(said) : place + len(begin)]
        self._buffer = self._buffer[place + len(begin) :]
        self._is_bare, self._seen_call = False, False
        self._state = self._seek
        return True

    def _seek(self) -> bool:
        """Before, between or after the calls of one pair of marks."""
        letter, end = self._buffer[0], self._form.end
        if self._seen_call:
            for mark in (end, *self._between):
                if mark and mark.startswith(self._buffer[: len(mark)]):
                    return self._pass_over(mark)
        if letter in _BETWEEN_CALLS:
            self._seen += letter
            self._buffer = self._buffer[1:]
            return True
        begin = self._opening
        if not begin.startswith(self._buffer[: len(begin)]):
            return self._give_up()
        if len(self._buffer) < len(begin):
            return False
        self._reader = new_reader(self._form, self._tools, letter)
        self._arguments_begun = self._is_announced = False
        self._state = self._call
        return True

    def _pass_over(self, mark: str) -> bool:
        """A mark after a call; that of the end gives the text back its turn."""
        if len(self._buffer) < len(mark):
            return False
        self._buffer, self._seen = self._buffer[len(mark) :], ""
        if mark == self._form.end:
            self._state = self._text
        return True

    def _call(self) -> bool:
        """Within a call."""
        reader = self._reader
        assert reader is not None
        n = reader.feed(self._buffer)
        taken, self._buffer = self._buffer[:n], self._buffer[n:]
        if not self._is_announced:
            self._seen += taken
        if not self._is_announced and reader.name is not None:
            if self._is_bare and reader.name not in self._tools:
                return self._give_up()
            self._announce(reader.name, reader.id)
        if self._is_announced and (fresh := reader.take()):
            self._arguments_begun = True
            self._argue(fresh)
        if reader.is_broken or (reader.is_done and not self._is_announced):
            return self._give_up()
        if reader.is_done:
            if not self._arguments_begun:
                self._argue("{}")
            self._end_call()
        return True

    def _announce(self, name: str, id: str | None) -> None:
        self._is_announced = True
        self._seen = ""
        self.n_calls += 1
        if not (self._is_single and self.n_calls > 1):
            self._out.append(CallPiece(self.n_calls - 1, id or self._new_id(), name))

    def _argue(self, text: str) -> None:
        if text and not (self._is_single and self.n_calls > 1):
            self._out.append(CallPiece(self.n_calls - 1, arguments=text))

    def _end_call(self) -> None:
        may_go_on = isinstance(self._reader, CallScanner) or self._form.end
        self._reader, self._seen, self._seen_call = None, "", True
        self._state = self._seek if may_go_on else self._text

    def _give_up(self) -> bool:
        """It was no call: all since the mark is text, if no call was announced since."""
        self._say(self._seen)
        self._seen, self._reader = "", None
        self._state = self._text
        return True

    def _say(self, text: str) -> None:
        if text:
            self._out.append(TextPiece(text))


def _marks_between(form: ToolFormat) -> tuple[str, ...]:
    """What may stand after the arguments of a named call: all of its end, or a part."""
    if form.shape != "named" or not form.call_end:
        return ()
    whole = form.call_end.strip()
    fence, bracket, mark = whole.rpartition("<")
    return (whole, bracket + mark, fence) if fence else (whole,)


def call_id() -> str:
    """`call_…`, unlike all others; no secret."""
    return f"call_{random.getrandbits(96):024x}"


def short_call_id() -> str:
    """Nine letters and digits, which Mistral's templates demand."""
    return "".join(random.choices(_ALPHABET, k=9))
