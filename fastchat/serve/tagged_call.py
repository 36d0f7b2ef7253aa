"""One tool call as tags around a name, around the names of arguments, and around plain values."""

from collections.abc import Mapping
from typing import Any

from fastchat.families.formats import ToolFormat
from fastchat.serve.named_call import LONGEST_NAME
from fastchat.serve.parameter_types import ALL, is_text, json_of, kinds_of, quoted

_LONGEST_KEY = 512


class TaggedCall:
    """Reads a call of one of the tools, and makes an object of JSON of its arguments.

    Texts go out as they come, other values when they are whole. Blanks between tags are
    skipped, and the line break that a format writes around a value is none of it.
    """

    def __init__(self, form: ToolFormat, tools: Mapping[str, Any]) -> None:
        """
        Args:
            form: the tags.
            tools: the parameters' schemas of all tools by name.
        """
        self._form = form
        self._tools = tools
        self._value_end = form.value_end.strip()
        self._buffer = ""
        """What was not decided on."""
        self._fresh = ""
        self._n_arguments = 0
        self._kinds = ALL
        """What the value that is being read may be."""
        self._has_begun = False
        """Whether something of that value is out."""
        self._state = self._name
        self.name: str | None = None
        self.id: str | None = None
        self.is_done = False
        self.is_broken = False

    def feed(self, text: str) -> int:
        """Reads on; gives how many letters belong to the call."""
        for i, letter in enumerate(text):
            self._buffer += letter
            self._state()
            if self.is_done or self.is_broken:
                return i + 1
        return len(text)

    def take(self) -> str:
        """The new JSON of the arguments."""
        fresh, self._fresh = self._fresh, ""
        return fresh

    def rest(self) -> str:
        """What of a value was withheld when the answer was cut."""
        if self._state != self._value or self.is_done:
            return ""
        return self._as_text(self._buffer) if is_text(self._kinds) else self._buffer

    # Each state looks at the buffer, to which one letter has come.

    def _name(self) -> None:
        """The first tag, the name, and what follows it."""
        form, head = self._form, self._buffer
        if not head.startswith(form.call_begin):
            self.is_broken = not form.call_begin.startswith(head)
            return
        written = head[len(form.call_begin) :]
        if form.between:
            name, between, _ = written.partition(form.between)
            has_ended = bool(between)
        else:
            # Where no mark ends it, a blank or the next tag does.
            name = written.split("<")[0].split("\n")[0]
            has_ended = len(name) < len(written)
        if not has_ended:
            self.is_broken = len(written) > LONGEST_NAME
            return
        if (name := name.strip()) not in self._tools:
            self.is_broken = True
            return
        self.name = name
        self._buffer = "" if form.between else written[written.index(name) + len(name) :]
        self._state = self._key
        self._key()

    def _key(self) -> None:
        """Between two arguments: the next one's name, or the end of the call, or of all calls."""
        form = self._form
        self._buffer = tag = self._buffer.lstrip()
        ends = (form.call_end, form.end) if form.end else (form.call_end,)
        if tag.startswith(form.key_begin):
            if tag.endswith(form.key_end):
                self._open(tag[len(form.key_begin) : -len(form.key_end)].strip())
            self.is_broken = len(tag) > _LONGEST_KEY
        elif tag in ends:
            self._fresh += "}" if self._n_arguments else "{}"
            self.is_done = True
        else:
            self.is_broken = not any(mark.startswith(tag) for mark in (form.key_begin, *ends))

    def _open(self, key: str) -> None:
        """The name of an argument is whole."""
        assert self.name is not None
        schema = self._tools[self.name]
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        own = properties.get(key) if isinstance(properties, Mapping) else None
        self._kinds = ALL if own is None else kinds_of(own, schema)
        self._fresh += f"{', ' if self._n_arguments else '{'}{quoted(key)}: "
        self._n_arguments += 1
        self._buffer = ""
        self._state = self._value_start

    def _value_start(self) -> None:
        """Before a value: its tag, or the line break that belongs to the tag."""
        form = self._form
        mark = form.value_begin.strip()
        if not mark:
            self._start_value()
            if self._has_break and self._buffer == "\n":
                self._buffer = ""
            else:
                self._value()
            return
        self._buffer = text = self._buffer.lstrip()
        if text == mark:
            self._buffer = ""
            self._start_value()
        else:
            self.is_broken = not mark.startswith(text)

    def _start_value(self) -> None:
        self._has_begun = False
        self._state = self._value

    def _value(self) -> None:
        if self._buffer.endswith(self._value_end):
            value = self._buffer[: -len(self._value_end)]
            value = value[:-1] if self._has_break and value.endswith("\n") else value
            if is_text(self._kinds):
                self._fresh += self._as_text(value) + '"'
            else:
                self._fresh += json_of(value, self._kinds)
            self._buffer = ""
            self._state = self._key
        elif is_text(self._kinds):
            place = self._held_from(self._buffer)
            self._fresh += self._as_text(self._buffer[:place])
            self._buffer = self._buffer[place:]

    @property
    def _has_break(self) -> bool:
        """Whether a value's tags bring line breaks, after the first and before the last."""
        return "\n" in self._form.value_end

    def _held_from(self, text: str) -> int:
        """Where the tail begins that may become the value's end."""
        place = len(text)
        for size in range(min(len(self._value_end) - 1, place), 0, -1):
            if text.endswith(self._value_end[:size]):
                place -= size
                break
        return place - 1 if self._has_break and text[:place].endswith("\n") else place

    def _as_text(self, text: str) -> str:
        """More of a text, as it stands in JSON."""
        quote = "" if self._has_begun else '"'
        self._has_begun = True
        return quote + quoted(text)[1:-1]
