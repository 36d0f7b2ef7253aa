"""Weights kept in 8 bits, by groups of neighbours along the input (scheme of `--load-8bit`)."""

from typing import Any


def loading_arguments() -> dict[str, Any]:
    """Arguments of `from_pretrained` that quantize each linear weight as it is read."""
    raise NotImplementedError


def offloading_arguments() -> dict[str, Any]:
    """Arguments of `from_pretrained` for 8-bit weights of which some stay on the CPU."""
    raise NotImplementedError
