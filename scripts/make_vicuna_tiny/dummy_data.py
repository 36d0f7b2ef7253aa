"""Writes data/dummy_conversation.json: 500 small conversations to try the training code on.

python scripts/make_vicuna_tiny/dummy_data.py
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

from conversations import training_records

N_RECORDS = 500
PATH = Path(__file__).resolve().parents[2] / "data" / "dummy_conversation.json"


def main() -> int:
    """Writes the file and says so."""
    records = dummy_records(random.Random(0))
    text = json.dumps(records, indent=2, ensure_ascii=False)
    PATH.write_text(text + "\n", "utf-8")
    print(f"{len(records)} conversations in {PATH}")
    return 0


def dummy_records(r: random.Random) -> list[dict[str, Any]]:
    """Conversations of 2, 4 or 6 messages, the human first."""
    records: list[dict[str, Any]] = []
    for record in training_records(20_000, seed=5):
        if len(records) == N_RECORDS:
            break
        n_messages = 2 * r.choice((1, 2, 3))
        if len(record["conversations"]) >= n_messages and "system" not in record:
            conversations = record["conversations"][:n_messages]
            records.append({"id": f"dummy_{len(records)}", "conversations": conversations})
    return records


if __name__ == "__main__":
    sys.exit(main())
