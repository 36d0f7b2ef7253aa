"""Temperature, Top P and the longest answer: the sliders of every conversation, as published."""

from typing import Any

import gradio as gr

from fastchat.web.models import Model
from fastchat.web.pieces import Sampling
from fastchat.web.texts import Texts

MIN_TOKENS = 16
MAX_TOKENS = 2048
TOKENS_STEP = 64


def build_sliders(texts: Texts, first: Sampling, *, visible: bool = True) -> list[gr.Slider]:
    """The sliders at the values of `first`, folded away; a battle does not show them."""
    words = texts.chat
    specs = [
        (0.0, 1.0, first.temperature, 0.1, words.temperature, words.temperature_info),
        (0.0, 1.0, first.top_p, 0.1, words.top_p, words.top_p_info),
        (MIN_TOKENS, MAX_TOKENS, first.max_tokens, TOKENS_STEP, words.max_tokens,
         words.max_tokens_info),
    ]  # fmt: skip
    with gr.Accordion(
        texts.page.parameters, open=False, elem_classes="parameters", visible=visible
    ):
        return [
            gr.Slider(low, high, value=value, step=step, label=label, info=info, interactive=True)
            for low, high, value, step, label, info in specs
        ]


def sampling_of(temperature: float, top_p: float, max_tokens: float) -> Sampling:
    """The sliders' values, kept within the sliders' ends."""
    return Sampling(
        temperature=min(max(float(temperature), 0.0), 1.0),
        top_p=min(max(float(top_p), 0.0), 1.0),
        max_tokens=min(max(int(max_tokens), MIN_TOKENS), MAX_TOKENS),
    )


def tokens_update(model: Model | None, wanted: float) -> dict[str, Any]:
    """The token limit for `model`: an answer cannot be longer than its context."""
    most = MAX_TOKENS
    if model is not None and model.context_length is not None:
        most = max(MIN_TOKENS, min(MAX_TOKENS, model.context_length))
    return gr.update(maximum=most, value=min(int(wanted), most))
