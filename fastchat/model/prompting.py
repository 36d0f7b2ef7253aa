"""How conversations become the text and the ids a model reads.

Five sources of a prompt format, the first that is there wins: the template named by the
operator, a chat template file, the tokenizer's own chat template, the family's template, and
one that suits a model of which nothing is known.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fastchat.errors import UsageError
from fastchat.families.formats import (
    PLAIN_JSON,
    ReasoningFormat,
    ToolFormat,
    reasoning_format,
    tool_format,
)
from fastchat.families.registry import Family, Recognition, Registry
from fastchat.message import ChatOptions, Message
from fastchat.model.call_style import CallStyle, call_style
from fastchat.model.prompt_end import lead_of, prompt_of
from fastchat.model.tool_text import plain_messages, told_messages
from fastchat.template import Template, fill_dates

if TYPE_CHECKING:
    from fastchat.model.load import ModelSettings

logger = logging.getLogger(__name__)

SAMPLE = (
    Message(role="user", text="Hello!"),
    Message(role="assistant", text="Hi."),
    Message(role="user", text="How are you?"),
)
"""A conversation that every chat template can write, for comparing two of them."""


OWN_ARGUMENTS = frozenset(
    [
        "conversation",
        "messages",
        "tools",
        "documents",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    ]
)
"""Names that a request's `chat_template_kwargs` may not take."""


_WRONG = (TypeError, ValueError, AttributeError)
"""What a template's own mistakes raise, beside the errors of Jinja, lookups and arithmetic."""


class Render(Protocol):
    """Writes a conversation, with the slot for the answer open."""

    def __call__(
        self, messages: Sequence[Message], options: ChatOptions = ChatOptions()
    ) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompting:
    """The prompt format of one loaded model."""

    name: str
    """A template's name, a file's name, or `tokenizer`."""
    render: Render
    """The text of a conversation, with the slot for the answer open."""
    template: Template | None
    """The template, where the format is one of ours; its stops apply then."""
    lead: str = ""
    """Blanks that the format writes between the slot and an answer; no part of the answer."""
    tools: ToolFormat = PLAIN_JSON
    """How the model writes tool calls."""
    reasoning: ReasoningFormat | None = None
    """How it marks its reasoning, where it declares that."""
    special_ids: Mapping[str, int] = field(default_factory=dict[str, int])
    """Ids of those of the two formats' marks that are special tokens."""
    variables: frozenset[str] = frozenset()
    """Variables that the chat template reads, beside the messages and the tools."""

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
    family = recognition.family
    if settings.conv_template:
        chosen = from_template(known.template(settings.conv_template), family, tokenizer)
        logger.info("prompt format: %s (--conv-template)", chosen.name)
        return chosen
    if settings.chat_template:
        path = Path(settings.chat_template)
        chosen = from_jinja(tokenizer, _read_template(path), name=path.name, family=family)
        try:
            chosen.render(SAMPLE)
        except UsageError as error:
            raise UsageError(f"--chat-template {path.name!r}: {error.message}") from error
        logger.info("prompt format: %s (--chat-template)", chosen.name)
        return chosen
    ours = from_template(known.template(recognition.serving_template), family, tokenizer)
    if not own:
        why = recognition.reason if recognition.is_known else "the tokenizer brings none"
        logger.info("prompt format: %s (%s)", ours.name, why)
        return ours
    chosen = from_jinja(tokenizer, None, name="tokenizer", family=family)
    note = ""
    if recognition.is_known and recognition.template and not _agree(chosen, ours, tokenizer):
        note = f"; it differs from {ours.name} of family {family.name}"
    logger.info("prompt format: the tokenizer's own chat template%s", note)
    return chosen


def from_template(
    template: Template, family: Family | None = None, tokenizer: Any = None
) -> Prompting:
    """The format of one of our templates; tools are told in its system text."""
    tools = tool_format(family.tools if family else None, "")
    reasoning = reasoning_format(family.reasoning if family else None, "")

    def render(messages: Sequence[Message], options: ChatOptions = ChatOptions()) -> str:
        now = datetime.now()
        if options.tools or _has_tool_turns(messages):
            system = fill_dates(template.system_message, now)
            messages = plain_messages(messages, options.tools, tools, system=system)
        return prompt_of(template, messages, slot=options.slot, now=now)

    lead = lead_of(template)
    return Prompting(
        name=template.name,
        render=render,
        template=template,
        lead="" if lead.strip() else lead,
        tools=tools,
        reasoning=reasoning,
        special_ids=_special_ids(tokenizer, tools, reasoning),
    )


def from_jinja(
    tokenizer: Any, source: str | None, *, name: str, family: Family | None = None
) -> Prompting:
    """The format of a Jinja chat template; without a source, of the tokenizer's own.

    It runs in transformers' sandbox, which lets it neither reach Python's insides nor loop
    without end over a range. Tools go to the template where it reads them, and are told in the
    system text where it does not; likewise the calls of earlier answers.
    """
    text = _template_text(tokenizer.chat_template if source is None else source)
    knows_tools = re.search(r"\btools\b", text) is not None
    style = call_style(lambda turns: _applied(tokenizer, turns, chat_template=source))
    knows_calls = knows_tools or style is not None
    tools = tool_format(family.tools if family else None, text if knows_calls else "")
    reasoning = reasoning_format(family.reasoning if family else None, text)
    wants_parts = _wants_parts(tokenizer, source)

    def render(messages: Sequence[Message], options: ChatOptions = ChatOptions()) -> str:
        arguments = _template_arguments(options)
        arguments["add_generation_prompt"] = options.slot == "open"
        arguments["continue_final_message"] = options.slot == "continued"
        if knows_tools:
            arguments["tools"] = list(options.tools) or None
        elif knows_calls:
            messages = told_messages(messages, options.tools, tools)
        elif options.tools or _has_tool_turns(messages):
            messages = plain_messages(messages, options.tools, tools)
        turns = _turns(messages, in_parts=wants_parts, style=style or CallStyle())
        return _applied(tokenizer, turns, chat_template=source, **arguments)

    return Prompting(
        name=name,
        render=render,
        template=None,
        lead=_lead(render),
        tools=tools,
        reasoning=reasoning,
        special_ids=_special_ids(tokenizer, tools, reasoning),
        variables=_variables(text),
    )


def _applied(tokenizer: Any, turns: list[dict[str, Any]], **arguments: Any) -> str:
    """What a chat template makes of a conversation."""
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, **arguments)
    except (TemplateError, ArithmeticError, LookupError, RecursionError, *_WRONG) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"the model's chat template refuses this conversation: {reason[:200]}",
            param="messages",
        ) from error


def _template_arguments(options: ChatOptions) -> dict[str, Any]:
    """A request's own variables for the template."""
    for name in options.template_kwargs:
        if name in OWN_ARGUMENTS or not name.isidentifier():
            raise UsageError(
                f"chat_template_kwargs: {name[:64]!r} is set by the server; leave it out",
                param="chat_template_kwargs",
            )
    return dict(options.template_kwargs)


def _wants_parts(tokenizer: Any, source: str | None) -> bool:
    """Whether a chat template loses what is said, unless it comes in a list of parts."""

    def shows(in_parts: bool) -> bool:
        turns = [_turn(message, in_parts=in_parts) for message in SAMPLE[:1]]
        try:
            return SAMPLE[0].text in _applied(tokenizer, turns, chat_template=source)
        except UsageError:
            return False

    return not shows(False) and shows(True)


def _turns(
    messages: Sequence[Message], *, in_parts: bool, style: CallStyle
) -> list[dict[str, Any]]:
    """Messages as chat templates read them; results carry the name of the tool they are of."""
    names: dict[str | None, str] = {}
    turns: list[dict[str, Any]] = []
    for message in messages:
        names |= {call.id: call.name for call in message.tool_calls}
        turn = _turn(message, in_parts=in_parts)
        if message.tool_calls:
            turn |= style.fields(message)
        if message.role == "tool" and (name := message.name or names.get(message.tool_call_id)):
            turn["name"] = name
        turns.append(turn)
    return turns


def _turn(message: Message, *, in_parts: bool = False) -> dict[str, Any]:
    """A message as chat templates read it; with pictures, or where wanted, in parts."""
    turn: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.images or in_parts:
        turn["content"] = [
            {"type": "image"} if isinstance(part, int) else {"type": "text", "text": part}
            for part in message.content
        ]
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.reasoning:
        turn["reasoning_content"] = message.reasoning
    return turn


def _has_tool_turns(messages: Sequence[Message]) -> bool:
    return any(message.role == "tool" or message.tool_calls for message in messages)


def _template_text(template: Any) -> str:
    """All sources of a tokenizer's chat templates; several are known by name."""
    return "\n".join(template.values()) if isinstance(template, dict) else str(template or "")


def _variables(text: str) -> frozenset[str]:
    """Names that a template reads and does not set; none where it cannot be parsed."""
    from jinja2 import TemplateError, meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"]
    )
    text = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", text)
    try:
        return frozenset(meta.find_undeclared_variables(environment.parse(text))) - OWN_ARGUMENTS
    except TemplateError:
        return frozenset()


def _special_ids(
    tokenizer: Any, tools: ToolFormat, reasoning: ReasoningFormat | None
) -> dict[str, int]:
    """Ids of the special tokens in the marks, which texts usually leave out.

    An added token in angle brackets is one to grammars (llguidance), whatever its tokenizer says.
    """
    marks = [*tools.marks]
    if reasoning is not None:
        marks += [reasoning.open, reasoning.close]
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    special = {one.content for one in added if one.special or _is_bracketed(one.content)}
    special |= set(getattr(tokenizer, "all_special_tokens", ()))
    return {
        token: tokenizer.convert_tokens_to_ids(token)
        for token in sorted(special)
        if any(token in mark for mark in marks)
    }


def _is_bracketed(token: str) -> bool:
    return token.startswith("<") and token.endswith(">")


def _lead(render: Callable[..., str]) -> str:
    """The blanks that a chat template writes between the open slot and an answer."""
    try:
        asked, answered = render(SAMPLE[:1]), render(SAMPLE[:2], ChatOptions(slot="none"))
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
