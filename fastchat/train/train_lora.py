"""Trains a LoRA adapter; with `--q_lora True` on a model in 4 bits.

    torchrun --nproc_per_node=2 fastchat/train/train_lora.py --model_name_or_path PATH \\
        --data_path FILE --output_dir DIR --lora_r 8 --lora_alpha 16
"""

import sys
from collections.abc import Sequence

from fastchat.train.presets import TRAIN_LORA


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    from fastchat.train import fit

    return fit.main(argv, prog="python3 -m fastchat.train.train_lora", preset=TRAIN_LORA)


if __name__ == "__main__":
    sys.exit(main())
