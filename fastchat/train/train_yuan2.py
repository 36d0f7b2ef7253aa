"""Fine-tunes Yuan 2 in its template, with one of its three losses.

    torchrun --nproc_per_node=4 fastchat/train/train_yuan2.py --model_name_or_path PATH \\
        --efficient_loss True --data_path FILE --output_dir DIR
"""

import sys
from collections.abc import Sequence

from fastchat.train.presets import TRAIN_YUAN2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    from fastchat.train import fit

    return fit.main(argv, prog="python3 -m fastchat.train.train_yuan2", preset=TRAIN_YUAN2)


if __name__ == "__main__":
    sys.exit(main())
