"""Tells how many records and tokens there are, and how long they are.

Tokens are those of each message's text, without the tokenizer's marks and without a template's;
only whole rounds count.
"""

import dataclasses
import json
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastchat.data.languages import detect_language
from fastchat.data.pipeline import PipelineSettings, Report, flow, write_report
from fastchat.data.records import Record
from fastchat.data.token_counts import TokenCounter
from fastchat.errors import UsageError
from fastchat.model.tokenizer_file import TokenizerFile, read_tokenizer
from fastchat.settings import alias, run_command

BIN_EDGES = (0, 1024, 2048, 4096, 8192, 16384, 32768)
PERCENTILES = (50, 90, 99)

_COUNTS = "counts"


@dataclass(frozen=True, slots=True, kw_only=True)
class GetStatsSettings(PipelineSettings):
    """Prints how many records and tokens data hold and how long conversations are."""

    model_name_or_path: Annotated[str, alias("--model-name")] = "meta-llama/Llama-2-7b-chat-hf"
    """Model whose tokenizer counts: a folder or a hub id."""
    max_length: int = 2048
    """Window for which the share of padding is told."""
    languages: bool = False
    """Count records by language as well."""
    json: bool = False
    """Print all figures as JSON."""
    workers: Annotated[int | None, alias("--num-proc")] = None
    """Processes; two at most unless given, since each holds a tokenizer."""
    trust_remote_code: bool = False
    """Let the tokenizer run code of the model's makers."""


@dataclass(slots=True, kw_only=True)
class CountTokens:
    """The step: a record becomes the few numbers that the figures are made of."""

    tokenizer: TokenizerFile = field(repr=False)
    languages: bool = False
    name: str = "get_stats"
    _counter: TokenCounter | None = field(default=None, init=False, compare=False, repr=False)

    def prepare(self) -> None:
        """Opens the tokenizer."""
        self._counter = TokenCounter(self.tokenizer.open(), self.tokenizer.added)

    def apply(self, record: Record) -> Sequence[Record]:
        """A record without messages that carries the numbers."""
        assert self._counter is not None
        texts = [turn.text for turn in record.turns]
        texts = texts[: len(texts) // 2 * 2]
        counts = self._counter.counts(texts)
        model = record.extra.get("model")
        numbers: dict[str, Any] = {
            "rounds": len(counts) // 2,
            "prompt": sum(counts[::2]),
            "response": sum(counts[1::2]),
            "model": model if isinstance(model, str) and model else None,
        }
        if self.languages:
            numbers["language"] = detect_language(texts)
        return (Record(id=record.id, turns=(), extra={_COUNTS: numbers}),)


@dataclass(slots=True, kw_only=True)
class Stats:
    """Sums over records. Lengths are counted by value, so memory does not grow with records."""

    max_length: int
    n_records: int = 0
    n_rounds: int = 0
    prompt_tokens: int = 0
    response_tokens: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    """Records by their number of tokens."""
    models: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)

    def add(self, numbers: dict[str, Any]) -> None:
        """Takes up the numbers of one record."""
        self.n_records += 1
        self.n_rounds += numbers["rounds"]
        self.prompt_tokens += numbers["prompt"]
        self.response_tokens += numbers["response"]
        self.lengths[numbers["prompt"] + numbers["response"]] += 1
        self.models[numbers["model"] or "not named"] += 1
        if "language" in numbers:
            self.languages[numbers["language"]] += 1

    @property
    def n_tokens(self) -> int:
        """Tokens of all whole rounds."""
        return self.prompt_tokens + self.response_tokens

    def histogram(self) -> list[int]:
        """Records by length: one number for each bin of `BIN_EDGES`, then what is longer.

        A bin holds its lower edge and not its upper one, but for the last closed one.
        """
        found = [0] * len(BIN_EDGES)
        for length, n in self.lengths.items():
            last = length == BIN_EDGES[-1]
            found[bisect_right(BIN_EDGES, length) - 1 - last] += n
        return found

    def percentile(self, percent: int) -> int:
        """The shortest length that so many percent of the records do not exceed."""
        wanted, seen = -(-self.n_records * percent // 100), 0
        for length in sorted(self.lengths):
            seen += self.lengths[length]
            if seen >= wanted:
                return length
        return 0

    def padding_share(self) -> float:
        """The share of positions that hold nothing when each record is padded to the window."""
        filled = sum(min(length, self.max_length) * n for length, n in self.lengths.items())
        return 1 - _ratio(filled, self.n_records * self.max_length)

    def to_json(self) -> dict[str, Any]:
        """All figures."""
        lower, upper = BIN_EDGES, (*BIN_EDGES[1:], None)
        return {
            "sequences": self.n_records,
            "tokens": self.n_tokens,
            "rounds": self.n_rounds,
            "avg_turns": _ratio(self.n_rounds, self.n_records),
            "avg_prompt_length": _ratio(self.prompt_tokens, self.n_rounds),
            "avg_response_length": _ratio(self.response_tokens, self.n_rounds),
            "histogram": [
                {"from": a, "to": b, "sequences": n}
                for a, b, n in zip(lower, upper, self.histogram(), strict=True)
            ],
            "percentiles": {str(p): self.percentile(p) for p in PERCENTILES},
            "max": max(self.lengths, default=0),
            "supervised_share": _ratio(self.response_tokens, self.n_tokens),
            "padding_share": self.padding_share(),
            "max_length": self.max_length,
            "models": dict(self.models.most_common()),
            "languages": dict(self.languages.most_common()),
        }

    def lines(self) -> list[str]:
        """All figures as text; the first lines are the published ones."""
        figures = self.to_json()
        *closed, above = self.histogram()
        lines = [
            f"#sequence: {self.n_records / 1e3:.2f} K",
            f"#tokens: {self.n_tokens / 1e6:.2f} M",
            f"avg. turns: {figures['avg_turns']:.2f}",
            f"avg. prompt length: {figures['avg_prompt_length']:.2f}",
            f"avg. response length: {figures['avg_response_length']:.2f}",
            "",
            "- Histogram -",
        ]
        lines += [
            f"L{a} - {b}: {n}" for a, b, n in zip(BIN_EDGES, BIN_EDGES[1:], closed, strict=False)
        ]
        shares = ", ".join(f"{p} %: {self.percentile(p)}" for p in PERCENTILES)
        lines += [
            f"L{BIN_EDGES[-1]} and more: {above}",
            f"lengths: {shares}, longest: {figures['max']}",
            f"tokens of replies: {figures['supervised_share']:.1%}",
            f"padding at {self.max_length}: {figures['padding_share']:.1%}",
            f"models: {_counted(self.models)}",
        ]
        if self.languages:
            lines.append(f"languages: {_counted(self.languages)}")
        return lines


def get_stats(settings: GetStatsSettings) -> None:
    """Prints the figures."""
    if settings.out_file is not None or settings.format is not None:
        raise UsageError("figures are printed, not written; use --json and redirect the output.")
    if settings.resume:
        raise UsageError("--resume cannot be: nothing is written; run the command anew.")
    if settings.max_length < 1:
        raise UsageError(f"--max-length {settings.max_length} is no window; give 1 or more.")
    tokenizer = read_tokenizer(
        settings.model_name_or_path, trust_remote_code=settings.trust_remote_code
    )
    if settings.workers is None:
        settings = dataclasses.replace(settings, workers=min(2, os.cpu_count() or 1))
    stats = Stats(max_length=settings.max_length)
    report = Report()
    step = CountTokens(tokenizer=tokenizer, languages=settings.languages)
    for record in flow(settings, [step], report, need_id=False):
        stats.add(record.extra[_COUNTS])
    write_report(settings, report)
    if settings.json:
        dropped = {"dropped": dict(report.dropped)}
        print(json.dumps(stats.to_json() | dropped, ensure_ascii=False, indent=2))
        return
    print("\n".join(stats.lines()))
    if report.dropped:
        print(f"dropped: {_counted(report.dropped)}")


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name}: {n}" for name, n in counts.most_common())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(GetStatsSettings, get_stats, argv, prog="python3 -m fastchat.data.get_stats")


if __name__ == "__main__":
    raise SystemExit(main())
