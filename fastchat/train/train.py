"""Fine-tunes a model on conversations.

    torchrun --nproc_per_node=4 fastchat/train/train.py --model_name_or_path PATH \\
        --data_path data/dummy_conversation.json --output_dir output_vicuna
"""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; transformers chooses the attention."""
    from fastchat.train import fit

    return fit.main(argv, prog="python3 -m fastchat.train.train")


if __name__ == "__main__":
    sys.exit(main())
