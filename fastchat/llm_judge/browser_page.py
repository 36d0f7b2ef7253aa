"""The browser's page: selectors above, what they select below. Gradio."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from fastchat.llm_judge.browser_views import (
    ABSENT,
    Filter,
    Shelf,
    answer_view,
    code,
    pair_view,
    question_view,
    reference_view,
    single_view,
    titles,
)
from fastchat.llm_judge.intervals import Estimate
from fastchat.llm_judge.report_figures import figures
from fastchat.llm_judge.scores import category_scores, mean_scores, position_bias, win_table
from fastchat.llm_judge.tables import Table, plain

if TYPE_CHECKING:
    import gradio as gr
    import plotly.graph_objects as go

BASELINE = "gpt-3.5-turbo"
"""Published: model B of the comparison at first."""

CSS = """
.gradio-container { max-width: 72rem !important; margin: 0 auto !important; }
footer { display: none !important; }
.answers { align-items: flex-start !important; }
.text { overflow-x: auto; overflow-wrap: anywhere; }
.block.asked, .block.said { padding: .6rem .9rem !important; border-radius: 8px; }
.block.asked { background: var(--background-fill-secondary); }
.block.said { border: 1px solid var(--border-color-primary); }
.block.reference { border-left: 3px solid var(--color-accent); border-radius: 0;
  padding: 0 .9rem !important; }
.reference:empty, .asked:empty, .said:empty { display: none; }
.scores { overflow-x: auto; max-width: calc(100vw - 4rem); }
.scores th, .scores td { padding: .4rem .6rem !important; }
.scores th, .scores td { white-space: nowrap; overflow-wrap: normal;
  border-color: var(--border-color-primary) !important; }
.scores code { white-space: nowrap !important; }
.gradio-container .column, .gradio-container .tabitem { min-width: 0 !important; }
@media (max-width: 700px) {
  .tabs { max-width: calc(100vw - 4rem) !important; }
  .tab-container button { padding: 0 .45rem !important; font-size: .8rem !important; }
  .gradio-container .row > * { min-width: min(160px, 100%) !important; }
  .gradio-container .row > button { min-width: 0 !important; flex: 1 1 0 !important;
    padding: .5rem !important; }
  .gradio-container button.previous, .gradio-container button.next {
    font-size: .85rem !important; white-space: nowrap; }
  .answers { flex-direction: column !important; }
  .answers > * { width: 100% !important; } }
"""

# n and p go to the next and the previous question, wherever the focus is not in a field.
KEYS = """
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, [contenteditable]");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const name = { n: "next", p: "previous" }[event.key];
  if (!name) return;
  for (const button of document.querySelectorAll("button." + name))
    if (button.offsetParent !== null) button.click();
});
"""


def build_page(shelf: Shelf, bench_name: str) -> "gr.Blocks":
    """The page with its three tabs."""
    import gradio as gr

    with gr.Blocks(title="MT-Bench Browser", analytics_enabled=False) as page:
        counted = ", ".join(
            _counted(len(held), word)
            for held, word in (
                *((shelf.questions, "question"), (shelf.models, "model")),
                (shelf.judges, "judge"),
            )
        )
        gr.Markdown(
            f"# MT-Bench Browser\n{code(bench_name)}: {counted}. Keys: `n` next, `p` previous."
        )
        if shelf.notes:
            gr.Markdown("\n".join(f"- {note}" for note in shelf.notes))
        with gr.Tab("Single Answer Grading"):
            _tab(shelf, 1)
        with gr.Tab("Pairwise Comparison"):
            _tab(shelf, 2)
        with gr.Tab("Scores"):
            for table in score_tables(shelf):
                gr.Markdown(table.text("md"), elem_classes=["scores"])
            for judge, figure in score_figures(shelf):
                gr.Plot(figure, label=judge, elem_classes=["plot"])
    return page


def _counted(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def _tab(shelf: Shelf, n_models: int) -> None:
    """Selectors for one question and `n_models` models, and everything about them."""
    import gradio as gr

    first = titles(shelf, "all")
    with gr.Row():
        category = gr.Dropdown(["all", *shelf.categories], value="all", label="Category")
        kinds = gr.Dropdown(list(get_args(Filter)), value="all", label="Show")
        judge = gr.Dropdown(shelf.judges, value=next(iter(shelf.judges), None), label="Judge")
    question = gr.Dropdown(first, value=first[0][1], label="Question")
    with gr.Row():
        previous = gr.Button("Previous question", elem_classes=["previous"])
        following = gr.Button("Next question", elem_classes=["next"])
    with gr.Row():
        models = [
            gr.Dropdown(shelf.models, value=value, label=label)
            for value, label in _first_models(shelf.models, n_models)
        ]
    shown = [gr.Markdown(elem_classes=["text"])]
    for turn in range(1, shelf.n_turns + 1):
        shown.append(gr.Markdown(elem_classes=["text", "asked", f"question-{turn}"]))
        with gr.Row(elem_classes=["answers"]):
            shown += [
                gr.Markdown(elem_classes=["text", "said", f"answer-{turn}-{i}"])
                for i in range(n_models)
            ]
        shown.append(gr.Markdown(elem_classes=["text", "reference"]))
    gr.Markdown("### Judgments")
    shown.append(gr.Markdown(elem_classes=["text", "judgment"]))

    inputs = [question, judge, *models]
    view = _view_of(shelf)
    for control in inputs:
        control.change(view, inputs, shown, show_progress="hidden", api_visibility="private")
    for control in (category, kinds):
        control.change(
            lambda category, kind: _choices(shelf, category, kind),
            [category, kinds],
            question,
            show_progress="hidden",
            api_visibility="private",
        )
    for button, step in ((previous, -1), (following, 1)):
        button.click(
            _step_of(shelf, step),
            [category, kinds, question],
            question,
            show_progress="hidden",
            api_visibility="private",
        )
    at_first = view(first[0][1], judge.value, *(model.value for model in models))
    for control, text in zip(shown, at_first, strict=True):
        control.value = text


def _first_models(models: Sequence[str], n: int) -> list[tuple[str | None, str]]:
    """What is selected at first, and how the selectors are called."""
    if n == 1:
        return [(next(iter(models), None), "Model")]
    other = BASELINE if BASELINE in models else models[-1] if models else None
    return [(next((m for m in models if m != other), None), "Model A"), (other, "Model B")]


def _choices(shelf: Shelf, category: str, kind: Filter) -> Any:
    """The questions of a category, the first of them selected."""
    import gradio as gr

    found = titles(shelf, category, kind)
    return gr.Dropdown(choices=found, value=found[0][1] if found else None)


def _step_of(shelf: Shelf, step: int) -> Callable[..., int | None]:
    """What goes to the next question, round at the ends."""

    def go(category: str, kind: Filter, question_id: int | None) -> int | None:
        ids = [number for _, number in titles(shelf, category, kind)]
        if not ids:
            return None
        return ids[(ids.index(question_id) + step) % len(ids)] if question_id in ids else ids[0]

    return go


def _view_of(shelf: Shelf) -> Callable[..., list[str]]:
    """What fills the page for a question, a judge and one or two models."""

    def view(question_id: int | None, judge: str | None, *models: str | None) -> list[str]:
        question = shelf.questions.get(question_id or -1)
        if question is None or question_id is None:
            empty = [""] * (shelf.n_turns * (2 + len(models)))
            return ["No question fits the filter.", *empty, ABSENT]
        shown = [f"Question {question_id}, {question.category}"]
        for turn in range(1, shelf.n_turns + 1):
            if turn > len(question.turns):
                shown += [""] * (2 + len(models))
                continue
            shown.append(f"**Turn {turn}**\n\n{question_view(shelf, question_id, turn)}")
            for model in models:
                text = answer_view(shelf, question_id, model or "", turn)
                shown.append(f"**{code(model or ABSENT)}**\n\n{text}")
            shown.append(reference_view(shelf, question_id, turn))
        names = [model or "" for model in models]
        if len(names) == 1:
            shown.append(single_view(shelf, question_id, names[0], judge or ""))
        else:
            shown.append(pair_view(shelf, question_id, names[0], names[1], judge or ""))
        return shown

    return view


def score_tables(shelf: Shelf) -> list[Table]:
    """What show_result would print, for every judge."""
    tables: list[Table] = []
    category_of = {q.question_id: q.category for q in shelf.questions.values()}
    for judge in shelf.judges:
        rows = [row for row in shelf.single if row.judge[0] == judge]
        if rows:
            by_category = category_scores(rows, category_of)
            lines: tuple[tuple[object, ...], ...] = tuple(
                (
                    *(code(s.model), f"{s.estimate.value:.2f}", s.estimate.interval),
                    *_cells(by_category.get(s.model, {}), shelf.categories),
                )
                for s in mean_scores(rows)
            )
            columns = ("model", "mean grade", "95% interval", *shelf.categories)
            tables.append(Table(title=f"{judge}: grades", columns=columns, rows=lines))
        pairs = [row for row in shelf.pairs if row.judge[0] == judge]
        if pairs:
            lines = tuple(
                (code(w.model), w.win, w.loss, w.tie, f"{w.adjusted.value:.3f}")
                for w in win_table(pairs)
            )
            columns = ("model", "win", "loss", "tie", "win rate")
            bias = position_bias(pairs)
            title = f"{judge}: pairs; the order decided {bias.rate:.1%} of {bias.n_pairs}"
            tables.append(Table(title=title, columns=columns, rows=lines))
    return tables or [Table(title="No judgments yet", columns=("model",), rows=())]


def score_figures(shelf: Shelf) -> "Iterator[tuple[str, go.Figure]]":
    """Mean grades by category, for every judge that graded several."""
    import plotly.graph_objects as go

    category_of = {q.question_id: q.category for q in shelf.questions.values()}
    for judge in shelf.judges:
        rows = [row for row in shelf.single if row.judge[0] == judge]
        found = category_scores(rows, category_of)
        if len({name for row in found.values() for name in row}) < 3:  # no area to draw
            continue
        order = [score.model for score in mean_scores(rows)]
        categories = {
            model: {name: plain(estimate) for name, estimate in found[model].items()}
            for model in order
            if model in found
        }
        for figure in figures({"categories": categories}):
            yield judge, go.Figure(figure)


def _cells(found: Mapping[str, Estimate], categories: Sequence[str]) -> list[str]:
    return [f"{found[name].value:.2f}" if name in found else "-" for name in categories]
