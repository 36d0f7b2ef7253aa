"""Reasoning split off an answer as it comes: what stands between a model's own marks."""

from fastchat.families.formats import ReasoningFormat


class ReasoningSplitter:
    """Tells what of a growing answer was thought, and what is the answer itself.

    Only a mark at the very beginning opens the reasoning; blanks around the marks belong to
    neither part. However the text is cut into pieces, each part is the same in all.
    """

    def __init__(self, form: ReasoningFormat) -> None:
        self._open = form.open
        self._close = form.close
        self._held = ""
        self._state = "start"

    @property
    def is_thinking(self) -> bool:
        return self._state in ("first thought", "thought")

    @property
    def is_answering(self) -> bool:
        return self._state in ("first word", "answer")

    def feed(self, text: str) -> tuple[str, str]:
        """The new text of the reasoning, and of the answer."""
        text, self._held = self._held + text, ""
        if self._state == "start":
            body = text.lstrip()
            if len(body) < len(self._open) and self._open.startswith(body):
                self._held = text
                return "", ""
            if not body.startswith(self._open):
                self._state = "answer"
                return "", text
            text, self._state = body[len(self._open) :], "first thought"
        if self._state == "first thought":
            text = text.lstrip()
            self._state = "thought" if text else self._state
        if self._state in ("first thought", "thought"):
            thought, mark, text = text.partition(self._close)
            if not mark:
                place = held_from(thought, self._close)
                self._held = thought[place:]
                return thought[:place], ""
            self._state = "first word"
            return thought.rstrip(), self._begun(text)
        return "", self._begun(text) if self._state == "first word" else text

    def flush(self) -> tuple[str, str]:
        """What was withheld, once no more will come."""
        text, self._held = self._held, ""
        return ("", text) if self._state == "start" else (text.rstrip(), "")

    def _begun(self, text: str) -> str:
        """The answer without the blanks at its beginning."""
        text = text.lstrip()
        self._state = "answer" if text else self._state
        return text


class ThoughtCount:
    """How many tokens of a growing answer are its reasoning, the marks around it among them."""

    def __init__(self, form: ReasoningFormat) -> None:
        self._splitter = ReasoningSplitter(form)
        self._n_undecided = 0
        self._has_thought = False

    def feed(self, text: str, n_tokens: int) -> int:
        """Tokens that are known to be reasoning now that a piece of so many tokens has come."""
        if self._splitter.is_answering:
            return 0
        self._n_undecided += n_tokens
        thought, _ = self._splitter.feed(text)
        self._has_thought |= self._splitter.is_thinking or bool(thought)
        if not self._has_thought:
            return 0
        found, self._n_undecided = self._n_undecided, 0
        return found


def held_from(text: str, mark: str) -> int:
    """Where the tail begins that may become `mark`, or the blanks before it; else the length."""
    place = len(text)
    for size in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:size]):
            place = len(text) - size
            break
    return len(text[:place].rstrip())
