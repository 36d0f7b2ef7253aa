"""Trains a model on preferences: pairs of a better and a worse answer, or votes of battles.

    python3 -m fastchat.train.train_dpo --model_name_or_path PATH --lora True \\
        --data_path pairs.jsonl --output_dir DIR --beta 0.1
"""

import sys
from collections.abc import Sequence

from fastchat.train.presets import TRAIN_DPO


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    from fastchat.train import fit

    return fit.main(argv, prog="python3 -m fastchat.train.train_dpo", preset=TRAIN_DPO)


if __name__ == "__main__":
    sys.exit(main())
