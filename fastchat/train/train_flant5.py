"""Fine-tunes Flan-T5 on conversations, one pair a reply.

    torchrun --nproc_per_node=4 fastchat/train/train_flant5.py \\
        --model_name_or_path google/flan-t5-xl --data_path FILE --output_dir DIR \\
        --preprocessed_path preprocessed_data/processed.json
"""

import sys
from collections.abc import Sequence

from fastchat.train.presets import TRAIN_FLANT5


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    from fastchat.train import fit

    return fit.main(argv, prog="python3 -m fastchat.train.train_flant5", preset=TRAIN_FLANT5)


if __name__ == "__main__":
    sys.exit(main())
