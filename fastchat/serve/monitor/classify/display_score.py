"""Says how well a judge's labels agree with people's."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from fastchat.errors import DataError
from fastchat.settings import CommaList, run_command

SHOWN = 5
SHOWN_LETTERS = 300
Labels = dict[str, dict[str, bool]]
"""By row, then by `task.label`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DisplayScoreSettings:
    """Prints accuracy, precision and recall of labels against those of people."""

    bench: CommaList = tyro.MISSING
    """Benches: folders in --label-dir, each with test.json, people's labels as `category_tag`."""
    label_dir: Path = Path("label_bench")
    """Folder of the benches; each other file of a bench is a judge's output."""
    display_conflict: bool = False
    """Show five prompts of each kind of conflict."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How one label of a judge fits people's."""

    n: int
    accuracy: float
    precision: float | None
    """Share of the judge's yes that people share; None where it never says yes."""
    recall: float | None
    """Share of people's yes that the judge finds; None where people never say it."""
    false_yes: tuple[str, ...]
    """Rows that only the judge says yes to."""
    false_no: tuple[str, ...]


def display_score(settings: DisplayScoreSettings) -> None:
    """Prints a table for every bench and every judge."""
    for bench in settings.bench:
        folder = settings.label_dir / bench
        truth, texts = read_labels(folder / "test.json")
        judged = [p for p in sorted(folder.iterdir()) if p.suffix in (".json", ".jsonl")]
        judged = [p for p in judged if p.name != "test.json" and ".cache." not in p.name]
        if not judged:
            raise DataError(f"{folder} holds no judge's labels; write them there with label.")
        for path in judged:
            labels, _ = read_labels(path)
            print(f"\n### {bench}: {path.name}\n")
            for line in table(truth, labels, texts, conflicts=settings.display_conflict):
                print(line)


def read_labels(path: Path) -> tuple[Labels, dict[str, str]]:
    """The labels that are yes or no, and the prompts, by row.

    Raises:
        DataError: the file is missing, or no row carries labels.
    """
    from fastchat.arena.release import prompts, row_key
    from fastchat.arena.row_files import read_rows

    labels: Labels = {}
    texts: dict[str, str] = {}
    for row in read_rows(path, Counter()):
        if isinstance(tags := row.get("category_tag"), dict) and (key := row_key(row)):
            labels[key] = dict(_flat(tags))
            texts[key] = "\n".join(prompts(row))
    if not labels:
        raise DataError(f"{path} holds no row with an id and category_tag.")
    return labels, texts


def _flat(tags: Mapping[str, Any]) -> list[tuple[str, bool]]:
    return [
        (f"{task}.{name}", value)
        for task, given in tags.items()
        if isinstance(given, dict)
        for name, value in given.items()
        if isinstance(value, bool)
    ]


def agreement(truth: Labels, labels: Labels, name: str) -> Agreement | None:
    """How the label `name` fits over the rows that both have; None where there are none."""
    rows = [k for k in truth if name in truth[k] and name in labels.get(k, {})]
    if not rows:
        return None
    both = [k for k in rows if truth[k][name] and labels[k][name]]
    false_yes = tuple(k for k in rows if labels[k][name] and not truth[k][name])
    false_no = tuple(k for k in rows if truth[k][name] and not labels[k][name])
    said, meant = len(both) + len(false_yes), len(both) + len(false_no)
    return Agreement(
        n=len(rows),
        accuracy=1 - (len(false_yes) + len(false_no)) / len(rows),
        precision=len(both) / said if said else None,
        recall=len(both) / meant if meant else None,
        false_yes=false_yes,
        false_no=false_no,
    )


def table(truth: Labels, labels: Labels, texts: Mapping[str, str], *, conflicts: bool) -> list[str]:
    """The figures as Markdown, and the conflicts below."""
    lines = ["| label | rows | accuracy | precision | recall |", "|" + " --- |" * 5]
    shown: list[str] = []
    for name in dict.fromkeys(n for row in truth.values() for n in row):
        found = agreement(truth, labels, name)
        if found is None:
            continue
        figures = (found.accuracy, found.precision, found.recall)
        cells = " | ".join("-" if f is None else f"{f:.3f}" for f in figures)
        lines.append(f"| {name} | {found.n} | {cells} |")
        conflicting = {"judge yes, people no": found.false_yes}
        conflicting["judge no, people yes"] = found.false_no
        for title, rows in conflicting.items():
            shown += [f"- {name}, {title}: {texts[k][:SHOWN_LETTERS]!r}" for k in rows[:SHOWN]]
    return lines + (["", *shown] if conflicts and shown else [])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        DisplayScoreSettings,
        display_score,
        argv,
        prog="python3 -m fastchat.serve.monitor.classify.display_score",
    )


if __name__ == "__main__":
    raise SystemExit(main())
