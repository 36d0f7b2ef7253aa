"""Shuffles records and splits them into one file to train on and one to test with."""

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastchat.data.files import STANDARD, open_writer
from fastchat.data.light import LightSettings
from fastchat.data.naming import named, only_input
from fastchat.data.pipeline import Report, flow, write_report
from fastchat.data.spool import Spool
from fastchat.errors import UsageError
from fastchat.settings import run_command

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PART_NUMBER = re.compile(r"_[0-9]+\Z")
"""What the splitter of long conversations adds to an id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTrainTestSettings(LightSettings):
    """Shuffles records and splits them into a training and a test file."""

    ratio: float = 0.9
    """Share of the records to train on."""
    seed: int = 0
    """Seed of the permutation, which is numpy's legacy one: the same on every machine."""
    group: bool = False
    """Keep the parts of one conversation (ids that differ in a last _NUMBER) on one side."""
    train_out: str | None = None
    """File to train on; <name>_train beside the input unless given."""
    test_out: str | None = None
    """File to test with; <name>_test beside the input unless given."""


def split_order(n_records: int, *, seed: int) -> "npt.NDArray[np.int64]":
    """(n_records,), the records' numbers in the order in which they are dealt out."""
    import numpy as np

    return np.random.RandomState(seed).permutation(n_records)


def whole_families(
    stems: Sequence[int], order: "npt.NDArray[np.int64]", n_train: int
) -> list[bool]:
    """For each place in `order` whether its record is trained on, families undivided.

    stems: the family of each record.
    Families are dealt out in the order of their first members until `n_train` records are had.
    """
    sizes = Counter(stems)
    is_trained: dict[int, bool] = {}
    n_dealt = 0
    sides: list[bool] = []
    for number in order:
        family = stems[number]
        if family not in is_trained:
            is_trained[family] = n_dealt + sizes[family] <= n_train
            n_dealt += sizes[family] * is_trained[family]
        sides.append(is_trained[family])
    return sides


def split_train_test(settings: SplitTrainTestSettings) -> None:
    """Writes both files and prints the counts."""
    _check(settings)
    train_out, test_out = out_files(settings)
    report = Report()
    families: dict[str, int] = {}
    stems: list[int] = []
    with Spool() as spool:
        for record in flow(settings, [], report):
            spool.append(record)
            if settings.group:
                stem = PART_NUMBER.sub("", record.id)
                stems.append(families.setdefault(stem, len(families)))
        order = split_order(len(spool), seed=settings.seed)
        n_train = int(settings.ratio * len(spool))
        sides = (
            whole_families(stems, order, n_train=n_train)
            if settings.group
            else [place < n_train for place in range(len(order))]
        )
        with ExitStack() as opened:
            train = opened.enter_context(open_writer(train_out, settings.format))
            test = opened.enter_context(open_writer(test_out, settings.format))
            for number, is_trained in zip(order, sides, strict=True):
                (train if is_trained else test).write(spool[int(number)].to_json())
    report.changed["to train on"] = sum(sides)
    report.changed["to test with"] = len(sides) - sum(sides)
    write_report(settings, report)
    print(f"#train: {sum(sides)}, #test: {len(sides) - sum(sides)}")


def out_files(settings: SplitTrainTestSettings) -> tuple[str, str]:
    """The files to train on and to test with."""
    return (
        settings.train_out or named(only_input(settings, "--train-out"), "train"),
        settings.test_out or named(only_input(settings, "--test-out"), "test"),
    )


def _check(settings: SplitTrainTestSettings) -> None:
    if not 0 <= settings.ratio <= 1:
        raise UsageError(f"--ratio {settings.ratio} is no share; give a number from 0 to 1.")
    if settings.out_file is not None:
        raise UsageError("there are two outputs; name them with --train-out and --test-out.")
    if settings.resume:
        raise UsageError("--resume cannot be: records are shuffled; run the command anew.")
    if STANDARD in (settings.train_out, settings.test_out):
        raise UsageError("two outputs cannot share the standard output; name files.")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        SplitTrainTestSettings,
        split_train_test,
        argv,
        prog="python3 -m fastchat.data.split_train_test",
    )


if __name__ == "__main__":
    raise SystemExit(main())
