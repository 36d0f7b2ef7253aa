"""The published separator styles: a number, two strings and the roles -> a Template.

Templates of ours are written out as data. This is for programs that register one of their
own in the published way, with `sep_style`, `sep` and `sep2`.
"""

from collections.abc import Sequence
from dataclasses import replace
from enum import IntEnum
from typing import assert_never

from fastchat.errors import UsageError
from fastchat.template import Published, Template


class SeparatorStyle(IntEnum):
    """Rules by which the parts of a conversation are put together. The numbers are published."""

    ADD_COLON_SINGLE = 1
    ADD_COLON_TWO = 2
    ADD_COLON_SPACE_SINGLE = 3
    NO_COLON_SINGLE = 4
    NO_COLON_TWO = 5
    ADD_NEW_LINE_SINGLE = 6
    LLAMA2 = 7
    LLAMA3 = 8
    CHATGLM = 9
    CHATML = 10
    CHATINTERN = 11
    DOLLY = 12
    RWKV = 13
    PHOENIX = 14
    ROBIN = 15
    FALCON_CHAT = 16
    CHATGLM3 = 17
    DEEPSEEK_CHAT = 18
    METAMATH = 19
    YUAN2 = 20
    GEMMA = 21
    CLLM = 22
    DEFAULT = 23


def template_from_published(
    name: str,
    published: Published,
    *,
    system_message: str = "",
    system_message_vision: str = "",
    examples: Sequence[tuple[str, str]] = (),
    stop: Sequence[str] = (),
    stop_token_ids: Sequence[int] = (),
) -> Template:
    """The template that a published record describes.

    Raises UsageError when the style is not known, or two roles are missing.
    """
    if len(published.roles) < 2:
        raise UsageError(f"template {name!r} needs two roles, has {list(published.roles)}")
    template = Template(
        name=name,
        system_message=system_message,
        system_message_vision=system_message_vision,
        examples=tuple(examples),
        stop=tuple(stop),
        stop_token_ids=tuple(stop_token_ids),
        published=published,
    )
    if published.sep_style is None:
        return replace(template, layout="remote")
    try:
        style = SeparatorStyle(published.sep_style)
    except ValueError:
        message = f"template {name!r}: sep_style {published.sep_style} is not a number from 1 to 23"
        raise UsageError(message) from None
    return _laid_out(template, style)


def _laid_out(template: Template, style: SeparatorStyle) -> Template:
    """`template` with its strings written out by the rule of `style`."""
    published = template.published
    sep, sep2 = published.sep or "", published.sep2 or ""
    user, answerer = published.roles[:2]
    system = published.system_template.replace("{system_message}", "{system}", 1)
    bare = system.replace("{system}", "")
    tail = sep if bare else ""

    match style:
        case SeparatorStyle.ADD_COLON_SINGLE:
            return replace(
                template,
                system=system + sep,
                system_empty=bare + sep,
                user=(f"{user}: ", sep),
                assistant=(f"{answerer}: ", sep),
                open=f"{answerer}:",
            )
        case SeparatorStyle.ADD_COLON_TWO | SeparatorStyle.CLLM:
            return replace(
                template,
                system=system + sep,
                system_empty=bare + sep,
                user=(f"{user}: ", sep),
                assistant=(f"{answerer}: ", *_mark_and_gap(sep2)),
                open=f"{answerer}:",
                layout="last_turns" if style is SeparatorStyle.CLLM else "turns",
            )
        case SeparatorStyle.ADD_COLON_SPACE_SINGLE:
            return replace(
                template,
                system=system + sep,
                system_empty=bare + sep,
                user=(f"{user}: ", sep),
                assistant=(f"{answerer}: ", *_mark_and_gap(sep)),
                open=f"{answerer}: ",
            )
        case SeparatorStyle.NO_COLON_SINGLE:
            return replace(
                template,
                system=system,
                system_empty=bare,
                user=(user, sep),
                assistant=(answerer, sep),
                open=answerer,
            )
        case SeparatorStyle.NO_COLON_TWO:
            return replace(
                template,
                system=system,
                system_empty=bare,
                user=(user, sep),
                assistant=(answerer, sep2),
                open=answerer,
            )
        case SeparatorStyle.ADD_NEW_LINE_SINGLE:
            return replace(
                template,
                system=system + sep,
                system_empty=bare + tail,
                user=(f"{user}\n", sep),
                assistant=(f"{answerer}\n", sep),
                open=f"{answerer}\n",
            )
        case SeparatorStyle.LLAMA2:
            return replace(
                template,
                system=system,
                system_empty="[INST] ",
                first_user=("", " "),
                user=(f"{user} ", sep),
                assistant=(f"{answerer} ", *_mark_and_gap(sep2)),
                open=answerer,
            )
        case SeparatorStyle.LLAMA3:
            header = "<|start_header_id|>{}<|end_header_id|>\n\n"
            return replace(
                template,
                system="<|begin_of_text|>" + system,
                system_empty="<|begin_of_text|>",
                user=(header.format(user), "<|eot_id|>"),
                assistant=(header.format(answerer), "<|eot_id|>"),
                open=header.format(answerer),
                text="strip",
            )
        case SeparatorStyle.CHATGLM:
            return replace(
                template,
                system=system + sep,
                system_empty=bare + tail,
                user=(f"[Round {{round}}]{sep}{user}：", sep),
                first_round=int(template.name == "chatglm2"),
                assistant=(f"{answerer}：", sep),
                open=f"{answerer}：",
            )
        case SeparatorStyle.CHATML:
            return replace(
                template,
                system=system + sep + "\n",
                system_empty=bare + sep + "\n" if bare else "",
                user=(f"{user}\n", sep + "\n"),
                assistant=(f"{answerer}\n", sep, "\n"),
                open=f"{answerer}\n",
            )
        case SeparatorStyle.CHATINTERN:
            return replace(
                template,
                system=system,
                system_empty=bare,
                user=(f"<s>{user}:", sep + "\n"),
                assistant=(f"{answerer}:", sep2, "\n"),
                open=f"{answerer}:",
            )
        case SeparatorStyle.DOLLY:
            return replace(
                template,
                system=system,
                system_empty=bare,
                user=(f"{user}:\n", sep),
                assistant=(f"{answerer}:\n", sep2, "\n\n"),
                open=f"{answerer}:\n",
            )
        case SeparatorStyle.RWKV:
            return replace(
                template,
                system=system,
                system_empty=bare,
                user=(f"{user}: ", "\n\n"),
                assistant=(f"{answerer}: ", "\n\n"),
                open=f"{answerer}:",
                text="fold_newlines",
            )
        case SeparatorStyle.PHOENIX:
            return replace(
                template,
                system=system,
                system_empty=bare,
                user=(f"{user}: <s>", "</s>"),
                assistant=(f"{answerer}: <s>", "</s>"),
                open=f"{answerer}: <s>",
            )
        case SeparatorStyle.ROBIN:
            return replace(
                template,
                system=system + sep,
                system_empty=bare + sep,
                user=(f"{user}:\n", sep),
                assistant=(f"{answerer}:\n", sep),
                open=f"{answerer}:\n",
            )
        case SeparatorStyle.FALCON_CHAT:
            return replace(
                template,
                system=system + sep,
                user=(f"{user}: ", sep),
                assistant=(f"{answerer}: ", sep),
                open=f"{answerer}:",
            )
        case SeparatorStyle.CHATGLM3:
            return replace(
                template,
                system=system,
                user=(f"{user}\n", ""),
                assistant=(f"{answerer}\n", ""),
                open=answerer,
            )
        case SeparatorStyle.DEEPSEEK_CHAT:
            return replace(
                template,
                system=system,
                system_empty=bare,
                user=(f"{user}: ", sep),
                assistant=(f"{answerer}: ", sep2),
                open=f"{answerer}:",
            )
        case SeparatorStyle.METAMATH:
            return replace(
                template,
                system=system + sep,
                system_empty=bare + tail,
                user=(f"{user}:\n", sep),
                assistant=(f"{answerer}: {sep2}", ""),
                open=f"{answerer}: {sep2}",
            )
        case SeparatorStyle.YUAN2:
            return replace(
                template,
                system=system + sep2,
                user=("", "<n>"),
                assistant=("", "", "<n>"),
                open=sep,
                layout="joined",
            )
        case SeparatorStyle.GEMMA:
            return replace(
                template,
                system="<bos>",
                system_empty="<bos>",
                user=(f"<start_of_turn>{user}\n", sep),
                assistant=(f"<start_of_turn>{answerer}\n", *_mark_and_gap(sep)),
                open=f"<start_of_turn>{answerer}\n",
            )
        case SeparatorStyle.DEFAULT:
            return replace(
                template,
                system=system + "\n",
                system_empty=bare + "\n",
                user=(f"{user}: ", "\n"),
                assistant=(f"{answerer}: ", "\n"),
                open=f"{answerer}:",
                image="",
            )
        case _:
            assert_never(style)


def _mark_and_gap(text: str) -> tuple[str, ...]:
    """`text` cut behind an end mark like `</s>`: what follows it belongs to the next turn."""
    cut = text.find(">") + 1
    return (text[:cut], text[cut:]) if 0 < cut < len(text) else (text,)
