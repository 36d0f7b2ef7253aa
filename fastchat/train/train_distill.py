"""Trains a model to answer as a greater one does.

    python3 -m fastchat.train.train_distill --model_name_or_path SMALL \\
        --teacher_model_name_or_path GREAT --data_path FILE --output_dir DIR
"""

import sys
from collections.abc import Sequence

from fastchat.train.presets import TRAIN_DISTILL


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    from fastchat.train import fit

    return fit.main(argv, prog="python3 -m fastchat.train.train_distill", preset=TRAIN_DISTILL)


if __name__ == "__main__":
    sys.exit(main())
