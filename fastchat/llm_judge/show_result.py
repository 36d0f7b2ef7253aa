"""Shows what judges decided: mean grades, or wins and losses, with intervals and ratings.

python3 -m fastchat.llm_judge.show_result --mode single
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastchat.errors import UsageError
from fastchat.llm_judge.bench_settings import BenchSettings
from fastchat.llm_judge.extras import needing_extras
from fastchat.settings import run_command

if TYPE_CHECKING:
    from fastchat.llm_judge.lines import Rows
    from fastchat.llm_judge.paired import Pairing
    from fastchat.llm_judge.records import PairJudgment, SingleJudgment
    from fastchat.llm_judge.tables import Table

PROG = "python3 -m fastchat.llm_judge.show_result"
TURNS = {1: "First turn", 2: "Second turn"}
"""Published: what the tables of these turns are called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultSettings(BenchSettings):
    """Shows the results of judging."""

    input_file: tuple[Path, ...] = ()
    """Judgment files; by default that of each judge in the benchmark's folder."""
    judge_model: tuple[str, ...] = ("gpt-4",)
    """Judge whose verdicts are shown; several, with blanks between, are a jury."""
    baseline_model: str = "gpt-3.5-turbo"
    """Whom everyone was compared with in the mode pairwise-baseline."""
    model_list: tuple[str, ...] = ()
    """Only these models."""
    mode: Literal["single", "pairwise-baseline", "pairwise-all"] = "single"
    """Which judgments."""
    compare: tuple[str, str] | None = None
    """Two models that are compared question by question, as the command `compare` does."""
    format: Literal["table", "md", "csv"] = "table"
    """How tables are printed."""
    json: Path | None = None
    """File for the results as JSON."""


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0 when there was something to show."""
    return run_command(ResultSettings, needing_extras(_run), argv, prog=PROG)


def _run(settings: ResultSettings) -> None:
    from fastchat.llm_judge.running import say
    from fastchat.llm_judge.tables import write_json

    paths = _paths(settings)
    print(f"Mode: {settings.mode}")
    print(f"Input file: {', '.join(map(str, paths))}")
    shown = results(settings)
    for table in shown.tables:
        print(table.text(settings.format))
    if shown.sentence:
        print(shown.sentence)
    say(shown.notes)
    if settings.json:
        head = {"mode": settings.mode, "input_files": [str(path) for path in paths]}
        write_json(settings.json, {**head, **shown.values, "notes": shown.notes})


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The results as tables, as values, and what to know about them."""

    tables: "list[Table]"
    values: dict[str, Any]
    notes: list[str]
    sentence: str = ""
    """Who of two compared models is ahead."""


def results(settings: ResultSettings) -> Shown:
    """What there is to show, for a terminal or a report.

    Raises:
        UsageError: there are no judgments, or none of what is wanted.
    """
    paths = _paths(settings)
    return _single(settings, paths) if settings.mode == "single" else _pairs(settings, paths)


def _paths(settings: ResultSettings) -> tuple[Path, ...]:
    bench = settings.bench
    paths = tuple(settings.input_file) or tuple(
        bench.judgment_file(judge, settings.mode) for judge in settings.judge_model
    )
    for path in paths:
        if not path.exists():
            raise UsageError(
                f"{path}: there are no judgments; make them with gen_judgment --mode "
                f"{settings.mode} --judge-model {settings.judge_model[0]}."
            )
    return paths


def _single(settings: ResultSettings, paths: Sequence[Path]) -> Shown:
    from fastchat.llm_judge.folders import read_single
    from fastchat.llm_judge.jury import mean_of_grades
    from fastchat.llm_judge.paired import paired_grades
    from fastchat.llm_judge.scores import category_scores, mean_scores
    from fastchat.llm_judge.tables import Table, plain

    files = [read_single(path) for path in paths]
    wanted = set(settings.model_list)
    kept = [[r for r in held.rows if not wanted or r.model in wanted] for held in files]
    rows = mean_of_grades(kept) if len(kept) > 1 else kept[0]
    notes, values = _state(files, kept)
    _refuse_empty(rows, settings)
    tables: list[Table] = []
    given = sorted({row.turn for row in rows} | {1})
    turns: list[tuple[str, str, int | None]] = [
        (TURNS.get(turn, f"Turn {turn}"), f"turn_{turn}", turn) for turn in given
    ]
    if len(given) > 1:
        turns.append(("Average", "average", None))
    for title, name, turn in turns:
        scores = mean_scores(rows, turn)
        values[name] = {score.model: plain(score.estimate) for score in scores}
        lines = tuple(
            (s.model, turn or "-", s.estimate.value, s.estimate.interval, s.estimate.n)
            for s in scores
        )
        columns = ("model", "turn", "score", "95% interval", "n")
        tables.append(Table(title=title, columns=columns, rows=lines))
    category_of = _categories(settings)
    by_category = category_scores(rows, category_of)
    if by_category:
        order = list(dict.fromkeys(category_of.values()))
        values["categories"] = {
            model: {category: plain(estimate) for category, estimate in found.items()}
            for model, found in by_category.items()
        }
        lines = tuple(
            (model, *(f"{found[c].value:.2f}" if c in found else "-" for c in order))
            for model, found in sorted(by_category.items())
        )
        tables.append(Table(title="Categories", columns=("model", *order), rows=lines))
    shown = Shown(tables=tables, values=values, notes=notes)
    if not settings.compare:
        return shown
    return _comparison(settings, paired_grades(rows, rows, settings.compare), shown)


def _comparison(settings: ResultSettings, pairing: "Pairing", shown: Shown) -> Shown:
    """The results with what `compare` says of the same rows."""
    from fastchat.llm_judge.compared import compare_models

    assert settings.compare
    found = compare_models(pairing, settings.compare, _categories(settings))
    compared = {"models": list(settings.compare), "results": found.plain()}
    return Shown(
        tables=[*shown.tables, found.table()],
        values={**shown.values, "comparison": compared},
        notes=list(dict.fromkeys([*shown.notes, *pairing.notes])),
        sentence=found.sentence(),
    )


def _pairs(settings: ResultSettings, paths: Sequence[Path]) -> Shown:
    from fastchat.llm_judge.folders import read_pairs
    from fastchat.llm_judge.jury import majority
    from fastchat.llm_judge.paired import paired_verdicts
    from fastchat.llm_judge.ratings import rate
    from fastchat.llm_judge.scores import position_bias, win_table
    from fastchat.llm_judge.tables import Table, plain

    baseline = settings.baseline_model if settings.mode == "pairwise-baseline" else None
    wanted = {*settings.model_list, baseline} if settings.model_list else set[str | None]()
    files = [read_pairs(path) for path in paths]
    kept = [
        [
            r
            for r in held.rows
            if (not wanted or {r.model_1, r.model_2} <= wanted)
            and (baseline is None or baseline in (r.model_1, r.model_2))
        ]
        for held in files
    ]
    rows = majority(kept) if len(kept) > 1 else kept[0]
    notes, values = _state(files, kept)
    _refuse_empty(rows, settings)
    wins = win_table(rows, baseline)
    columns = ("model", "win", "loss", "tie", "win_rate", "loss_rate", "win_rate_adjusted")
    lines = tuple(
        (
            *(w.model, w.win, w.loss, w.tie, w.win_rate, w.loss_rate),
            *(w.adjusted.value, w.adjusted.interval),
        )
        for w in wins
    )
    tables = [Table(title="Wins", columns=(*columns, "95% interval"), rows=lines)]
    values["wins"] = {
        w.model: {
            **{"win": w.win, "loss": w.loss, "tie": w.tie},
            **{"win_rate": w.win_rate, "loss_rate": w.loss_rate},
            "win_rate_adjusted": plain(w.adjusted),
        }
        for w in wins
    }
    rated = rate(rows)
    values["ratings"] = {
        r.model: {"rating": r.rating, "lower": r.lower, "upper": r.upper} for r in rated.ratings
    }
    lines = tuple(
        (r.model, f"{r.rating:.1f}", f"{r.lower:.1f} to {r.upper:.1f}") for r in rated.ratings
    )
    title = "Bradley-Terry ratings"
    tables.append(Table(title=title, columns=("model", "rating", "95% interval"), rows=lines))
    values["position_bias"] = {}
    lines = ()
    for path, held in zip(paths, kept, strict=True):
        bias = position_bias(held)
        values["position_bias"][path.stem] = {
            **{"pairs": bias.n_pairs, "consistent": bias.consistent, "first": bias.first},
            **{"second": bias.second, "half": bias.half},
        }
        counts = (bias.n_pairs, bias.consistent, bias.first, bias.second, bias.half, bias.rate)
        lines += ((path.stem, *counts),)
    columns = ("judge", "pairs", "consistent", "first wins", "second wins", "tie once", "rate")
    tables.append(Table(title="Position bias", columns=columns, rows=lines))
    shown = Shown(tables=tables, values=values, notes=[*notes, *rated.notes])
    if not settings.compare:
        return shown
    return _comparison(settings, paired_verdicts(rows, settings.compare), shown)


def _state(
    files: "Sequence[Rows[Any]]", kept: "Sequence[Sequence[SingleJudgment | PairJudgment]]"
) -> tuple[list[str], dict[str, Any]]:
    """What was wrong with the files, in words and as counts."""
    notes = [line for held in files for line in held.report()]
    n_unparsed = sum(not row.is_parsed for rows in kept for row in rows)
    if n_unparsed:
        notes.append(
            f"{n_unparsed} judgments without a verdict are left out; gen_judgment "
            "--retry-unparsed asks for them again"
        )
    counts = {
        "rows": sum(len(rows) for rows in kept),
        "unparsed": n_unparsed,
        "duplicates": sum(held.n_duplicates for held in files),
        "torn_lines": sum(held.n_torn for held in files),
        "rejected_rows": sum(len(held.faults) for held in files),
    }
    return notes, {"counts": counts}


def _refuse_empty(rows: Sequence[object], settings: ResultSettings) -> None:
    if not rows:
        wanted = f" of {', '.join(settings.model_list)}" if settings.model_list else ""
        raise UsageError(f"The file holds no judgment{wanted} for the mode {settings.mode}.")


def _categories(settings: ResultSettings) -> dict[int, str]:
    """Categories by question; none when the questions are not at hand."""
    if not settings.bench.question_file.exists():
        return {}
    return {q.question_id: q.category for q in settings.bench.questions()}


if __name__ == "__main__":
    sys.exit(main())
