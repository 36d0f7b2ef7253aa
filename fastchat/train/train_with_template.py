"""Fine-tunes a model in the template that its path is known for; 2 % are held out.

    torchrun --nproc_per_node=4 fastchat/train/train_with_template.py \\
        --model_name_or_path PATH --data_path FILE --output_dir DIR
"""

import sys
from collections.abc import Sequence

from fastchat.train.presets import TRAIN_WITH_TEMPLATE


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    from fastchat.train import fit

    return fit.main(
        argv, prog="python3 -m fastchat.train.train_with_template", preset=TRAIN_WITH_TEMPLATE
    )


if __name__ == "__main__":
    sys.exit(main())
