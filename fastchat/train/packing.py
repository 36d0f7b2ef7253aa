"""Conversations side by side in rows of the window's length, and batches of them as tensors.

Best fit, the longest first: each conversation goes into the fullest row that still has room for
it. In a row every conversation begins with position 0 and sees itself only: that is told by
`position_ids` and, where attention works on bounds, by `cu_seq_lens_q`, never by a mask.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from fastchat.train.examples import IGNORED, Example

if TYPE_CHECKING:
    import torch

Row = tuple[Example, ...]
Layout = Literal["padded", "rows", "flat"]
"""A batch as conversations padded to the longest, as packed rows padded to the longest, or as
one row of everything without any padding."""


class ExampleSet(Protocol):
    """Examples by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of every example."""
        ...


def pack(lengths: Sequence[int] | npt.NDArray[np.int64], window: int) -> list[list[int]]:
    """Rows of numbers of examples whose lengths add up to at most `window`.

    A length above the window counts as the window.
    """
    rows: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # the keys of by_room in order
    sizes = np.minimum(np.asarray(lengths, dtype=np.int64), window)
    for index in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[index])
        at = bisect_left(rooms, size)
        if at == len(rooms):
            row, room = len(rows), window
            rows.append([])
        else:
            room = rooms[at]
            row = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[at]
        rows[row].append(index)
        left = room - size
        if left:
            if left not in by_room:
                by_room[left] = []
                insort(rooms, left)
            by_room[left].append(row)
    return rows


class PackedRows:
    """Examples as rows of at most `window` tokens."""

    def __init__(self, examples: ExampleSet, *, window: int) -> None:
        self.examples = examples
        sizes = examples.lengths()
        self.rows = pack(sizes, window)
        self._lengths = np.array([sizes[row].sum() for row in self.rows], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return tuple(self.examples[i] for i in self.rows[index])

    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of every row."""
        return self._lengths


COUNTS = "batch_counts"
"""Key under which a batch tells its real tokens, its positions and its learned tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collator:
    """A batch of examples as tensors.

    Padding is known by position, never by an id: any id may also occur in a text.
    """

    pad_id: int
    padding_side: str = "right"
    layout: Layout = "padded"
    learned_only: bool = False
    """Whether the model is asked for logits only where something is learned: a head over a
    vocabulary is a good part of a model, and of a step's memory most."""

    def __call__(self, items: Sequence[Example | Row]) -> dict[str, Any]:
        """`input_ids` and `labels`, each (rows, length) int64, and what the layout needs.

        padded: `attention_mask`; rows and flat: `position_ids`; flat: the bounds besides.
        """
        rows = [item if isinstance(item, tuple) else (item,) for item in items]
        if self.layout == "padded":
            rows = [(example,) for row in rows for example in row]
        elif self.layout == "flat":
            rows = [tuple(example for row in rows for example in row)]
        sizes = [sum(len(example.input_ids) for example in row) for row in rows]
        shape = (len(rows), max(sizes))
        ids = np.full(shape, self.pad_id, dtype=np.int64)
        labels = np.full(shape, IGNORED, dtype=np.int64)
        positions = np.zeros(shape, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for i, (row, size) in enumerate(zip(rows, sizes, strict=True)):
            left = self.padding_side == "left" and self.layout == "padded"
            start = shape[1] - size if left else 0
            for example in row:
                end = start + len(example.input_ids)
                ids[i, start:end] = example.input_ids
                # What comes first is told by nothing before it.
                labels[i, start + 1 : end] = example.labels[1:]
                positions[i, start:end] = np.arange(end - start)
                mask[i, start:end] = 1
                start = end
            # What pads a row counts as a conversation of its own.
            positions[i, start:] = np.arange(shape[1] - start)
        n_learned = int((labels != IGNORED).sum())
        batch: dict[str, Any] = {"input_ids": ids, **self._targets(labels)}
        if self.layout == "padded":
            batch["attention_mask"] = mask
        else:
            batch["position_ids"] = positions
        batch = _tensors(batch)
        if self.layout == "flat":
            batch |= _bounds([len(example.input_ids) for example in rows[0]])
        if self.layout != "padded":
            # A cache of keys would hide from transformers that positions begin anew.
            batch["use_cache"] = False
        return batch | {COUNTS: (sum(sizes), ids.size, n_learned)}

    def _targets(self, labels: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
        """The labels, or those of the positions whose next token is learned in some row."""
        if not self.learned_only:
            return {"labels": labels}
        shifted = np.full_like(labels, IGNORED)
        shifted[:, :-1] = labels[:, 1:]
        kept = np.flatnonzero((shifted != IGNORED).any(axis=0))
        if not len(kept):
            kept = np.zeros(1, dtype=np.int64)
        targets = np.ascontiguousarray(shifted[:, kept])
        return {"labels": targets, "shift_labels": targets, "logits_to_keep": kept}


def _tensors(arrays: dict[str, npt.NDArray[np.int64]]) -> "dict[str, Any]":
    import torch

    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _bounds(lengths: Sequence[int]) -> "dict[str, torch.Tensor | int]":
    """Where conversations begin and end, under the names that transformers passes on."""
    import torch

    bounds = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    longest = max(lengths)
    return {
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
    }
