"""Examples from files that are never held whole: neither their records nor an index of them.

Records are mixed as they come, tokenized some at a time, and shuffled (and packed) within a
buffer. Which row comes at which place depends on the files, the seed and the number of the epoch
alone, so a resumed training finds its place again by counting.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from fastchat.data.records import Record, Rejected
from fastchat.train.account import Account, Rules, teach
from fastchat.train.examples import Example, Labeller
from fastchat.train.mixing import MixUntil, turns
from fastchat.train.packing import Row, pack
from fastchat.train.token_store import CHUNK

Records = Callable[[], Iterable[Record | Rejected]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What a stream consists of."""

    sources: Sequence[Records]
    weights: Sequence[float] | None = None
    """Proportions; without them one source follows the other."""
    until: MixUntil = "first_exhausted"
    n_buffered: int = 10_000
    """Examples that are shuffled and packed together."""
    seed: int = 0


class StreamedExamples(IterableDataset[Example | Row]):
    """The rows of a stream, in each epoch in another order.

    window: rows are packed up to it; None leaves every example its own row.
    """

    def __init__(
        self, stream: Stream, labeller: Labeller, *, rules: Rules, window: int | None = None
    ) -> None:
        self.stream = stream
        self.labeller = labeller
        self.rules = rules
        self.window = window
        self.account = Account()
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Says which pass over the data the next iteration is."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Example | Row]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        return islice(self._rows(), first, None, step)

    def _rows(self) -> Iterator[Example | Row]:
        rng = np.random.default_rng([self.stream.seed, self.epoch])
        if not self.epoch:
            # Beginning again, as a resumed training does, must count nothing twice.
            self.account.clear()
        examples = self.examples(Account() if self.epoch else self.account)
        while buffer := list(islice(examples, self.stream.n_buffered)):
            if self.window is None:
                for i in rng.permutation(len(buffer)).tolist():
                    yield buffer[i]
                continue
            rows = pack([len(example.input_ids) for example in buffer], self.window)
            for i in rng.permutation(len(rows)).tolist():
                yield tuple(buffer[j] for j in rows[i])

    def examples(self, account: Account) -> Iterator[Example]:
        """The examples in the order of the files."""
        records = mixed_records(self.stream)
        while chunk := list(islice(records, CHUNK)):
            for _, example in teach(chunk, self.labeller, rules=self.rules, account=account):
                yield example


def mixed_records(stream: Stream) -> Iterator[Record | Rejected]:
    """The records of all sources."""
    if stream.weights is None:
        for source in stream.sources:
            yield from source()
        return
    readers = [iter(source()) for source in stream.sources]
    ended: set[int] = set()
    for i in turns(stream.weights):
        record = next(readers[i], None)
        if record is None:
            ended.add(i)
            if stream.until == "first_exhausted" or len(ended) == len(readers):
                return
            readers[i] = iter(stream.sources[i]())
            record = next(readers[i], None)
            if record is None:
                return
        yield record
