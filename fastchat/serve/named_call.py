"""One tool call as a name and an object of JSON after it, with the format's marks around both."""

from fastchat.families.formats import ToolFormat
from fastchat.serve.call_scanner import CallScanner

LONGEST_NAME = 128


class NamedCall:
    """Reads `call_begin`, a name, `between`, `{...}`; the mark after the object is not its own.

    The mark between may be missing.
    """

    def __init__(self, form: ToolFormat) -> None:
        self._form = form
        self._head = ""
        self._arguments: CallScanner | None = None
        self._fresh = ""
        self.name: str | None = None
        self.id: str | None = None
        self.is_done = False
        self.is_broken = False

    def feed(self, text: str) -> int:
        """Reads on; gives how many letters belong to the call."""
        for i, letter in enumerate(text):
            if self._arguments is not None:
                return i + self._argue(text[i:])
            self._head += letter
            if letter == "{":
                self._begin()
            else:
                longest = len(self._form.call_begin) + len(self._form.between) + LONGEST_NAME
                self.is_broken = len(self._head) > longest
            if self.is_broken:
                return i + 1
        return len(text)

    def take(self) -> str:
        """The new text of the arguments."""
        fresh, self._fresh = self._fresh, ""
        return fresh

    def rest(self) -> str:
        """Nothing: arguments go out as they come."""
        return ""

    def _begin(self) -> None:
        """The head is whole: it says whose arguments come."""
        written = self._head[:-1].removeprefix(self._form.call_begin)
        between = self._form.between.strip()
        if between:
            written, _, gap = written.partition(between)
            self.is_broken = bool(gap.strip())
        written = written.strip()
        self.name = self._named(written)
        self.is_broken |= not self.name or len(self.name.split()) > 1
        if self.is_broken:
            self.name = None
            return
        self._arguments = CallScanner()
        self._argue("{")

    def _named(self, written: str) -> str:
        """The name in what a model wrote as name or id."""
        prefix = self._form.id_prefix
        if not prefix:
            return written
        name, colon, number = written.removeprefix(prefix).rpartition(":")
        if not colon or not number.isdecimal():
            return written.removeprefix(prefix)
        self.id = written
        return name

    def _argue(self, text: str) -> int:
        scanner = self._arguments
        assert scanner is not None
        n = scanner.feed(text)
        self._fresh += text[:n]
        self.is_done, self.is_broken = scanner.is_done, scanner.is_broken
        return n
