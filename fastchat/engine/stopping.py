"""Stopping: what of a growing text may be sent, and where it ends.

The one place that knows stop strings and stop ids. It is fed pieces of text as they come and
knows nothing of models or tokenizers.
"""

from collections.abc import Iterable


class Stopping:
    """Cuts a text where the first of its stop strings begins, and withholds what may be one.

    However the text is cut into pieces, what comes out in all is the same: everything before
    the earliest beginning of a stop string. While a stop string that begins earlier may still
    be completed, a finished one further on is held back with it.
    """

    def __init__(self, stop: Iterable[str] = (), stop_token_ids: Iterable[int] = ()) -> None:
        self._stop = tuple(dict.fromkeys(s for s in stop if s))
        self._stop_token_ids = frozenset(stop_token_ids)
        self._first = frozenset(s[0] for s in self._stop)
        self._reach = max((len(s) for s in self._stop), default=1) - 1
        self._held = ""
        self.ended = False
        """Whether a stop string or id has come; nothing fed afterwards is looked at."""
        self.matched: str | None = None
        """The stop string that ended the text."""

    @property
    def held(self) -> str:
        """The tail that is withheld: it begins like a stop string."""
        return self._held

    def ends_at(self, token_id: int) -> bool:
        """Whether this token ends the text. Its own text must then not be fed; call `flush`."""
        if token_id in self._stop_token_ids:
            self.ended = True
        return self.ended

    def feed(self, text: str) -> str:
        """The text that is safe to send now that `text` has come."""
        if self.ended or not self._stop:
            return "" if self.ended else text
        text = self._held + text
        match = self._first_match(text)
        partial = self._first_partial(text)
        if match <= partial and match < len(text):
            self._end_at(text, match)
            self._held = ""
            return text[:match]
        self._held = text[partial:]
        return text[:partial]

    def flush(self) -> str:
        """The withheld text that turned out harmless, once no more will come."""
        text, self._held = self._held, ""
        match = self._first_match(text)
        if match < len(text):
            self._end_at(text, match)
        return text[:match]

    def _end_at(self, text: str, match: int) -> None:
        self.ended = True
        self.matched = next(s for s in self._stop if text.startswith(s, match))

    def _first_match(self, text: str) -> int:
        """Where the first whole stop string begins, or the length of the text."""
        found = (text.find(s) for s in self._stop)
        return min((i for i in found if i >= 0), default=len(text))

    def _first_partial(self, text: str) -> int:
        """Where the first tail begins that is the start of a stop string, or the length."""
        for i in range(max(0, len(text) - self._reach), len(text)):
            if text[i] in self._first and any(s.startswith(text[i:]) for s in self._stop):
                # A tail that is a whole stop string is a match and not unfinished; one that is
                # also the start of a longer stop string begins at the same place.
                return i
        return len(text)
