"""How a duel looks: what the browser is sent for it. Names pass here, and only when they may."""

import html
from dataclasses import dataclass
from typing import Any

import gradio as gr

from fastchat.message import Message
from fastchat.store.arena_records import Kind
from fastchat.web.chat import bubbles, empty_html, notice_html
from fastchat.web.duel_records import Duel
from fastchat.web.models import Listing
from fastchat.web.pane import NO_DRAFT, Draft
from fastchat.web.texts import ArenaTexts, Texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Who the sides of a battle were; empty until the vote."""

    a: str = ""
    b: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What decides which buttons work, which names show, and when the message box is emptied."""

    running: bool = False
    can_vote: bool = False
    can_regenerate: bool = False
    can_clear: bool = False
    has_answers: bool = False
    is_over: bool = False
    """A battle with its vote: nothing more is asked in it."""
    names: Names = Names()
    sent: int = 0
    draft: Draft = NO_DRAFT
    """What stood in the message box when it was sent last."""


def phase_of(duel: Duel) -> Phase:
    """The phase that `duel` is in."""
    is_over = duel.kind == "anonymous" and bool(duel.vote)
    return Phase(
        running=duel.running,
        can_vote=duel.can_flag if duel.kind == "direct" else duel.can_vote,
        can_regenerate=duel.can_regenerate,
        can_clear=bool(duel.sides),
        has_answers=duel.has_answers and not (duel.running and duel.turns == 1),
        is_over=is_over,
        names=Names(a=duel.sides[0].model, b=duel.sides[1].model) if is_over else Names(),
        sent=duel.sent,
        draft=duel.draft,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What is constant about how a tab looks."""

    kind: Kind
    vision: bool
    texts: Texts

    @property
    def sides(self) -> int:
        return 1 if self.kind == "direct" else 2

    def hint(self, phase: Phase, *, any_model: bool) -> str:
        """What stands in the empty message box."""
        words = self.texts.arena
        if phase.is_over:
            return words.round_over
        if not any_model:
            return self.texts.chat.wait
        if self.vision:
            return words.ask_with_picture
        return words.ask_direct if self.kind == "direct" else words.ask

    def message_update(self, phase: Phase) -> dict[str, Any]:
        """The message box: stop while answers come, closed when the round is over."""
        return gr.update(
            submit_btn=not (phase.running or phase.is_over),
            stop_btn=phase.running,
            interactive=not phase.is_over,
            placeholder=self.hint(phase, any_model=True),
        )

    def placeholder(self, listing: Listing, i: int) -> str:
        """What stands where conversation `i` will be."""
        words = self.texts.arena
        if not listing.models and listing.where:
            return empty_html(listing, self.texts) if i == 0 else ""
        if i > 0:
            return ""
        greeting, hint = {
            "anonymous": (words.greeting_battle, words.hint_battle),
            "named": (words.greeting_named, words.hint_named),
            "direct": (words.greeting_direct, words.hint_direct),
        }[self.kind]
        return f"<h2>{html.escape(greeting)}</h2><p>{html.escape(hint)}</p>"


def drawn(duel: Duel, look: Look) -> list[Any]:
    """The values that show `duel`: itself, its phase, the conversations, the notice."""
    conversations = [
        [bubble for said in side.messages for bubble in said_bubbles(said)] for side in duel.sides
    ] or [[] for _ in range(look.sides)]
    return [duel, phase_of(duel), *conversations, notice_html(duel.notice)]


def said_bubbles(said: Message) -> list[dict[str, Any]]:
    """What shows one message, its pictures first."""
    pictures = [
        {"role": said.role, "content": f'<img alt="" src="{html.escape(url, quote=True)}">'}
        for url in said.images
        if url.startswith("data:image/")
    ]
    return pictures + (bubbles(said) if said.text or not pictures else [])


def names_html(names: Names, words: ArenaTexts) -> str:
    """The two labels over a battle, with the names once they may be told."""
    shown = [
        f"<h3>{html.escape(label)}{f': <b>{html.escape(name)}</b>' if name else ''}</h3>"
        for label, name in ((words.side_a, names.a), (words.side_b, names.b))
    ]
    return f'<div class="labels" aria-live="polite">{"".join(shown)}</div>'


def link_html(token: str, words: ArenaTexts) -> str:
    """The link to a shared conversation; `page.js` makes it whole and copies it."""
    address = f"shared/{html.escape(token)}"
    return (
        f'<p role="status">{html.escape(words.shared)} '
        f'<a href="{address}" target="_blank" rel="noopener" data-share>{address}</a></p>'
    )
