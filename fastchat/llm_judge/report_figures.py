"""Results -> figures by plotly, as the values that its script draws; colours are the page's."""

from collections.abc import Iterator, Mapping
from typing import Any

SHOWN = 12
"""Models of a figure, the best ones."""


def figures(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The figures that results allow: means, categories, wins, ratings."""
    means = values.get("average") or values.get("turn_1")
    if means:
        yield _bars(means, "Mean grade with its 95 % interval")
    if values.get("categories"):
        yield _radar(values["categories"], list(means or values["categories"]))
    if values.get("wins"):
        rates = {model: row["win_rate_adjusted"] for model, row in values["wins"].items()}
        yield _bars(rates, "Win rate, a tie as half, with its 95 % interval")


def _bars(estimates: Mapping[str, Mapping[str, Any]], title: str) -> dict[str, Any]:
    import plotly.graph_objects as go

    rows = list(estimates.items())[:SHOWN][::-1]
    bars = go.Bar(
        y=[model for model, _ in rows],
        x=[row["value"] for _, row in rows],
        orientation="h",
        text=[f"{row['value']:.2f}" for _, row in rows],
        textposition="inside",
        insidetextanchor="start",
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [_less(row["upper"], row["value"]) for _, row in rows],
            "arrayminus": [_less(row["value"], row["lower"]) for _, row in rows],
        },
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
    )
    figure = go.Figure(bars)
    figure.update_layout(
        title=title,
        height=150 + 42 * len(rows),
        xaxis={"rangemode": "tozero"},
        yaxis={"automargin": True},
    )
    return figure.to_plotly_json() | {"layout": _plain(figure)}


def _radar(categories: Mapping[str, Mapping[str, Any]], order: list[str]) -> dict[str, Any]:
    import plotly.graph_objects as go

    names = list(dict.fromkeys(name for row in categories.values() for name in row))
    figure = go.Figure()
    models = [model for model in order if model in categories][:SHOWN]
    for model in models:
        row = categories[model]
        scores = [row[name]["value"] if name in row else None for name in names]
        figure.add_scatterpolar(
            r=[*scores, scores[0]],
            theta=[*names, names[0]],
            name=model,
            fill="toself" if len(models) < 3 else "none",
            hovertemplate="%{theta}: %{r:.2f}",
        )
    figure.update_layout(
        title="Mean grade by category",
        height=470,
        legend={"orientation": "h", "y": -0.12},
        polar={
            "radialaxis": {"rangemode": "tozero"},
            "angularaxis": {"rotation": 90, "direction": "clockwise"},
        },
    )
    return figure.to_plotly_json() | {"layout": _plain(figure)}


def _plain(figure: Any) -> dict[str, Any]:
    """The layout without plotly's own template, whose colours are those of a white page."""
    layout = figure.to_plotly_json()["layout"]
    return {name: value for name, value in layout.items() if name != "template"}


def _less(a: float | None, b: float | None) -> float:
    return 0.0 if a is None or b is None else a - b
