"""Results -> one HTML file with everything in it, the same as Markdown, the same as JSON."""

import html
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from fastchat import __version__
from fastchat.llm_judge.browser_views import Shelf, load_shelf
from fastchat.llm_judge.folders import Bench
from fastchat.llm_judge.lines import replace_file
from fastchat.llm_judge.records import PairJudgment, SingleJudgment
from fastchat.llm_judge.report_figures import figures
from fastchat.llm_judge.safe_html import html_of
from fastchat.llm_judge.show_result import Shown
from fastchat.llm_judge.tables import Table, write_json

TEMPLATE = Path(__file__).parent / "report_page.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one report is about."""

    bench: Bench
    judges: Sequence[str]
    baseline: str
    models: Sequence[str]
    """Only these, or all where it is empty."""
    parts: Mapping[str, Shown]
    """The results, each under its heading."""
    has_answers: bool = True

    @property
    def title(self) -> str:
        return f"{self.bench.name}, judged by {' and '.join(self.judges)}"

    @property
    def notes(self) -> list[str]:
        return list(dict.fromkeys(note for shown in self.parts.values() for note in shown.notes))


def write_report(report: Report, output: Path) -> list[Path]:
    """Writes `output` and its neighbours `.md` and `.json`; their paths.

    Raises:
        DataError: the benchmark's questions are not there.
    """
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    shelf = load_shelf(report.bench) if report.has_answers else None
    replace_file(output, _page(report, made, shelf))
    markdown, values = output.with_suffix(".md"), output.with_suffix(".json")
    replace_file(markdown, _markdown(report, made).encode())
    write_json(
        values,
        {
            "title": report.title,
            "made": made,
            "fastchat_version": __version__,
            "benchmark": report.bench.name,
            "judges": list(report.judges),
            "notes": report.notes,
            "results": {name: shown.values for name, shown in report.parts.items()},
        },
    )
    return [output, markdown, values]


def _markdown(report: Report, made: str) -> str:
    lines = [f"# {report.title}", f"Made {made} with FastChat {__version__}."]
    for name, shown in report.parts.items():
        lines += [f"## {name}", *(table.text("md").rstrip() for table in shown.tables)]
    if report.notes:
        lines += ["## Notes", "\n".join(f"- {note}" for note in report.notes)]
    return "\n\n".join(lines) + "\n"


def _page(report: Report, made: str, shelf: Shelf | None) -> Iterator[bytes]:
    """The page in pieces; the script of the plots is most of it."""
    from plotly.offline import get_plotlyjs

    drawn = {
        f"{part}-{i}": figure
        for part, shown in enumerate(report.parts.values())
        for i, figure in enumerate(figures(shown.values))
    }
    sections = [
        _section(name, shown, [key for key in drawn if key.startswith(f"{part}-")])
        for part, (name, shown) in enumerate(report.parts.items())
    ]
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in report.notes)
    values = {
        "title": html.escape(report.title),
        "made": html.escape(f"Made {made} with FastChat {__version__}."),
        "notes": f"<ul>{notes}</ul>" if notes else "",
        "sections": "\n".join(sections),
        "plotly": get_plotlyjs(),
        "figures": _inline(drawn),
        "data": _inline(_items(report, shelf) if shelf else None),
    }
    for i, piece in enumerate(TEMPLATE.read_text("utf-8").split("@@")):
        yield (values[piece] if i % 2 else piece).encode()


def _section(name: str, shown: Shown, plots: Sequence[str]) -> str:
    drawn = "".join(f'<figure class="plot" data-figure="{key}"></figure>' for key in plots)
    tables = "".join(_table(table) for table in shown.tables)
    return (
        f'<section><h2>{html.escape(name)}</h2><div class="plots">{drawn}</div>{tables}</section>'
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.columns)
    rows = "".join(
        f"<tr>{''.join(f'<td>{html.escape(_cell(cell))}</td>' for cell in row)}</tr>"
        for row in table.rows
    )
    return (
        f'<h3>{html.escape(table.title)}</h3><div class="wide"><table><thead><tr>{head}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _cell(value: object) -> str:
    """What a reader wants of a value; the JSON beside the page has all its digits."""
    if not isinstance(value, float):
        return str(value)
    return "-" if math.isnan(value) else f"{value:.3f}"


def _inline(value: object) -> str:
    """JSON that may stand in a script element."""
    text = orjson.dumps(value).decode()
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _items(report: Report, shelf: Shelf) -> dict[str, Any]:
    """Questions with answers and verdicts, their texts as safe HTML."""
    judges = set(report.judges)
    wanted = set(report.models)
    models = [model for model in shelf.models if not wanted or model in {*wanted, report.baseline}]
    single: dict[int, list[SingleJudgment]] = {}
    for row in shelf.single:
        if row.judge[0] in judges and row.model in models:
            single.setdefault(row.question_id, []).append(row)
    pairs: dict[int, list[PairJudgment]] = {}
    for pair in shelf.pairs:
        if pair.judge[0] in judges and pair.model_1 in models and pair.model_2 in models:
            pairs.setdefault(pair.question_id, []).append(pair)
    return {
        "models": models,
        "questions": [
            {
                "id": number,
                "category": question.category,
                "title": question.turns[0][:128],
                "turns": [html_of(turn) for turn in question.turns],
                "reference": _reference(shelf, number),
                "answers": {model: _answer(shelf, model, number) for model in models},
                "grades": [_grade(row) for row in single.get(number, [])],
                "games": [_games(row) for row in pairs.get(number, [])],
            }
            for number, question in shelf.questions.items()
        ],
    }


def _answer(shelf: Shelf, model: str, question: int) -> list[str]:
    row = shelf.answers[model].get(question)
    return [html_of(text) for text in row.choices[0].turns] if row else []


def _reference(shelf: Shelf, question: int) -> list[str]:
    row = shelf.references.get(question)
    turns = row.choices[0].turns if row else shelf.questions[question].reference or ()
    return [html_of(text) for text in turns]


def _grade(row: SingleJudgment) -> dict[str, Any]:
    return {
        "model": row.model,
        "judge": row.judge[0],
        "turn": row.turn,
        "score": row.score if row.is_parsed else None,
        "html": html_of(row.judgment),
    }


def _games(row: PairJudgment) -> dict[str, Any]:
    return {
        "models": [row.model_1, row.model_2],
        "judge": row.judge[0],
        "turn": row.turn,
        "winners": [row.g1_winner, row.g2_winner],
        "html": [html_of(row.g1_judgment), html_of(row.g2_judgment)],
    }
