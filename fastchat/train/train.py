"""Fine-tunes a model on conversations.

    torchrun --nproc_per_node=4 fastchat/train/train.py --model_name_or_path PATH \\
        --data_path data/dummy_conversation.json --output_dir output_vicuna
"""

import sys
from collections.abc import Sequence

from fastchat.train.presets import TRAIN


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    from fastchat.train import fit

    return fit.main(argv, prog="python3 -m fastchat.train.train", preset=TRAIN)


if __name__ == "__main__":
    sys.exit(main())
