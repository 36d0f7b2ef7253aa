"""Fine-tunes a model with attention that saves memory: FlashAttention 2, or torch's own.

    torchrun --nproc_per_node=4 fastchat/train/train_mem.py --model_name_or_path PATH \\
        --data_path data/dummy_conversation.json --output_dir output_vicuna
"""

import sys
from collections.abc import Sequence

from fastchat.train.presets import TRAIN_MEM


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    from fastchat.train import fit

    return fit.main(argv, prog="python3 -m fastchat.train.train_mem", preset=TRAIN_MEM)


if __name__ == "__main__":
    sys.exit(main())
