"""What a command needs beyond the base installation, told in one line where it lacks."""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from fastchat.errors import UsageError

S = TypeVar("S")

EXTRA_OF = {
    **dict.fromkeys(
        (
            *("gradio", "huggingface_hub", "jsonschema", "markdown_it", "plotly", "regex"),
            *("scipy", "yaml"),
        ),
        "llm_judge",
    ),
    **dict.fromkeys(
        (
            *("accelerate", "llguidance", "peft", "PIL", "safetensors", "sentencepiece"),
            *("tokenizers", "torch", "transformers"),
        ),
        "model_worker",
    ),
}
"""The extra of pyproject.toml that brings a module."""


def needing_extras(body: Callable[[S], int | None]) -> Callable[[S], int | None]:
    """`body`, whose missing modules become a line that says what to install.

    Raises:
        UsageError: a module of an extra is not installed.
    """

    @wraps(body)
    def run(settings: S) -> int | None:
        try:
            return body(settings)
        except ModuleNotFoundError as error:
            module = (error.name or "").partition(".")[0]
            if module not in EXTRA_OF:
                raise
            extra = EXTRA_OF[module]
            raise UsageError(
                f"this needs the package {module}: pip install 'fschat[{extra}]'."
            ) from error

    return run
