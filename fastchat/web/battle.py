"""A duel on the page: its controls, how it is drawn, and what each control does.

Anonymous or named, two models or one, text or pictures: all are parameters of this one page.
"""

import html
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from fastchat.arena.pairing import published_rank_weights
from fastchat.store.arena_records import FlagKind, Kind
from fastchat.web.battle_view import (
    Look,
    Names,
    Phase,
    drawn,
    link_html,
    names_html,
    phase_of,
)
from fastchat.web.chat import conversation_box, notice_html
from fastchat.web.draft import TakenDraft, news
from fastchat.web.duel import Duels, Question
from fastchat.web.duel_records import OUTCOMES, THUMBS, Duel
from fastchat.web.examples import Examples
from fastchat.web.models import Listing
from fastchat.web.pane import Draft
from fastchat.web.pieces import Sampling
from fastchat.web.sliders import build_sliders, sampling_of, tokens_update
from fastchat.web.texts import Texts
from fastchat.web.uploads import taken_uploads
from fastchat.web.visitors import Visitor, Visitors

ANONYMOUS_SAMPLING = Sampling(temperature=0.7, top_p=1.0, max_tokens=2000)
"""Published: battles hide the sliders, and answers may be longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """What a duel is made of."""

    duel: gr.State
    phase: gr.State
    taken: TakenDraft
    pickers: tuple[gr.Dropdown, ...]
    names: gr.HTML | None
    temperature: gr.Slider
    top_p: gr.Slider
    max_tokens: gr.Slider
    chatbots: tuple[gr.Chatbot, ...]
    notice: gr.HTML
    message: gr.Textbox | gr.MultimodalTextbox
    votes: gr.Row
    choices: tuple[gr.Button, ...]
    regenerate: gr.Button
    clear: gr.Button
    share: gr.Button | None
    example: gr.Button | None

    @property
    def sliders(self) -> list[gr.Slider]:
        return [self.temperature, self.top_p, self.max_tokens]

    @property
    def shown(self) -> list[Any]:
        """What a running answer sends: bare values only, which is quick."""
        return [self.duel, self.phase, *self.chatbots, self.notice]


class Battle:
    """A duel, built into the tab that is being built."""

    def __init__(
        self,
        duels: Duels,
        texts: Texts,
        visitors: Visitors,
        *,
        kind: Kind,
        listed: gr.State,
        concurrency: int,
        vision: bool = False,
        examples: Examples | None = None,
        rng: random.Random,
    ) -> None:
        """
        Args:
            listed: the models as the page knows them, a `Listing`.
            vision: pictures may be sent.
            examples: questions with pictures, of which one may be drawn.
        """
        self.duels = duels
        self.texts = texts
        self.visitors = visitors
        self.kind: Kind = kind
        self.vision = vision
        self.examples = examples if vision else None
        self.look = Look(kind=kind, vision=vision, texts=texts)
        self.rng = rng
        self.controls = self._build()
        self._connect(listed, concurrency)

    @property
    def sides(self) -> int:
        return 1 if self.kind == "direct" else 2

    def _build(self) -> Controls:
        """The controls, from top to bottom."""
        words = self.texts.arena
        with gr.Row(elem_classes=["duel-bar"]):
            pickers = self._build_pickers()
            names = None
            if self.kind == "anonymous":
                names = gr.HTML(names_html(Names(), words), elem_classes="duel-names")
            hidden = self.kind == "anonymous"  # as published
            first = ANONYMOUS_SAMPLING if hidden else Sampling()
            sliders = build_sliders(self.texts, first, visible=not hidden)
        with gr.Row(elem_classes=["panes", f"panes-{self.sides}"]):
            chatbots = tuple(self._build_chatbot(i) for i in range(self.sides))
        with gr.Column(elem_classes=["composer", "duel-composer"]):
            notice = gr.HTML("", elem_classes="notices")
            labels = (
                (words.upvote, words.downvote, words.flag)
                if self.kind == "direct"
                else (words.left, words.right, words.tie, words.both_bad)
            )
            with gr.Row(elem_classes="votes", visible=False) as votes:
                choices = tuple(gr.Button(label, size="sm", interactive=False) for label in labels)
            message = self._build_message()
            with gr.Row(elem_classes="actions"):
                chat = self.texts.chat
                regenerate = gr.Button(chat.regenerate, size="sm", interactive=False)
                again = words.new_round if self.kind == "anonymous" else chat.clear
                clear = gr.Button(again, size="sm", interactive=False)
                share = (
                    gr.Button(words.share, size="sm", interactive=False)
                    if self.kind != "direct"
                    else None
                )
                example = gr.Button(words.example, size="sm") if self.examples else None
                gr.HTML(html.escape(chat.small_print), elem_classes="small-print")
        return Controls(
            duel=gr.State(Duel(kind=self.kind)),
            phase=gr.State(Phase()),
            taken=TakenDraft(),
            pickers=pickers,
            names=names,
            temperature=sliders[0],
            top_p=sliders[1],
            max_tokens=sliders[2],
            chatbots=chatbots,
            notice=notice,
            message=message,
            votes=votes,
            choices=choices,
            regenerate=regenerate,
            clear=clear,
            share=share,
            example=example,
        )

    def _build_pickers(self) -> tuple[gr.Dropdown, ...]:
        if self.kind == "anonymous":
            return ()
        words = self.texts.arena
        labels = (words.side_a, words.side_b) if self.sides == 2 else (self.texts.chat.model,)
        return tuple(
            gr.Dropdown(
                choices=[],
                value=None,
                label=label,
                container=False,
                filterable=True,
                interactive=True,
                elem_classes="picker",
            )
            for label in labels
        )

    def _build_chatbot(self, i: int) -> gr.Chatbot:
        words = self.texts.arena
        label = (words.side_a, words.side_b)[i] if self.sides == 2 else self.texts.chat.conversation
        return conversation_box(label, self.look.placeholder(Listing(), i))

    def _build_message(self) -> gr.Textbox | gr.MultimodalTextbox:
        words = self.texts.chat
        common: dict[str, Any] = {
            "lines": 1,
            "max_lines": 8,
            "label": words.message,
            "show_label": False,
            "container": False,
            "placeholder": words.wait,
            "submit_btn": True,
            "autofocus": False,
            "elem_classes": "message",
        }
        if self.vision:
            return gr.MultimodalTextbox(
                file_types=["image"], file_count="multiple", sources=["upload"], **common
            )
        return gr.Textbox(**common)

    def _connect(self, listed: gr.State, concurrency: int) -> None:
        """Ties the controls to what they do."""
        it = self.controls
        asked = [*it.pickers, *it.sliders]
        quick: dict[str, Any] = {
            "show_progress": "hidden",
            "concurrency_limit": None,
            "preprocess": False,
        }
        answering = quick | {
            "outputs": it.shown,
            "concurrency_limit": concurrency,
            "concurrency_id": "answers",
            "trigger_mode": "once",
        }
        hidden: dict[str, Any] = {"api_visibility": "private"}

        def named(name: str) -> dict[str, Any]:
            return {"api_name": f"{self.kind}_{name}", "api_visibility": "undocumented"}

        it.message.submit(self.send, [it.duel, it.message, *asked], **answering, **named("send"))
        it.regenerate.click(
            self.send_again, [it.duel, *it.sliders], **answering, **named("regenerate")
        )
        it.message.stop(self.stop, **quick, **named("stop"))
        gr.on(
            [it.clear.click, *(picker.input for picker in it.pickers)],
            self.clear,
            [it.duel],
            it.shown,
            **quick,
            **named("clear"),
        )
        keys: Sequence[str] = THUMBS if self.kind == "direct" else list(OUTCOMES)
        for key, button in zip(keys, it.choices, strict=True):
            handler = self.thumb if self.kind == "direct" else self.vote
            decided = [it.duel, it.phase, it.notice]
            button.click(
                with_choice(handler, key),
                [it.duel],
                decided,
                trigger_mode="once",
                **quick,
                **named(key),
            )
        if it.share is not None:
            it.share.click(self.share, [it.duel], [it.notice], **quick, **named("share"))
        if it.example is not None:
            it.example.click(self.draw_example, [], [it.message], **quick, **hidden)
        followers = [it.votes, *it.choices, it.regenerate, it.clear]
        followers += [control for control in (it.share, it.names) if control is not None]
        followed = it.phase.change(
            self.follow_phase,
            [it.phase, it.taken.emptied],
            [*it.taken.outputs, it.message, *followers],
            **quick,
            **hidden,
        )
        it.taken.empty_after(followed, it.message)
        gr.on(
            [listed.change, *(picker.input for picker in it.pickers)],
            self.follow_models,
            [listed, it.duel, it.max_tokens, *it.pickers],
            [*it.pickers, it.max_tokens, it.message, *it.chatbots],
            **quick,
            **hidden,
        )

    async def send(
        self, request: gr.Request, duel: Duel, message: Any, *asked: Any
    ) -> AsyncIterator[list[Any]]:
        """Sends what stands in the message box."""
        visitor = self._owner(request, duel)
        text, uploads = (
            (message.get("text") or "", message.get("files") or [])
            if isinstance(message, dict)
            else (message or "", [])
        )
        pictures, problem = await taken_uploads(uploads) if self.vision else ((), "")
        if problem:
            yield drawn(replace(duel, notice=problem), self.look)
            return
        chosen = tuple(asked[: len(self.controls.pickers)])
        if self.kind == "direct" and not any(chosen):  # quicker than the page's first listing
            chosen = (request.query_params.get("model"),)
        question = Question(
            text=str(text),
            models=chosen,
            sampling=self._sampling(asked[-3:]),
            pictures=pictures,
            draft=Draft(text=str(text), files=len(uploads)),
        )
        steps = self.duels.send(duel, question, visitor=visitor, key=self._key(request))
        async for step in steps:
            yield drawn(step, self.look)

    async def send_again(
        self, request: gr.Request, duel: Duel, *sliders: Any
    ) -> AsyncIterator[list[Any]]:
        """Has the last question answered again."""
        visitor = self._owner(request, duel)
        steps = self.duels.regenerate(
            duel, self._sampling(sliders), visitor=visitor, key=self._key(request)
        )
        async for step in steps:
            yield drawn(step, self.look)

    async def stop(self, request: gr.Request) -> None:
        """Stops the answers that are coming in."""
        self.duels.stop(self._key(request))

    async def clear(self, duel: Duel, request: gr.Request) -> list[Any]:
        """Begins a new round."""
        self._owner(request, duel)
        self.duels.stop(self._key(request))
        return drawn(Duel(kind=self.kind, sent=duel.sent), self.look)

    async def vote(self, choice: str, duel: Duel, request: gr.Request) -> list[Any]:
        """Votes. Thanks, and in a battle the names, are shown once the vote is on the disk."""
        visitor = self.visitors.of(request)
        duel = await self.duels.vote(duel, choice, visitor=visitor, key=self._key(request))
        return [duel, phase_of(duel), notice_html(duel.notice)]

    async def thumb(self, kind: FlagKind, duel: Duel, request: gr.Request) -> list[Any]:
        """Puts a thumb or a flag on the last answer."""
        visitor = self._owner(request, duel)
        duel = await self.duels.flag(duel, kind, visitor=visitor, key=self._key(request))
        return [duel, phase_of(duel), notice_html(duel.notice)]

    async def share(self, duel: Duel, request: gr.Request) -> str:
        """Gives the conversation a link."""
        token, problem = await self.duels.share(duel, visitor=self._owner(request, duel))
        return link_html(token, self.texts.arena) if token else notice_html(problem)

    async def draw_example(self) -> dict[str, Any]:
        """Puts a question with its picture into the message box."""
        assert self.examples is not None
        return {"text": (drawn_one := self.examples.draw()).question, "files": drawn_one.files()}

    async def follow_phase(self, phase: Phase, emptied: int) -> list[Any]:
        """Buttons, names and message box for `phase`; a draft typed meanwhile stays."""
        buttons = [gr.update(interactive=phase.can_vote) for _ in self.controls.choices]
        updates: list[Any] = [
            gr.update(visible=phase.has_answers and not phase.is_over),
            *buttons,
            gr.update(interactive=phase.can_regenerate),
            gr.update(
                interactive=phase.can_clear, variant="primary" if phase.is_over else "secondary"
            ),
        ]
        if self.controls.share is not None:
            updates.append(gr.update(interactive=phase.has_answers and not phase.running))
        if self.controls.names is not None:
            updates.append(names_html(phase.names, self.texts.arena))
        message = self.look.message_update(phase)
        return [*news(phase.sent, emptied, phase.draft), message, *updates]

    async def follow_models(
        self,
        request: gr.Request,
        listing: Listing,
        duel: Duel,
        max_tokens: float,
        *chosen: str | None,
    ) -> list[Any]:
        """Pickers, token limit, message box and welcome for the models; a choice stays chosen."""
        seen = listing.visible(vision=self.vision)
        names = [model.name for model in seen.models]
        picked = self._picked(names, chosen, wanted=request.query_params.get("model"))
        updates = [
            gr.update(choices=names if p is None or p in names else [p, *names], value=p)
            for p in picked
        ]
        first = seen.find(picked[0]) if picked else None
        limit = gr.update() if self.kind == "anonymous" else tokens_update(first, max_tokens)
        box = gr.update(placeholder=self.look.hint(phase_of(duel), any_model=bool(names)))
        welcome = [
            gr.update(placeholder=self.look.placeholder(listing, i)) for i in range(self.sides)
        ]
        return [*updates, limit, box, *welcome]

    def _picked(
        self, names: list[str], chosen: Sequence[str | None], *, wanted: str | None
    ) -> list[str | None]:
        """The choice of each picker: the one made, else `wanted` or the first model, and another
        beside it."""
        picked = list(chosen)
        for i, name in enumerate(picked):
            if name is not None or not names:
                continue
            others = [n for n in names if n not in picked] or names
            weights = published_rank_weights([names.index(n) for n in others])
            first = wanted if wanted in names else names[0]
            picked[i] = first if i == 0 else self.rng.choices(others, weights)[0]
        return picked

    def _sampling(self, sliders: Sequence[Any]) -> Sampling:
        """The sliders' values; a battle has its own, whatever a browser sends."""
        if self.kind == "anonymous":
            return ANONYMOUS_SAMPLING
        return sampling_of(*sliders)

    def _owner(self, request: gr.Request, duel: Duel) -> Visitor:
        """The visitor, whose duel it must be: a session's name alone opens no conversation.

        Raises:
            gr.Error: another browser asked the first question.
        """
        visitor = self.visitors.of(request)
        if duel.cookie and duel.cookie != visitor.cookie:
            raise gr.Error(self.texts.arena.not_yours)
        return visitor

    def _key(self, request: gr.Request) -> str:
        return f"{self.kind}:{request.session_hash}"


def with_choice(
    handler: Callable[[Any, Duel, gr.Request], Awaitable[list[Any]]], choice: str
) -> Callable[[Duel, gr.Request], Awaitable[list[Any]]]:
    """`handler` for one button. The library finds the request by its annotation, which it does
    not see in a partial call."""

    async def chosen(duel: Duel, request: gr.Request) -> list[Any]:
        return await handler(choice, duel, request)

    return chosen
