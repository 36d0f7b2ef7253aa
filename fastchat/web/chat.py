"""One pane on the page: its controls, how a pane is drawn, and what each control does."""

import html
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from fastchat.message import Message
from fastchat.web.draft import TakenDraft, news
from fastchat.web.markdown import shown
from fastchat.web.models import Listing, Model
from fastchat.web.pane import NO_DRAFT, Draft, Pane, Panes
from fastchat.web.pieces import Sampling
from fastchat.web.sliders import build_sliders, sampling_of, tokens_update
from fastchat.web.texts import PageTexts, Texts, load_texts

LATEX_DELIMITERS: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "$", "right": "$", "display": False},
    {"left": "\\(", "right": "\\)", "display": False},
    {"left": "\\[", "right": "\\]", "display": True},
]
WELCOME = Listing(models=(Model(name=""),))
"""What a page begins with: somebody is there."""
REFRESH_S = 5.0
"""How often a page looks whether models came or went."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """The models a browser has been told of, and the one it should begin with."""

    listing: Listing | None = None
    selected: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What decides which buttons work, and when the message box is emptied."""

    running: bool = False
    can_regenerate: bool = False
    sent: int = 0
    draft: Draft = NO_DRAFT
    """What stood in the message box when it was sent last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """What a pane is made of.

    A running answer sends bare values for conversation and notice only: the library describes
    a component anew each time it is told to change or to skip one, 40 ms for a conversation.
    All else hangs on the change of a small state.
    """

    pane: gr.State
    phase: gr.State
    taken: TakenDraft
    listed: gr.State
    welcome: gr.State
    """The listing that the empty conversation speaks of."""
    model: gr.Dropdown
    temperature: gr.Slider
    top_p: gr.Slider
    max_tokens: gr.Slider
    chatbot: gr.Chatbot
    notice: gr.HTML
    message: gr.Textbox
    regenerate: gr.Button
    clear: gr.Button


class Chat:
    """A pane with one model, built into the page that is being built."""

    def __init__(self, page: gr.Blocks, panes: Panes, texts: Texts, *, concurrency: int) -> None:
        self.panes = panes
        self.texts = texts
        self.controls = self._build()
        self._connect(page, concurrency)

    def _build(self) -> Controls:
        """The controls, from top to bottom."""
        words = self.texts.chat
        with gr.Row(elem_classes="bar"):
            gr.HTML(f"<h1>{html.escape(self.texts.page.title)}</h1>", elem_classes="brand")
            model = gr.Dropdown(
                choices=[],
                value=None,
                label=words.model,
                container=False,
                filterable=False,
                interactive=True,
                elem_classes="picker",
            )
            temperature, top_p, max_tokens = build_sliders(self.texts, Sampling())
            gr.HTML(theme_button(self.texts.page.theme_label), elem_classes="theme")
        chatbot = conversation_box(
            words.conversation,
            empty_html(WELCOME, self.texts),
            examples=suggestions(WELCOME, self.texts),
        )
        with gr.Column(elem_classes="composer"):
            notice = gr.HTML("", elem_classes="notices")
            message = gr.Textbox(
                lines=1,
                max_lines=8,
                label=words.message,
                show_label=False,
                container=False,
                placeholder=words.wait,
                submit_btn=True,
                autofocus=True,
                elem_classes="message",
            )
            with gr.Row(elem_classes="actions"):
                regenerate = gr.Button(words.regenerate, size="sm", interactive=False)
                clear = gr.Button(words.clear, size="sm", interactive=False)
                gr.HTML(html.escape(words.small_print), elem_classes="small-print")
        return Controls(
            pane=gr.State(Pane()),
            phase=gr.State(Phase()),
            taken=TakenDraft(),
            listed=gr.State(Listed()),
            welcome=gr.State(WELCOME),
            model=model,
            temperature=temperature,
            top_p=top_p,
            max_tokens=max_tokens,
            chatbot=chatbot,
            notice=notice,
            message=message,
            regenerate=regenerate,
            clear=clear,
        )

    def _connect(self, page: gr.Blocks, concurrency: int) -> None:
        """Ties the controls to what they do."""
        it = self.controls
        settings = [it.model, it.temperature, it.top_p, it.max_tokens]
        drawn = [it.pane, it.phase, it.chatbot, it.notice]
        # Values come as the browser has them: the library would check the model against the
        # list of a session that another server may have begun.
        quick: dict[str, Any] = {
            "show_progress": "hidden",
            "concurrency_limit": None,
            "preprocess": False,
        }
        answering = quick | {
            "outputs": drawn,
            "concurrency_limit": concurrency,
            "concurrency_id": "answers",
            "trigger_mode": "once",
        }
        hidden: dict[str, Any] = {"api_visibility": "private"}
        open_to_programs: dict[str, Any] = {"api_visibility": "undocumented"}

        it.message.submit(
            self.send,
            [it.pane, it.message, *settings],
            api_name="send",
            **answering,
            **open_to_programs,
        )
        it.chatbot.example_select(self.send_example, [it.pane, *settings], **answering, **hidden)
        it.regenerate.click(
            self.send_again,
            [it.pane, *settings],
            api_name="regenerate",
            **answering,
            **open_to_programs,
        )
        it.message.stop(self.stop, api_name="stop", **quick, **open_to_programs)
        gr.on(
            [it.clear.click, it.model.input, it.chatbot.clear],
            self.clear,
            [it.pane],
            drawn,
            api_name="clear",
            **quick,
            **open_to_programs,
        )
        followed = it.phase.change(
            self.follow_phase,
            [it.phase, it.taken.emptied],
            [*it.taken.outputs, it.message, it.regenerate, it.clear],
            **quick,
            **hidden,
        )
        it.taken.empty_after(followed, it.message)
        gr.on(
            [page.load, gr.Timer(REFRESH_S).tick, it.model.focus],
            self.refresh,
            [it.listed, it.model],
            [it.listed, it.welcome],
            trigger_mode="once",
            **quick,
            **hidden,
        )
        gr.on(
            [it.listed.change, it.model.input],
            self.follow_models,
            [it.listed, it.model, it.max_tokens],
            [it.model, it.max_tokens, it.message],
            **quick,
            **hidden,
        )
        it.welcome.change(self.follow_welcome, [it.welcome], [it.chatbot], **quick, **hidden)
        page.unload(self.leave)

    async def send(
        self,
        pane: Pane,
        text: str,
        model: str | None,
        temperature: float,
        top_p: float,
        max_tokens: float,
        request: gr.Request,
    ) -> AsyncIterator[list[Any]]:
        """Sends what stands in the message box."""
        sampling = sampling_of(temperature, top_p, max_tokens)
        model = model or await self._first_model()  # quicker than the first listing of the page
        panes = self.panes.send(pane, text, model=model, sampling=sampling, key=key_of(request))
        async for update in updates(panes):
            yield update

    async def send_example(
        self,
        pane: Pane,
        model: str | None,
        temperature: float,
        top_p: float,
        max_tokens: float,
        chosen: gr.SelectData,
        request: gr.Request,
    ) -> AsyncIterator[list[Any]]:
        """Sends a suggestion that was clicked."""
        text = str(chosen.value["text"])
        async for update in self.send(pane, text, model, temperature, top_p, max_tokens, request):
            yield update

    async def send_again(
        self,
        pane: Pane,
        model: str | None,
        temperature: float,
        top_p: float,
        max_tokens: float,
        request: gr.Request,
    ) -> AsyncIterator[list[Any]]:
        """Has the last question answered again."""
        sampling = sampling_of(temperature, top_p, max_tokens)
        panes = self.panes.regenerate(pane, model=model, sampling=sampling, key=key_of(request))
        async for update in updates(panes):
            yield update

    async def stop(self, request: gr.Request) -> None:
        """Stops the answer that is coming in."""
        self.panes.stop(key_of(request))

    async def clear(self, pane: Pane, request: gr.Request) -> list[Any]:
        """Begins a new conversation."""
        self.panes.stop(key_of(request))
        return draw(Pane(sent=pane.sent))

    async def leave(self, request: gr.Request) -> None:
        """Ends what a reader who has left was waiting for."""
        self.panes.stop(key_of(request))

    async def follow_phase(self, phase: Phase, emptied: int) -> list[Any]:
        """Buttons and message box for `phase`; a draft typed meanwhile stays."""
        message = gr.update(submit_btn=not phase.running, stop_btn=phase.running)
        buttons = gr.update(interactive=phase.can_regenerate)
        return [*news(phase.sent, emptied, phase.draft), message, buttons, buttons]

    async def refresh(
        self, listed: Listed, model: str | None, request: gr.Request
    ) -> tuple[Listed, Listing]:
        """The models as they are now, and what the empty conversation speaks of."""
        listing = (await self.panes.directory.listing()).visible()
        selected = model or listed.selected
        if selected is None and listing.models:
            wanted = listing.find(request.query_params.get("model"))
            selected = (wanted or listing.models[0]).name
        welcome = WELCOME if listing.models else listing
        return Listed(listing=listing, selected=selected), welcome

    async def follow_models(
        self, listed: Listed, model: str | None, max_tokens: float
    ) -> list[Any]:
        """Picker, token limit and message box for the models; what was chosen stays chosen."""
        listing = listed.listing or Listing()
        model = model or listed.selected
        names = [found.name for found in listing.models]
        choices = names if model is None or model in names else [model, *names]
        words = self.texts.chat
        hint = words.ask.format(model=model) if model else words.wait
        return [
            gr.update(choices=choices, value=model),
            tokens_update(listing.find(model), max_tokens),
            gr.update(placeholder=hint),
        ]

    async def follow_welcome(self, listing: Listing) -> dict[str, Any]:
        """The empty conversation."""
        return gr.update(
            placeholder=empty_html(listing, self.texts), examples=suggestions(listing, self.texts)
        )

    async def _first_model(self) -> str | None:
        """The model that a page begins with, if any is up."""
        models = (await self.panes.directory.listing()).visible().models
        return models[0].name if models else None


def conversation_box(label: str, placeholder: str, **more: Any) -> gr.Chatbot:
    """Where a conversation is shown."""
    return gr.Chatbot(
        label=label,
        show_label=False,
        container=False,
        scale=1,
        height="100%",
        layout="bubble",
        buttons=["copy"],
        latex_delimiters=LATEX_DELIMITERS,
        sanitize_html=True,
        feedback_options=None,
        group_consecutive_messages=False,
        placeholder=placeholder,
        elem_classes="conversation",
        **more,
    )


async def updates(panes: AsyncIterator[Pane]) -> AsyncIterator[list[Any]]:
    """What the browser is sent for each of `panes`."""
    async for pane in panes:
        yield draw(pane)


def draw(pane: Pane) -> list[Any]:
    """The values that show `pane`: itself, its phase, conversation, notice."""
    return [
        pane,
        Phase(
            running=pane.running,
            can_regenerate=pane.can_regenerate,
            sent=pane.sent,
            draft=pane.draft,
        ),
        [bubble for said in pane.messages for bubble in bubbles(said)],
        notice_html(pane.notice),
    ]


def bubbles(said: Message) -> list[dict[str, Any]]:
    """What shows one message; the thoughts before an answer are folded away."""
    if said.role != "assistant":
        return [{"role": said.role, "content": shown(said.text)}]
    thought, answer = split_thought(said.text)
    result: list[dict[str, Any]] = []
    if thought:
        status = "done" if answer else "pending"
        folded = {"title": load_texts().chat.thinking, "status": status}
        result.append({"role": "assistant", "content": shown(thought), "metadata": folded})
    if answer or not thought:
        result.append({"role": "assistant", "content": shown(answer)})
    return result


def split_thought(text: str) -> tuple[str, str]:
    """Thought and answer of a model that thinks aloud between `<think>` marks first."""
    if not text.lstrip().startswith("<think>"):
        return "", text
    thought, _, answer = text.lstrip().removeprefix("<think>").partition("</think>")
    return thought.strip(), answer.lstrip()


def notice_html(text: str) -> str:
    """`text` as a notice; nothing for no text."""
    return f'<p role="status">{html.escape(text)}</p>' if text else ""


def empty_html(listing: Listing, texts: Texts) -> str:
    """What stands where the conversation will be."""
    if listing.models:
        return f"<h2>{html.escape(texts.chat.greeting)}</h2>"
    words = texts.empty
    problem = {"unreachable": words.unreachable, "refused": words.refused}.get(listing.problem)
    lines = [f"<h2>{html.escape(words.title)}</h2>"]
    if problem:
        lines.append(f"<p>{html.escape(problem.format(where=listing.where))}</p>")
    lines.append(f"<p>{html.escape(words.hint)}</p>")
    lines.append(f"<pre><code>{html.escape(words.command)}</code></pre>")
    return "".join(lines)


def suggestions(listing: Listing, texts: Texts) -> list[Any]:
    """Questions to begin with, when somebody can answer."""
    return [{"text": text} for text in texts.chat.suggestions] if listing.models else []


def theme_button(label: str) -> str:
    """The switch between light and dark; `page.js` listens to it."""
    shown = html.escape(label)
    return f'<button type="button" data-theme-switch aria-label="{shown}" title="{shown}"></button>'


def terms_html(texts: PageTexts) -> str:
    """The terms, to be agreed to before the page is used; `page.js` opens them."""
    title, terms, agree = map(html.escape, (texts.terms_title, texts.terms, texts.terms_agree))
    return (
        f'<dialog id="terms"><h2>{title}</h2><p>{terms}</p>'
        f'<form method="dialog"><button>{agree}</button></form></dialog>'
    )


def key_of(request: gr.Request) -> str:
    """The name of the pane that `request` comes from."""
    return str(request.session_hash)
