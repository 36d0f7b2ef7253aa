"""Which implementation of attention a training uses."""

import importlib.util
import logging

from fastchat.train.arguments import Arguments

logger = logging.getLogger(__name__)


def choose_attention(arguments: Arguments) -> str | None:
    """The name for transformers, said in the log; None leaves the choice to it.

    A flag wins over what the command prefers. `xformers` is a name of old: its kernel for cards
    without FlashAttention is part of torch, and no model code has to be replaced for it.
    """
    asked = arguments.model.attn_implementation
    prefers = arguments.preset.attention
    if asked == "xformers" or (asked is None and prefers == "xformers"):
        chosen, why = "sdpa", "torch's own memory-efficient kernel, in place of xformers'"
    elif asked is not None:
        return asked
    elif arguments.model.flash_attn or prefers == "memory_saving":
        chosen = memory_saving_attention()
        why = "" if chosen == "flash_attention_2" else "FlashAttention 2 cannot be used here"
    else:
        return None
    if arguments.training.process_index == 0:
        logger.info("attention=%s%s", chosen, f" ({why})" if why else "")
    return chosen


def memory_saving_attention() -> str:
    """FlashAttention 2 where it is installed and the GPU can use it, else torch's own."""
    import torch

    usable = (
        importlib.util.find_spec("flash_attn") is not None
        and torch.cuda.is_available()
        and torch.cuda.get_device_capability()[0] >= 8
    )
    return "flash_attention_2" if usable else "sdpa"
