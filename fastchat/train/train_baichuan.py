"""Fine-tunes Baichuan; 2 % of the conversations are held out.

    torchrun --nproc_per_node=4 fastchat/train/train_baichuan.py --model_name_or_path PATH \\
        --trust_remote_code True --data_path FILE --output_dir DIR
"""

import sys
from collections.abc import Sequence

from fastchat.train.presets import TRAIN_BAICHUAN


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    from fastchat.train import fit

    return fit.main(argv, prog="python3 -m fastchat.train.train_baichuan", preset=TRAIN_BAICHUAN)


if __name__ == "__main__":
    sys.exit(main())
