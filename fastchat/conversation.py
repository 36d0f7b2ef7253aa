"""Conversation: messages together with the template they are written in. The published calls.

Inside this project a conversation is a sequence of `Message` and a `Template` renders it.
This class is for programs that use the published names: they append to it turn by turn, ask
for its prompt, and export it to the APIs of others.
"""

import base64
import builtins
import copy
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from fastchat.errors import DataError, UsageError
from fastchat.families.registry import registry
from fastchat.families.styles import SeparatorStyle, template_from_published
from fastchat.message import Message
from fastchat.template import Published, Segment, Speaker, Template, fill_dates

__all__ = ["Conversation", "SeparatorStyle", "get_conv_template", "register_conv_template"]

JsonObject = dict[str, Any]

_DATA_URL = re.compile(r"data:(?P<media_type>image/[\w.+-]+);base64,(?P<data>[A-Za-z0-9+/=\s]+)\Z")


class Conversation:
    """A chat under way, in the layout of one template.

    `messages` is a list of `[role, text]`; a text of None is the open slot for an answer, and a
    pair `(text, images)` brings pictures as `data:` or `https:` addresses. The other published
    fields are read-only: they belong to the template.
    """

    def __init__(
        self,
        name: str,
        *,
        system_template: str = "{system_message}",
        system_message: str = "",
        system_message_vision: str = "",
        roles: Sequence[str] = ("USER", "ASSISTANT"),
        messages: Sequence[Sequence[Any]] = (),
        offset: int = 0,
        sep_style: int | None = SeparatorStyle.ADD_COLON_SINGLE,
        sep: str | None = "\n",
        sep2: str | None = None,
        stop_str: str | Sequence[str] | None = None,
        stop_token_ids: Sequence[int] | None = None,
        max_image_size_mb: float | None = None,
    ) -> None:
        """A conversation in a layout of the published separator styles.

        offset: how many of `messages` are examples that every conversation begins with.
        Raises UsageError when the style is unknown or the examples are not pairs.
        """
        if offset % 2 or offset > len(messages):
            raise UsageError(
                f"template {name!r}: offset {offset} does not count pairs among "
                f"{len(messages)} messages"
            )
        examples = [str(message[1]) for message in messages[:offset]]
        self._begin(
            template_from_published(
                name,
                Published(
                    roles=tuple(roles),
                    sep_style=None if sep_style is None else int(sep_style),
                    sep=sep,
                    sep2=sep2,
                    system_template=system_template,
                    max_image_size_mb=max_image_size_mb,
                ),
                system_message=system_message,
                system_message_vision=system_message_vision,
                examples=list(zip(examples[::2], examples[1::2], strict=True)),
                stop=(stop_str,) if isinstance(stop_str, str) else stop_str or (),
                stop_token_ids=stop_token_ids or (),
            )
        )
        for role, message in messages[offset:]:
            self.append_message(role, message)

    @classmethod
    def from_template(cls, template: Template) -> "Conversation":
        """A fresh conversation: the template's system message and its examples."""
        conversation = cls.__new__(cls)
        conversation._begin(template)
        return conversation

    @classmethod
    def from_messages(cls, template: Template, messages: Sequence[Message]) -> "Conversation":
        """A conversation with these messages behind the template's examples."""
        conversation = cls.from_template(template)
        if system := [message.text for message in messages if message.role == "system"]:
            conversation.set_system_message("\n".join(system))
        for message in messages:
            content = (message.text, list(message.images)) if message.images else message.text
            if message.role != "system":
                conversation.append_message(conversation._role_name(message.role), content)
        return conversation

    @classmethod
    def from_dict(cls, record: JsonObject) -> "Conversation":
        """The conversation that `dict()` described. Raises DataError when it describes none."""
        try:
            conversation = get_conv_template(record["template_name"])
            conversation.set_system_message(str(record["system_message"]))
            conversation.messages.clear()
            for role, message in record["messages"]:
                conversation.append_message(role, message)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a saved conversation: {type(error).__name__} {error}") from error
        return conversation

    def _begin(self, template: Template) -> None:
        self.template = template
        self.system_message = template.system_message
        self.messages: list[list[Any]] = [
            [self._role_name(message.role), message.text] for message in template.example_messages
        ]

    @property
    def name(self) -> str:
        return self.template.name

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the user and of the assistant in the prompt."""
        return self.template.published.roles

    @property
    def offset(self) -> int:
        """How many leading messages are examples, which no page shows."""
        return 2 * len(self.template.examples)

    @property
    def system_template(self) -> str:
        return self.template.published.system_template

    @property
    def system_message_vision(self) -> str:
        return self.template.system_message_vision

    @property
    def sep_style(self) -> SeparatorStyle | None:
        number = self.template.published.sep_style
        return None if number is None else SeparatorStyle(number)

    @property
    def sep(self) -> str | None:
        return self.template.published.sep

    @property
    def sep2(self) -> str | None:
        return self.template.published.sep2

    @property
    def stop_str(self) -> str | list[str] | None:
        """The stop string, or several of them."""
        stop = list(self.template.stop)
        return stop[0] if len(stop) == 1 else stop or None

    @property
    def stop_token_ids(self) -> list[int] | None:
        return list(self.template.stop_token_ids) or None

    @property
    def max_image_size_mb(self) -> float | None:
        """Images above it are scaled down before they are sent; None is no limit."""
        return self.template.published.max_image_size_mb

    def set_system_message(self, system_message: str) -> None:
        """Replaces the system message."""
        self.system_message = system_message

    def get_system_message(self, is_vision: bool = False) -> str:
        """The system message, or the template's other one for conversations with images."""
        is_own = self.system_message == self.template.system_message
        if is_vision and is_own and self.system_message_vision:
            return self.system_message_vision
        return self.system_message

    def fill_dates(self, now: datetime) -> None:
        """Fills the date holes of the system message; done when a chat starts."""
        self.system_message = fill_dates(self.system_message, now)

    def append_message(self, role: str, message: Any) -> None:
        """Adds a turn. Raises UsageError when the role is none of this template."""
        if role not in (*self.roles[:2], "user", "assistant"):
            known = " and ".join(map(repr, self.roles[:2]))
            raise UsageError(f"template {self.name!r} has the roles {known}, not {role!r}")
        if not (message is None or isinstance(message, str)):
            _text_and_images(message)
        self.messages.append([role, message])

    def update_last_message(self, message: Any) -> None:
        """Replaces the last turn's text, as a streamed answer grows."""
        if not self.messages:
            raise UsageError("the conversation has no message to update; append one first")
        self.messages[-1][1] = message

    def get_images(self) -> list[str]:
        """Addresses of all pictures, in the order of the messages."""
        return [image for message in self.to_messages() for image in message.images]

    def get_prompt(self) -> str:
        """The text a model is given. Raises UsageError for a template of a remote service."""
        return "".join(segment.text for segment in self.render())

    def render(self) -> list[Segment]:
        """The segments of the prompt; only what stands behind the examples is learned."""
        turns = [
            Message(role=speaker, text=text, images=tuple(images))
            for speaker, text, images in self._turns()
        ]
        examples = self.template.example_messages
        has_examples = tuple(turns[: self.offset]) == examples
        system = self.get_system_message(any(turn.images for turn in turns))
        is_open = bool(turns) and turns[-1].role == "assistant" and not turns[-1].text
        return self.template.render(
            [
                Message(role="system", text=system),
                *(turns[self.offset :] if has_examples else turns),
            ],
            open_slot=is_open,
            with_examples=has_examples,
        )

    def to_messages(self) -> list[Message]:
        """The turns behind the examples, without an open slot; the system message comes first."""
        turns = list(self._turns(self.offset))
        messages = [
            Message(role=speaker, text=text, images=tuple(images))
            for speaker, text, images in turns
            if text or images
        ]
        if system := self.get_system_message(any(images for _, _, images in turns)):
            messages.insert(0, Message(role="system", text=system))
        return messages

    def to_gradio_chatbot(self) -> list[list[Any]]:
        """Pairs of a question and its answer, None while that is open."""
        pairs: list[list[Any]] = []
        for speaker, text, images in self._turns(self.offset):
            if speaker == "user":
                pairs.append(["".join(f"![]({image})\n" for image in images) + text, None])
            elif pairs and text:
                pairs[-1][1] = text
        return pairs

    def to_openai_api_messages(self) -> list[JsonObject]:
        """OpenAI's chat messages, text only."""
        return [{"role": message.role, "content": message.text} for message in self.to_messages()]

    def to_openai_vision_api_messages(self, is_mistral: bool = False) -> list[JsonObject]:
        """OpenAI's chat messages; with images, a user's content is a list of parts."""

        def image_part(image: str) -> JsonObject:
            return {"type": "image_url", "image_url": image if is_mistral else {"url": image}}

        return [
            {
                "role": message.role,
                "content": [
                    {"type": "text", "text": message.text},
                    *map(image_part, message.images),
                ]
                if message.images
                else message.text,
            }
            for message in self.to_messages()
        ]

    def to_anthropic_vision_api_messages(self) -> list[JsonObject]:
        """Anthropic's messages: every content is a list of parts, the system text comes first."""

        def image_part(image: str) -> JsonObject:
            media_type, data = _media_type_and_data(image)
            source = {"type": "base64", "media_type": media_type, "data": data}
            return {"type": "image", "source": source}

        return [
            {
                "role": message.role,
                "content": [
                    {"type": "text", "text": message.text},
                    *map(image_part, message.images),
                ],
            }
            for message in self.to_messages()
        ]

    def to_gemini_api_messages(self) -> list[JsonObject]:
        """Google's messages; a user's content is a list of the text and the decoded images."""
        contents: list[JsonObject] = []
        for message in self.to_messages():
            is_answer = message.role == "assistant"
            content = [message.text, *map(_decoded, message.images)]
            contents.append(
                {
                    "role": "model" if is_answer else message.role,
                    "content": content if message.role == "user" else message.text,
                }
            )
        return contents

    def to_vertex_api_messages(self) -> list[Any]:
        """A flat list of the system text, then each message's decoded images and text."""
        return [
            part
            for message in self.to_messages()
            for part in (*map(_decoded, message.images), message.text)
        ]

    def to_reka_api_messages(self) -> list[JsonObject]:
        """Reka's messages: typed parts, with one image per message (the first)."""
        return [
            {
                "role": message.role,
                "content": [
                    *({"type": "image_url", "image_url": x} for x in message.images[:1]),
                    {"type": "text", "text": message.text},
                ],
            }
            for message in self.to_messages()
        ]

    def to_metagen_api_messages(self) -> list[JsonObject]:
        """MetaGen's messages, with the conversation's last image as the only attachment."""
        messages = self.to_messages()
        last = max((i for i, message in enumerate(messages) if message.images), default=None)
        exported: list[JsonObject] = []
        for i, message in enumerate(messages):
            role = "ai" if message.role == "assistant" else message.role
            entry: JsonObject = {"role": role, "text": message.text}
            if i == last:
                _, data = _media_type_and_data(message.images[-1])
                entry["attachments"] = [
                    {"type": "base64_image", "mime": "image/jpeg", "data": data}
                ]
            exported.append(entry)
        return exported

    def copy(self) -> "Conversation":
        """An independent conversation of the same content."""
        twin = Conversation.from_template(self.template)
        twin.system_message = self.system_message
        twin.messages = copy.deepcopy(self.messages)
        return twin

    def to_published(self) -> JsonObject:
        """The record that `/worker_get_conv_template` answers."""
        return {
            "name": self.name,
            "system_template": self.system_template,
            "system_message": self.system_message,
            "system_message_vision": self.system_message_vision,
            "roles": list(self.roles),
            "messages": copy.deepcopy(self.messages),
            "offset": self.offset,
            "sep_style": self.template.published.sep_style,
            "sep": self.sep,
            "sep2": self.sep2,
            "stop_str": self.stop_str,
            "stop_token_ids": self.stop_token_ids,
            "max_image_size_mb": self.max_image_size_mb,
        }

    def to_dict(self) -> JsonObject:
        """The record that the terminal chat saves."""
        return {
            "template_name": self.name,
            "system_message": self.system_message,
            "roles": list(self.roles),
            "messages": copy.deepcopy(self.messages),
            "offset": self.offset,
        }

    def _role_name(self, role: str) -> str:
        """What this template calls `user` or `assistant`."""
        if role not in ("user", "assistant"):
            raise UsageError(f"template {self.name!r} has no place for the role {role!r}")
        return self.roles[role == "assistant"]

    def _turns(self, first: int = 0) -> Iterator[tuple[Speaker, str, list[str]]]:
        """Speaker, text and images of each message from the index `first` on."""
        user, answerer = self.roles[:2]
        for i, (role, message) in enumerate(self.messages):
            # Where the names do not tell, the places do.
            is_unnamed = user == answerer == role
            is_user = i % 2 == 0 if is_unnamed else role in (user, "user")
            if i >= first:
                yield "user" if is_user else "assistant", *_text_and_images(message)

    # Last, since it hides the type of the same name from the methods below it.
    def dict(self) -> builtins.dict[str, Any]:
        """The same as `to_dict`, under its published name."""
        return self.to_dict()


def get_conv_template(name: str) -> Conversation:
    """A fresh conversation in the template of this name. Raises UsageError when unknown."""
    return Conversation.from_template(registry().template(name))


def register_conv_template(template: Conversation | Template, override: bool = False) -> None:
    """Makes a template known under its name. Raises UsageError when the name is taken."""
    if isinstance(template, Conversation):
        template = replace(template.template, system_message=template.system_message)
    registry().add_template(template, override=override)


def _text_and_images(message: Any) -> tuple[str, list[str]]:
    """Text and addresses of a message's content."""
    match message:
        case None:
            return "", []
        case str():
            return message, []
        case [str() as text, [*images]] if all(isinstance(image, str) for image in images):
            return text, images
        case _:
            raise UsageError(
                f"a message is text, None or (text, [image addresses]), not {message!r:.80}"
            )


def _media_type_and_data(image: str) -> tuple[str, str]:
    """Media type and base64 data of a `data:` address."""
    if not (match := _DATA_URL.match(image)):
        raise UsageError(f"this API takes pictures as data:image/...;base64, not {image:.40}")
    return match["media_type"], "".join(match["data"].split())


def _decoded(image: str) -> Any:
    """The picture of a `data:` address, as Pillow has it."""
    from PIL import Image, UnidentifiedImageError

    _, data = _media_type_and_data(image)
    try:
        return Image.open(io.BytesIO(base64.b64decode(data)))
    except (ValueError, UnidentifiedImageError) as error:
        raise UsageError(f"{image:.40}... holds no picture that can be read") from error
