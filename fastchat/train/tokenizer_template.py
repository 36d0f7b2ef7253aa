"""A tokenizer's own chat template (Jinja) as segments, with what is learned marked.

A template may mark replies itself (`{% generation %}`). Where it does not, replies are found by
rendering: what the template writes for the messages before a reply, with the generation prompt,
must be how the whole text begins; what follows up to the end of turn is the reply. A template
for which that is not so is refused, since any mask would be a guess.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastchat.errors import DataError, UsageError
from fastchat.message import Message
from fastchat.template import Segment

PROBE = (
    Message(role="user", text="Which way?"),
    Message(role="assistant", text="To the left, then on."),
    Message(role="user", text="And after that?"),
    Message(role="assistant", text="Over the bridge."),
)


class TokenizerTemplate:
    """Renders messages by a Jinja text.

    Args:
        tokenizer: brings the marks that the text may write.
        jinja: the chat template.
        last_only: only the last reply is learned, so that earlier ones may be rewritten.
    """

    def __init__(self, tokenizer: Any, jinja: str, *, last_only: bool = False) -> None:
        self.jinja = jinja
        self.last_only = last_only
        self.named: Mapping[str, Any] = {
            name: text
            for name, text in tokenizer.special_tokens_map.items()
            if isinstance(text, str)
        }
        specials = {
            token.content
            for token in tokenizer.added_tokens_decoder.values()
            if token.special and token.content
        }
        self.specials = sorted(specials, key=len, reverse=True)
        ids = tokenizer("a")["input_ids"]
        adds_bos = tokenizer.bos_token is not None and ids[:1] == [tokenizer.bos_token_id]
        self.bos: str = str(tokenizer.bos_token) if adds_bos else ""
        self._check()

    def render(self, messages: Sequence[Message]) -> list[Segment]:
        """The segments of a conversation that ends with a reply.

        Raises:
            DataError: the template refuses the messages, or hides what it makes of a reply.
        """
        text, spans = self._render(messages)
        if spans and len(spans) == sum(message.role == "assistant" for message in messages):
            spans = [self._with_end_mark(text, span) for span in spans]
            if self.last_only:
                spans = spans[-1:]
        elif spans:
            raise DataError("the chat template marks another number of replies than there are")
        else:
            spans = self._spans(messages, text)
        # The tokenizer writes its first mark itself. Left to it, a Llama tokenizer treats the
        # first word as it does with a template of ours.
        n_cut = len(self.bos) if self.bos and text.startswith(self.bos) else 0
        segments: list[Segment] = []
        done = n_cut
        for start, end in spans:
            segments.append(Segment(text[done:start], "user", False))
            segments.append(Segment(text[start:end], "assistant", True))
            done = end
        segments.append(Segment(text[done:], "assistant", False))
        return [segment for segment in segments if segment.text]

    def _render(
        self, messages: Sequence[Message], *, prompt: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text, and where its replies stand if the template says so."""
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        conversation = [{"role": message.role, "content": message.text} for message in messages]
        marks = not prompt and re.search(r"\{%-?\s*generation\s*-?%\}", self.jinja) is not None
        try:
            [text], spans = render_jinja_template(
                [conversation],
                chat_template=self.jinja,
                return_assistant_tokens_mask=marks,
                add_generation_prompt=prompt,
                **self.named,
            )
        except (TemplateError, TypeError) as error:
            raise DataError(f"the chat template refuses the messages: {error}") from error
        return text, [(int(start), int(end)) for found in spans for start, end in found]

    def _spans(self, messages: Sequence[Message], text: str) -> list[tuple[int, int]]:
        """Where the replies stand in the text, found by rendering what comes before each."""
        replies = [i for i, message in enumerate(messages) if message.role == "assistant"]
        spans: list[tuple[int, int]] = []
        for i in replies[-1:] if self.last_only else replies:
            before, _ = self._render(messages[:i], prompt=True)
            upto = text if i + 1 == len(messages) else self._render(messages[: i + 1])[0]
            if not text.startswith(before) or not text.startswith(upto):
                raise DataError(
                    "the chat template writes earlier messages otherwise once others follow"
                )
            reply = messages[i].text.strip()
            place = text.find(reply, len(before), len(upto))
            if place < 0:
                raise DataError("the chat template changes what a reply says")
            end = self._end_of_turn(text, place + len(reply), len(upto))
            spans.append((len(before), end))
        return spans

    def _end_of_turn(self, text: str, start: int, end: int) -> int:
        """The end of the first special after a reply, else the end of what belongs to it."""
        found = [
            (place, -len(special))
            for special in self.specials
            if (place := text.find(special, start, end)) >= 0
        ]
        if not found:
            return end
        place, minus_length = min(found)
        return place - minus_length

    def _with_end_mark(self, text: str, span: tuple[int, int]) -> tuple[int, int]:
        """The span with the end mark that a template left outside of its block."""
        start, end = span
        inside = text[start:end].rstrip()
        if any(inside.endswith(special) for special in self.specials):
            return span
        for special in self.specials:
            if text.startswith(special, end):
                return start, end + len(special)
        return span

    def _check(self) -> None:
        """Refuses a template whose replies cannot be told from the rest."""
        try:
            segments = self.render(PROBE)
        except DataError as error:
            remedy = (
                ""
                if self.last_only
                else " Mark replies in it with {% generation %}, learn only last replies with "
                "--loss_on last_reply or each_reply, or name a template with --conv_template."
            )
            raise UsageError(f"--chat_template: {error.message}.{remedy}") from error
        learned = [segment.text for segment in segments if segment.learned]
        wanted = [m.text for m in PROBE if m.role == "assistant"][-1 if self.last_only else 0 :]
        if len(learned) != len(wanted) or any(
            text not in reply for text, reply in zip(wanted, learned, strict=True)
        ):
            raise UsageError(
                "--chat_template: the replies of the template cannot be told from the rest; "
                "mark them in it with {% generation %}."
            )


def read_chat_template(asked: str, tokenizer: Any) -> str:
    """The Jinja text that `--chat_template` names: `auto` for the tokenizer's own, or a file."""
    if asked != "auto":
        try:
            return Path(asked).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--chat_template {asked} cannot be read: {error}") from None
    own = tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("default")
    if not isinstance(own, str):
        raise UsageError(
            "--chat_template auto: this tokenizer brings no chat template; name a file, or a "
            "template of ours with --conv_template."
        )
    return own
