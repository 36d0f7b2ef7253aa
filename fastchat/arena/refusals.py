"""Tells an answer that refuses, by how it begins; the phrases are data (`refusals.toml`)."""

import functools
import tomllib
from importlib import resources


def is_refusal(text: str) -> bool:
    """Whether one of the known phrases stands at the beginning of the text."""
    within, phrases = _rules()
    beginning = text[:within].lower().replace("’", "'")
    return any(phrase in beginning for phrase in phrases)


@functools.cache
def _rules() -> tuple[int, tuple[str, ...]]:
    text = resources.files("fastchat.arena").joinpath("refusals.toml").read_text("utf-8")
    data = tomllib.loads(text)
    return int(data["within"]), tuple(data["phrases"])
