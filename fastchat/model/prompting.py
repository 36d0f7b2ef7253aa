"""How conversations become the text and the ids a model reads.

Five sources of a prompt format, the first that is there wins: the template named by the
operator, a chat template file, the tokenizer's own chat template, the family's template, and
one that suits a model of which nothing is known.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastchat.errors import UsageError
from fastchat.families.registry import Recognition, Registry
from fastchat.message import Message
from fastchat.template import Template

if TYPE_CHECKING:
    from fastchat.model.load import ModelSettings

logger = logging.getLogger(__name__)

SAMPLE = (
    Message(role="user", text="Hello!"),
    Message(role="assistant", text="Hi."),
    Message(role="user", text="How are you?"),
)
"""A conversation that every chat template can write, for comparing two of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompting:
    """The prompt format of one loaded model."""

    name: str
    """A template's name, a file's name, or `tokenizer`."""
    render: Callable[[Sequence[Message]], str]
    """The text of a conversation, with the slot for the answer open."""
    template: Template | None
    """The template, where the format is one of ours; its stops apply then."""
    lead: str = ""
    """Blanks that the format writes between the slot and an answer; no part of the answer."""

    @property
    def writes_special_tokens(self) -> bool:
        """Whether the rendered text already holds every special token it should."""
        return self.template is None


def choose_prompting(
    settings: ModelSettings, tokenizer: Any, recognition: Recognition, known: Registry
) -> Prompting:
    """The prompt format of a model, with one line in the log that says which and why.

    Raises UsageError when a named template or file is not there or does not work.
    """
    own = getattr(tokenizer, "chat_template", None)
    if settings.conv_template:
        chosen = from_template(known.template(settings.conv_template))
        logger.info("prompt format: %s (--conv-template)", chosen.name)
        return chosen
    if settings.chat_template:
        path = Path(settings.chat_template)
        chosen = from_jinja(tokenizer, _read_template(path), name=path.name)
        try:
            chosen.render(SAMPLE)
        except UsageError as error:
            raise UsageError(f"--chat-template {path.name!r}: {error.message}") from error
        logger.info("prompt format: %s (--chat-template)", chosen.name)
        return chosen
    family = from_template(known.template(recognition.serving_template))
    if not own:
        why = recognition.reason if recognition.is_known else "the tokenizer brings none"
        logger.info("prompt format: %s (%s)", family.name, why)
        return family
    chosen = from_jinja(tokenizer, None, name="tokenizer")
    note = ""
    if recognition.is_known and recognition.template and not _agree(chosen, family, tokenizer):
        note = f"; it differs from {family.name} of family {recognition.family.name}"
    logger.info("prompt format: the tokenizer's own chat template%s", note)
    return chosen


def from_template(template: Template) -> Prompting:
    """The format of one of our templates."""

    def render(messages: Sequence[Message]) -> str:
        return template.prompt(messages, now=datetime.now())

    lead = template.assistant[0].removeprefix(template.open)
    is_blank = template.layout != "joined" and not lead.strip()
    return Prompting(
        name=template.name, render=render, template=template, lead=lead if is_blank else ""
    )


def from_jinja(tokenizer: Any, source: str | None, *, name: str) -> Prompting:
    """The format of a Jinja chat template; without a source, of the tokenizer's own.

    It runs in transformers' sandbox, which lets it neither reach Python's insides nor loop
    without end over a range.
    """

    def render(messages: Sequence[Message], is_open: bool = True) -> str:
        from jinja2 import TemplateError

        turns = [{"role": message.role, "content": message.text} for message in messages]
        try:
            return tokenizer.apply_chat_template(
                turns, chat_template=source, tokenize=False, add_generation_prompt=is_open
            )
        except (TemplateError, OverflowError, TypeError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(
                f"the model's chat template refuses this conversation: {reason[:200]}",
                param="messages",
            ) from error

    return Prompting(name=name, render=render, template=None, lead=_lead(render))


def _lead(render: Callable[[Sequence[Message], bool], str]) -> str:
    """The blanks that a chat template writes between the open slot and an answer."""
    try:
        asked, answered = render(SAMPLE[:1], True), render(SAMPLE[:2], False)
    except UsageError:
        return ""
    before, answer, _ = answered.removeprefix(asked).partition(SAMPLE[1].text)
    is_blank = answered.startswith(asked) and answer and not before.strip()
    return before if is_blank else ""


def encode(tokenizer: Any, text: str, *, add_special_tokens: bool) -> list[int]:
    """The ids of a prompt: one BOS at most, and no end token that the text does not hold."""
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    if bos and text.startswith(bos):
        add_special_tokens = False
    ids = list(tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"])
    # Some tokenizers close every text; a prompt goes on.
    if add_special_tokens and ids[-1:] == [tokenizer.eos_token_id] and not text.endswith(eos):
        ids.pop()
    return ids


def _agree(one: Prompting, other: Prompting, tokenizer: Any) -> bool:
    """Whether two formats write a plain conversation alike, the BOS aside."""
    bos = tokenizer.bos_token or ""
    try:
        texts = [prompting.render(SAMPLE).removeprefix(bos) for prompting in (one, other)]
    except UsageError:
        return False
    return texts[0] == texts[1]


def _read_template(path: Path) -> str:
    """The source of a Jinja chat template."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--chat-template {path.name!r} cannot be read: {error}") from error
