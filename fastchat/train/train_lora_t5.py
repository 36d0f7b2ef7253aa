"""Trains a LoRA adapter of a T5.

    torchrun --nproc_per_node=2 fastchat/train/train_lora_t5.py --model_name_or_path PATH \\
        --data_path FILE --output_dir DIR
"""

import sys
from collections.abc import Sequence

from fastchat.train.presets import TRAIN_LORA_T5


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    from fastchat.train import fit

    return fit.main(argv, prog="python3 -m fastchat.train.train_lora_t5", preset=TRAIN_LORA_T5)


if __name__ == "__main__":
    sys.exit(main())
