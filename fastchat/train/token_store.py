"""Tokenized examples in files that are mapped into memory.

One process tokenizes, all map the same pages. A store is known by what it was made from: the
bytes of the data, the tokenizer, the template and the window; a run that asks for the same
finds it again.
"""

import hashlib
import json
import multiprocessing
import os
import re
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastchat.data.records import Record, Rejected
from fastchat.errors import DataError
from fastchat.train.account import Account, Rules, teach
from fastchat.train.examples import IGNORED, Example, Labeller

FORMAT = 1
"""Raised when the files or the rules for labels change, so that old stores are made anew."""
CHUNK = 256
"""Records that are tokenized in one call."""
ALONE = 16
"""Chunks that one process tokenizes before it asks others to help: they take a second to start."""


class TokenStore:
    """The examples of a folder, each read from the mapped files when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.account = Account.from_json(json.loads((folder / "account.json").read_text("utf-8")))
        self.bounds: npt.NDArray[np.int64] = np.load(folder / "bounds.npy")
        self.families: npt.NDArray[np.uint64] = np.load(folder / "families.npy")
        self._ids = np.memmap(folder / "ids.bin", dtype=np.int32, mode="r")
        self._learned = np.memmap(folder / "learned.bin", dtype=np.bool_, mode="r")

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenStore, (self.folder,)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, index: int) -> Example:
        place = slice(self.bounds[index], self.bounds[index + 1])
        ids = np.array(self._ids[place])
        labels = np.where(self._learned[place], ids, np.int32(IGNORED))
        return Example(input_ids=ids, labels=labels)

    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of every example."""
        return np.diff(self.bounds)


def family(id: str) -> int:
    """A number for the conversation that a record is part of.

    Splitting long conversations gives ids `<id>_<first message>`; their parts belong together.
    """
    stem = re.sub(r"_\d+$", "", id)
    return int.from_bytes(hashlib.blake2b(stem.encode(), digest_size=8).digest(), "big")


def store_key(paths: Sequence[str], labeller: Labeller, *, rules: Rules, template: str) -> str:
    """The name of the store of these files' examples."""
    digest = hashlib.blake2b(digest_size=12)
    for path in paths:
        try:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, hashlib.blake2b).digest())
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}.") from None
    tokenizer = re.sub(r"[\ue000\ue002][0-9a-f]{16}:", "", labeller.backend.to_str())
    for part in (FORMAT, tokenizer, template, labeller.max_length, rules):
        digest.update(hashlib.blake2b(repr(part).encode()).digest())
    return digest.hexdigest()


def open_store(
    folder: Path,
    records: Iterable[Record | Rejected],
    labeller: Labeller,
    *,
    rules: Rules,
    n_workers: int = 1,
) -> TokenStore:
    """The store in `folder`, tokenized first where it is not there.

    It is written under another name and renamed when it is whole, so that nobody finds half.
    """
    if not (folder / "account.json").is_file():
        unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            unfinished.mkdir(parents=True)
            _write(unfinished, records, labeller, rules=rules, n_workers=n_workers)
            _put(unfinished, folder)
        except OSError as error:
            raise DataError(
                f"the tokenized data cannot be written to {folder.parent}: "
                f"{error.strerror or error}; name another folder with --data_cache."
            ) from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return TokenStore(folder)


def _put(unfinished: Path, folder: Path) -> None:
    """Gives a whole store its name, unless another run that made the same was first."""
    if (folder / "account.json").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        unfinished.rename(folder)
    except OSError:
        if not (folder / "account.json").is_file():
            raise


def _write(
    folder: Path,
    records: Iterable[Record | Rejected],
    labeller: Labeller,
    *,
    rules: Rules,
    n_workers: int,
) -> None:
    account = Account()
    bounds, families = [0], list[int]()
    with open(folder / "ids.bin", "wb") as ids, open(folder / "learned.bin", "wb") as learned:
        for taken, part in taught_chunks(records, labeller, rules=rules, n_workers=n_workers):
            account.add(part)
            for id, example in taken:
                ids.write(example.input_ids.tobytes())
                learned.write((example.labels != IGNORED).tobytes())
                bounds.append(bounds[-1] + len(example.input_ids))
                families.append(family(id))
        if not bounds[-1]:
            # An empty file cannot be mapped.
            ids.write(bytes(4))
            learned.write(bytes(1))
    np.save(folder / "bounds.npy", np.array(bounds, dtype=np.int64))
    np.save(folder / "families.npy", np.array(families, dtype=np.uint64))
    (folder / "account.json").write_text(json.dumps(account.to_json()), "utf-8")


Taught = tuple[list[tuple[str, Example]], Account]


def taught_chunks(
    records: Iterable[Record | Rejected], labeller: Labeller, *, rules: Rules, n_workers: int = 1
) -> Iterator[Taught]:
    """The examples of the records in their order, some at a time, and what became of them."""
    source = iter(records)
    chunks = iter(lambda: list(islice(source, CHUNK)), [])
    for chunk in islice(chunks, None if n_workers < 2 else ALONE):
        account = Account()
        yield teach(chunk, labeller, rules=rules, account=account), account
    if n_workers < 2 or (first := next(chunks, None)) is None:
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        n_workers, mp_context=context, initializer=_begin_work, initargs=(labeller, rules)
    ) as pool:
        under_way: deque[Future[Taught]] = deque([pool.submit(_work, first)])
        for chunk in chunks:
            under_way.append(pool.submit(_work, chunk))
            if len(under_way) > 2 * n_workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


_labeller: Labeller
_rules: Rules


def _begin_work(labeller: Labeller, rules: Rules) -> None:
    """Sets up a process that tokenizes: one of many, it needs one thread."""
    global _labeller, _rules
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _labeller, _rules = labeller, rules


def _work(chunk: list[Record | Rejected]) -> Taught:
    account = Account()
    return teach(chunk, _labeller, rules=_rules, account=account), account
