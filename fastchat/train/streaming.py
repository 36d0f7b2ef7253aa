"""Examples from files that are never held whole: neither their records nor an index of them.

Records are mixed as they come, tokenized some at a time, and shuffled (and packed) within a
buffer. Which row comes at which place depends on the files, the seed, the number of the epoch and
how many processes share the records, so a resumed training finds its place again by counting.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from fastchat.data.records import Record, Rejected
from fastchat.errors import DataError
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Which of a stream's records one process takes."""

    number: int = 0
    of: int = 1

    def holds(self, place: int) -> bool:
        """Whether it takes the record at this place.

        Each takes one of every `of` in a row, another one each time: sources that take turns
        come to every process.
        """
        return (place + place // self.of) % self.of == self.number

    def part(self, number: int, of: int) -> "Share":
        """One of the parts of this share."""
        return Share(number=self.number * of + number, of=self.of * of)


WHOLE = Share()


class StreamedExamples(IterableDataset[Example | Row]):
    """The rows of a stream, in each epoch in another order.

    Every process reads the files and makes examples of its own share of the records only, as
    does every worker process of a loader. The buffer is shared out as well.

    Args:
        stream: what it consists of.
        labeller: makes the examples.
        rules: what is learned.
        window: rows are packed up to it; None leaves every example its own row.
        share: the records of this process.
    """

    def __init__(
        self,
        stream: Stream,
        labeller: Labeller,
        *,
        rules: Rules,
        window: int | None = None,
        share: Share = WHOLE,
    ) -> None:
        self.stream = stream
        self.labeller = labeller
        self.rules = rules
        self.window = window
        self.share = share
        self.account = Account()
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Says which pass over the data the next iteration is."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Example | Row]:
        worker = get_worker_info()
        share = self.share.part(worker.id, worker.num_workers) if worker else self.share
        rng = np.random.default_rng([self.stream.seed, self.epoch])
        if not self.epoch:
            # Beginning again, as a resumed training does, must count nothing twice.
            self.account.clear()
        examples = self.examples(Account() if self.epoch else self.account, share)
        n_buffered = max(1, self.stream.n_buffered // share.of)
        while buffer := list(islice(examples, n_buffered)):
            if self.window is None:
                for i in rng.permutation(len(buffer)).tolist():
                    yield buffer[i]
                continue
            rows = pack([len(example.input_ids) for example in buffer], self.window)
            for i in rng.permutation(len(rows)).tolist():
                yield tuple(buffer[j] for j in rows[i])

    def examples(self, account: Account, share: Share = WHOLE) -> Iterator[Example]:
        """The examples of a share of the records, in the order of the files."""
        records = enumerate(mixed_records(self.stream))
        mine = (record for place, record in records if share.holds(place))
        while chunk := list(islice(mine, CHUNK)):
            for _, example in teach(chunk, self.labeller, rules=self.rules, account=account):
                yield example


class EndlessRows(IterableDataset[Example | Row]):
    """One pass over a stream after the other.

    Shares need not have equally many rows, so processes that each ended a pass in their own
    time would go apart.
    """

    def __init__(self, examples: StreamedExamples) -> None:
        self.examples = examples

    def __iter__(self) -> Iterator[Example | Row]:
        for number in count():
            self.examples.set_epoch(number)
            is_empty = True
            for row in self.examples:
                is_empty = False
                yield row
            if is_empty:
                share = self.examples.share
                raise DataError(
                    f"the stream has nothing to learn for process {share.number + 1} of "
                    f"{share.of}: there are too few records; train on fewer processes, with fewer "
                    "--dataloader_num_workers, or without --streaming."
                )


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
