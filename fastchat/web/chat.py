"""One pane on the page: its controls, how a pane is drawn, and what each control does."""

import html
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from fastchat.web.markdown import shown
from fastchat.web.models import Listing, Model
from fastchat.web.pane import Pane, Panes, Sampling
from fastchat.web.texts import PageTexts, Texts

LATEX_DELIMITERS: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "$", "right": "$", "display": False},
    {"left": "\\(", "right": "\\)", "display": False},
    {"left": "\\[", "right": "\\]", "display": True},
]
MIN_TOKENS = 16
MAX_TOKENS = 2048
TOKENS_STEP = 64
REFRESH_S = 5.0
"""How often a page looks whether models came or went."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """What a pane is made of."""

    pane: gr.State
    listed: gr.State
    model: gr.Dropdown
    temperature: gr.Slider
    top_p: gr.Slider
    max_tokens: gr.Slider
    chatbot: gr.Chatbot
    notice: gr.HTML
    message: gr.Textbox
    regenerate: gr.Button
    clear: gr.Button


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """Which models a browser shows now; what is shown already is not sent again."""

    listing: Listing | None = None
    selected: str | None = None


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
        defaults = Sampling()
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
            with gr.Accordion(self.texts.page.parameters, open=False, elem_classes="parameters"):
                temperature = gr.Slider(
                    0.0,
                    1.0,
                    value=defaults.temperature,
                    step=0.1,
                    label=words.temperature,
                    info=words.temperature_info,
                    interactive=True,
                )
                top_p = gr.Slider(
                    0.0,
                    1.0,
                    value=defaults.top_p,
                    step=0.1,
                    label=words.top_p,
                    info=words.top_p_info,
                    interactive=True,
                )
                max_tokens = gr.Slider(
                    MIN_TOKENS,
                    MAX_TOKENS,
                    value=defaults.max_tokens,
                    step=TOKENS_STEP,
                    label=words.max_tokens,
                    info=words.max_tokens_info,
                    interactive=True,
                )
            gr.HTML(theme_button(self.texts.page.theme_label), elem_classes="theme")
        chatbot = gr.Chatbot(
            label=words.conversation,
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
            placeholder=empty_html(Listing(), self.texts),
            elem_classes="conversation",
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
            listed=gr.State(Listed()),
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
        drawn = [it.pane, it.chatbot, it.notice, it.message, it.regenerate, it.clear]
        answering: dict[str, Any] = {
            "outputs": drawn,
            "show_progress": "hidden",
            "concurrency_limit": concurrency,
            "concurrency_id": "answers",
            "trigger_mode": "once",
        }
        quick: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None}
        hidden: dict[str, Any] = {"api_visibility": "private"}
        callable_: dict[str, Any] = {"api_visibility": "undocumented"}

        it.message.submit(
            self.send, [it.pane, it.message, *settings], api_name="send", **answering, **callable_
        )
        it.chatbot.example_select(self.send_example, [it.pane, *settings], **answering, **hidden)
        it.regenerate.click(
            self.send_again,
            [it.pane, *settings],
            api_name="regenerate",
            **answering,
            **callable_,
        )
        it.message.stop(self.stop, api_name="stop", **quick, **callable_)
        gr.on(
            [it.clear.click, it.model.input, it.chatbot.clear],
            self.clear,
            None,
            drawn,
            api_name="clear",
            **quick,
            **callable_,
        )
        it.model.input(self.fit_to_model, settings, [it.max_tokens, it.message], **quick, **hidden)
        found = [it.listed, it.model, it.max_tokens, it.message, it.chatbot]
        gr.on(
            [page.load, gr.Timer(REFRESH_S).tick, it.model.focus],
            self.refresh,
            [it.listed, it.model, it.max_tokens],
            found,
            api_name="models",
            trigger_mode="once",
            **quick,
            **callable_,
        )
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
        sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=int(max_tokens))
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
        sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=int(max_tokens))
        panes = self.panes.regenerate(pane, model=model, sampling=sampling, key=key_of(request))
        async for update in updates(panes):
            yield update

    async def stop(self, request: gr.Request) -> None:
        """Stops the answer that is coming in."""
        self.panes.stop(key_of(request))

    async def clear(self, request: gr.Request) -> list[Any]:
        """Begins a new conversation."""
        self.panes.stop(key_of(request))
        return draw(Pane())

    async def leave(self, request: gr.Request) -> None:
        """Ends what a reader who has left was waiting for."""
        self.panes.stop(key_of(request))

    async def fit_to_model(
        self, model: str | None, temperature: float, top_p: float, max_tokens: float
    ) -> list[Any]:
        """The token limit and the hint in the message box for a model that was chosen."""
        listing = await self.panes.directory.listing()
        return [tokens_update(listing.find(model), max_tokens), self._hint(model)]

    async def refresh(
        self, before: Listed, model: str | None, max_tokens: float, request: gr.Request
    ) -> list[Any]:
        """The list of models as it is now; the model that was chosen stays chosen."""
        listing = await self.panes.directory.listing()
        names = [found.name for found in listing.models]
        if before.selected is None and model is None:
            model = request.query_params.get("model")
            model = model if model in names else None
        if model is None and names:
            model = names[0]
        now = Listed(listing=listing, selected=model)
        if now == before:
            return [gr.skip()] * 5
        choices = names if model is None or model in names else [model, *names]
        same_model = before.listing is not None and listing.find(model) == before.listing.find(
            model
        )
        return [
            now,
            gr.update(choices=choices, value=model),
            gr.skip() if same_model else tokens_update(listing.find(model), max_tokens),
            self._hint(model),
            gr.update(
                placeholder=empty_html(listing, self.texts),
                examples=[{"text": text} for text in self.texts.chat.suggestions] if names else [],
            ),
        ]

    async def _first_model(self) -> str | None:
        """The model that a page begins with, if any is up."""
        models = (await self.panes.directory.listing()).models
        return models[0].name if models else None

    def _hint(self, model: str | None) -> dict[str, Any]:
        """The message box with what it asks for."""
        words = self.texts.chat
        return gr.update(placeholder=words.ask.format(model=model) if model else words.wait)


async def updates(panes: AsyncIterator[Pane]) -> AsyncIterator[list[Any]]:
    """What the browser is sent for each of `panes`: only what differs from the one before."""
    before: list[Any] = []
    async for pane in panes:
        now = draw(pane)
        yield [gr.skip() if now[i] == x else now[i] for i, x in enumerate(before)] or now
        before = now


def draw(pane: Pane) -> list[Any]:
    """The values that show `pane`: itself, conversation, notice, message box, two buttons."""
    message: dict[str, Any] = {"submit_btn": not pane.running, "stop_btn": pane.running}
    if pane.draft is not None:
        message["value"] = pane.draft
    return [
        pane,
        gr.update(
            value=[{"role": said.role, "content": shown(said.text)} for said in pane.messages]
        ),
        gr.update(value=notice_html(pane.notice)),
        gr.update(**message),
        gr.update(interactive=pane.can_regenerate),
        gr.update(interactive=pane.can_regenerate),
    ]


def tokens_update(model: Model | None, wanted: float) -> dict[str, Any]:
    """The token limit for `model`: an answer cannot be longer than its context."""
    most = MAX_TOKENS
    if model is not None and model.context_length is not None:
        most = max(MIN_TOKENS, min(MAX_TOKENS, model.context_length))
    return gr.update(maximum=most, value=min(int(wanted), most))


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
