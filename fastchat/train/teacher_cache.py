"""What a teacher said of a row, kept in a file, so that later epochs do without it.

Only the best logits of every supervised position are kept, as probabilities of the whole
softened distribution.
"""

import hashlib
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastchat.errors import DataError
from fastchat.store.wal import switch_to_wal

BUSY_S = 60
"""How long a process waits for another that writes into the same file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The likeliest tokens at every position."""

    ids: Tensor
    """(n, k) int64."""
    log_probs: Tensor
    """(n, k) float32, of the distribution over the whole vocabulary."""


class TeacherCache:
    """Rows of a batch -> `Best`, in an SQLite file that several processes may share.

    Args:
        path: the file; made when it is not there.
        teacher, temperature, top_k: another teacher, temperature or number is another entry.
    """

    def __init__(self, path: Path, *, teacher: str, temperature: float, top_k: int) -> None:
        self.temperature = temperature
        self.top_k = top_k
        self.salt = repr((teacher, temperature, top_k)).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
            switch_to_wal(self.db, wait_s=BUSY_S)
            self.db.execute(
                "CREATE TABLE IF NOT EXISTS said (row BLOB PRIMARY KEY, ids BLOB, log_probs BLOB)"
            )
        except sqlite3.Error as error:
            raise DataError(f"--kd_cache {path} cannot be used: {error}") from None

    def read(self, inputs: Mapping[str, Tensor], supervised: Tensor) -> Best | None:
        """What is known of all rows; None when any of them is new."""
        kept: list[tuple[bytes, bytes]] = []
        for key in self._keys(inputs, supervised):
            found = self.db.execute("SELECT ids, log_probs FROM said WHERE row = ?", [key])
            if (row := found.fetchone()) is None:
                return None
            kept.append(row)
        ids = np.concatenate([np.frombuffer(a, np.int32) for a, _ in kept]).astype(np.int64)
        log_probs = np.concatenate([np.frombuffer(b, np.float32) for _, b in kept])
        n = int(supervised.sum())
        device = supervised.device
        return Best(
            ids=torch.from_numpy(ids.reshape(n, -1)).to(device),
            log_probs=torch.from_numpy(log_probs.reshape(n, -1).copy()).to(device),
        )

    def write(self, inputs: Mapping[str, Tensor], supervised: Tensor, *, logits: Tensor) -> Best:
        """Keeps the best of the logits at the supervised positions, (n, vocabulary)."""
        log_probs = torch.log_softmax(logits.float() / self.temperature, dim=-1)
        top = log_probs.topk(min(self.top_k, log_probs.shape[-1]), dim=-1)
        counts = supervised.sum(dim=1).tolist()
        rows = zip(
            self._keys(inputs, supervised),
            top.indices.to(torch.int32).cpu().split(counts),
            top.values.cpu().split(counts),
            strict=True,
        )
        self.db.executemany(
            "INSERT OR REPLACE INTO said VALUES (?, ?, ?)",
            [(key, ids.numpy().tobytes(), x.numpy().tobytes()) for key, ids, x in rows],
        )
        return Best(ids=top.indices, log_probs=top.values)

    def _keys(self, inputs: Mapping[str, Tensor], supervised: Tensor) -> list[bytes]:
        """A key for every row: padding does not count, positions of packed rows do."""
        ids, mask = inputs["input_ids"].cpu(), inputs.get("attention_mask")
        positions = inputs.get("position_ids")
        keys: list[bytes] = []
        for i in range(len(ids)):
            is_real = torch.ones_like(ids[i], dtype=torch.bool)
            if mask is not None and mask.dim() == 2:
                is_real = mask[i].cpu().bool()
            chosen = torch.nn.functional.pad(supervised[i].cpu(), (0, 1))
            parts = [ids[i][is_real], chosen[is_real]]
            if positions is not None:
                parts.append(positions[i].cpu()[is_real])
            key = hashlib.sha256(self.salt)
            for part in parts:
                key.update(part.numpy().tobytes())
            keys.append(key.digest())
        return keys
