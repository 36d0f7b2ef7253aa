"""What became of the data: records, rounds and tokens learned, cut and dropped.

An account adds up: records read = records learned from + records dropped, by their reasons.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fastchat.data.records import Record, Rejected
from fastchat.errors import DataError, FastChatError
from fastchat.train.examples import (
    Example,
    Labeller,
    Lesson,
    LossOn,
    Overlong,
    lessons_of,
    parts_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What of a record is taken."""

    loss_on: LossOn = "all_replies"
    overlong: Overlong = "truncate"


@dataclass(slots=True, kw_only=True)
class Account:
    """Counts of one set of data; they grow while it is read."""

    n_records: int = 0
    n_rounds: int = 0
    """Replies in the records that are learned from."""
    n_examples: int = 0
    n_tokens: int = 0
    n_learned: int = 0
    """Tokens that carry loss."""
    n_cut_examples: int = 0
    n_cut_tokens: int = 0
    n_cut_learned: int = 0
    """Tokens that would carry loss if the window were longer."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Reason -> records."""

    @property
    def n_dropped(self) -> int:
        """Records that are not learned from."""
        return sum(self.dropped.values())

    def drop(self, reason: str) -> None:
        """Counts a record that teaches nothing."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def take(self, example: Example) -> None:
        """Counts an example."""
        self.n_examples += 1
        self.n_tokens += len(example.input_ids)
        self.n_learned += example.n_learned
        self.n_cut_examples += bool(example.n_cut)
        self.n_cut_tokens += example.n_cut
        self.n_cut_learned += example.n_cut_learned

    def clear(self) -> None:
        """Begins anew."""
        for name, value in asdict(Account()).items():
            setattr(self, name, value)

    def add(self, other: "Account") -> None:
        """Adds another account to this one."""
        for name, value in asdict(other).items():
            if name != "dropped":
                setattr(self, name, getattr(self, name) + value)
        for reason, n in other.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + n

    def to_json(self) -> dict[str, Any]:
        """The counts under their published names."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Account":
        """The inverse of `to_json`."""
        return cls(**values)

    def lines(self) -> list[str]:
        """The account in words."""
        said = [
            f"records {self.n_records:,}, learned from {self.n_records - self.n_dropped:,}, "
            f"dropped {self.n_dropped:,}; rounds {self.n_rounds:,}",
            *(f"  dropped {n:,}: {reason}" for reason, n in sorted(self.dropped.items())),
            f"examples {self.n_examples:,}, tokens {self.n_tokens:,}, of these learned "
            f"{self.n_learned:,} ({self.n_learned / max(self.n_tokens, 1):.1%})",
        ]
        if self.n_cut_examples:
            said.append(
                f"cut {self.n_cut_tokens:,} tokens of {self.n_cut_examples:,} examples longer than "
                f"the window, {self.n_cut_learned:,} of them replies"
            )
        return said


def teach(
    records: Sequence[Record | Rejected], labeller: Labeller, *, rules: Rules, account: Account
) -> list[tuple[str, Example]]:
    """The examples of some records with their records' ids, and what became of the records."""
    lessons: list[Lesson] = []
    owners: list[int] = []
    reasons: list[str | None] = []
    for i, record in enumerate(records):
        found = (
            record.reason
            if isinstance(record, Rejected)
            else lessons_of(record, loss_on=rules.loss_on)
        )
        reasons.append(found if isinstance(found, str) else None)
        if not isinstance(found, str):
            lessons += found
            owners += [i] * len(found)
    taken: list[tuple[str, Example]] = []
    taught: dict[int, int] = {}
    for lesson, owner, example in zip(lessons, owners, _labelled(lessons, labeller), strict=True):
        good: list[Example] = []
        if isinstance(example, str):
            reasons[owner] = example
        elif example.n_cut and rules.overlong == "drop":
            reasons[owner] = "longer than the window"
        else:
            found = [example]
            if example.n_cut and rules.overlong == "split":
                found = labeller.label(parts_of(lesson, labeller))
            good = [part for part in found if part.n_learned]
            if not good:
                reasons[owner] = "no reply within the window"
        if good:
            rounds = sum(message.role == "assistant" for message in lesson.messages)
            taught[owner] = max(taught.get(owner, 0), rounds)
        for part in good:
            account.take(part)
            taken.append((getattr(records[owner], "id", ""), part))
    account.n_records += len(records)
    account.n_rounds += sum(taught.values())
    for i, reason in enumerate(reasons):
        if i not in taught:
            account.drop(reason or "no message to learn")
    return taken


def _labelled(lessons: Sequence[Lesson], labeller: Labeller) -> list[Example | str]:
    """The examples of the lessons; in place of one that its template refuses, the reason."""
    try:
        return list(labeller.label(lessons))
    except FastChatError:
        result: list[Example | str] = []
        for lesson in lessons:
            try:
                result += labeller.label([lesson])
            except FastChatError as error:
                result.append(error.message)
        return result


def check_enough_to_learn(account: Account, *, name: str, max_share: float) -> None:
    """Stops a training that would learn nothing, or much less than its data promises.

    Raises:
        DataError: no record is left, or more than `max_share` of them were dropped.
    """
    reasons = ", ".join(f"{reason}: {n}" for reason, n in sorted(account.dropped.items()))
    if not account.n_examples:
        raise DataError(
            f"{name} holds nothing to learn from: {account.n_records} records"
            + (f" ({reasons})." if reasons else ".")
        )
    if account.n_dropped > max_share * account.n_records:
        raise DataError(
            f"{account.n_dropped} of {account.n_records} records in {name} have nothing to learn "
            f"({reasons}). Repair the data, raise --model_max_length if the window is too short, "
            f"or allow a greater share than {max_share:g} with --max_masked_share."
        )
