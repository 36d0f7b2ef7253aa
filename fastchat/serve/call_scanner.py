"""One tool call as an object of JSON, read letter by letter while it is still being written."""

import json
from enum import Enum, auto

ARGUMENTS = frozenset({"arguments", "parameters"})


class _At(Enum):
    KEY = auto()
    COLON = auto()
    VALUE = auto()


class CallScanner:
    """Reads `{"name": ..., "arguments": {...}}`, its keys in any order, more keys among them.

    After each `feed`, `name` is there once it is known, and `take` gives what of the arguments
    is new: their own text, unchanged.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.id: str | None = None
        """Always None: ids of such calls are not looked at."""
        self.is_done = False
        """The object has ended."""
        self.is_broken = False
        """It is no JSON."""
        self._fresh: list[str] = []
        """The arguments' text that was not taken yet."""
        self._depth = 0
        self._at = _At.KEY
        self._key: str | None = None
        self._value: list[str] = []
        """Text of the value, or of the key, that is being read."""
        self._in_string = False
        self._is_escaped = False

    def feed(self, text: str) -> int:
        """Reads on; gives how many letters belong to the object."""
        for i, letter in enumerate(text):
            self._step(letter)
            if self.is_done or self.is_broken:
                return i + 1
        return len(text)

    def take(self) -> str:
        """The new text of the arguments."""
        text = "".join(self._fresh)
        self._fresh.clear()
        return text

    def rest(self) -> str:
        """Nothing: arguments go out as they come."""
        return ""

    def _step(self, letter: str) -> None:
        if self._in_string:
            self._keep(letter)
            if self._is_escaped:
                self._is_escaped = False
            elif letter == "\\":
                self._is_escaped = True
            elif letter == '"':
                self._in_string = False
                if self._depth == 1:
                    self._end_string()
            return
        if self._depth == 0:
            self._depth = 1
            self.is_broken = letter != "{"
        elif self._at is _At.VALUE:
            self._step_in_value(letter)
        elif letter == "}" and self._at is _At.KEY and self._key is None:
            self.is_done = True
        elif letter == ":" and self._at is _At.COLON:
            self._at = _At.VALUE
        elif letter == '"' and self._at is _At.KEY:
            self._in_string = True
            self._keep(letter)
        elif not letter.isspace() and not (letter == "," and self._at is _At.KEY):
            self.is_broken = True

    def _step_in_value(self, letter: str) -> None:
        if self._depth == 1 and letter in ",}":
            self._end_value()
            self.is_done = letter == "}"
            return
        if letter in "{[":
            self._depth += 1
        elif letter in "}]":
            self._depth -= 1
            if self._depth < 1:
                self.is_broken = True
                return
        elif letter == '"':
            self._in_string = True
        if self._depth > 1 or not letter.isspace():
            self._keep(letter)

    def _keep(self, letter: str) -> None:
        """One more letter of the key or value; those of an arguments object go out at once."""
        self._value.append(letter)
        if self._at is _At.VALUE and self._key in ARGUMENTS and self._value[0] == "{":
            self._fresh.append(letter)

    def _end_string(self) -> None:
        """A key, or a value that is a text, is whole; a name is known before its object ends."""
        if self._at is _At.KEY:
            self._end_key()
        elif self._key == "name" and self.name is None:
            self.name = _parsed("".join(self._value))
            self.is_broken = self.name is None

    def _end_key(self) -> None:
        self._key = _parsed("".join(self._value))
        self._value.clear()
        self._at = _At.COLON
        self.is_broken = self._key is None

    def _end_value(self) -> None:
        text = "".join(self._value)
        if self._key == "name" and self.name is None:
            self.is_broken = True
        elif self._key in ARGUMENTS and not text.startswith("{"):
            # Some models write the object as a text.
            self._fresh.append(_parsed(text) or "{}")
        self._value.clear()
        self._key = None
        self._at = _At.KEY


def _parsed(text: str) -> str | None:
    """The text that a JSON string holds."""
    try:
        value = json.loads(text, strict=False)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
