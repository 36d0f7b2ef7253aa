"""Fine-tunes a model on conversations with attention that saves memory.

FlashAttention 2 where it is installed and the GPU can use it, else torch's own
scaled-dot-product attention.
"""

import importlib.util
import logging
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with the attention that fits this machine."""
    from fastchat.train import fit

    return fit.main(
        argv, prog="python3 -m fastchat.train.train_mem", attention=memory_saving_attention
    )


def memory_saving_attention() -> str:
    """The name of the attention to use, said in a note."""
    import torch

    usable = (
        importlib.util.find_spec("flash_attn") is not None
        and torch.cuda.is_available()
        and torch.cuda.get_device_capability()[0] >= 8
    )
    name = "flash_attention_2" if usable else "sdpa"
    logging.getLogger("fastchat.train").info("attention=%s", name)
    return name


if __name__ == "__main__":
    sys.exit(main())
