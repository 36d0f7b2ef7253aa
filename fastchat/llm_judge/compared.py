"""A pairing -> who is ahead, over all questions and by category; as a table, in words, as JSON.

`compare` and `show_result --compare` show this, so that both say the same of the same rows.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fastchat.llm_judge.paired import Pairing
from fastchat.llm_judge.significance import ROUNDS, Comparison, compare_paired, holm
from fastchat.llm_judge.tables import Table

ALL = "all"
LEVEL = 0.05
"""p-values below it are told as a difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Two models on the same questions."""

    models: tuple[str, str]
    """The same name twice: two runs of one model."""
    results: Mapping[str, Comparison]
    """Over all questions (`ALL`), then by category."""
    p: Mapping[str, float]
    """p-values, those of categories corrected by Holm's method."""

    @property
    def names(self) -> tuple[str, str]:
        """What the two are called beside each other."""
        first, second = self.models
        if first == second:
            return f"{first} (first run)", f"{second} (second run)"
        return first, second

    def table(self) -> Table:
        """A line for all questions, and one for each category."""
        first, second = self.names
        rows = tuple(
            (
                *(name, f"{c.first:.3f}", f"{c.second:.3f}", f"{c.difference:+.3f}"),
                *(_interval(c), f"{self.p[name]:.4f}"),
                *(f"{c.better} / {c.equal} / {c.worse}", c.n_questions),
            )
            for name, c in self.results.items()
        )
        columns = ("category", first, second, "difference", "95% interval", "p")
        title = f"{first} less {second}"
        if len(rows) > 1:
            title += "; p by category is Holm's"
        return Table(
            title=title, columns=(*columns, "ahead / equal / behind", "questions"), rows=rows
        )

    def sentence(self) -> str:
        """Who is ahead, if anyone, and what so many questions can show."""
        found = self.results[ALL]
        if found.n_questions < 2:
            return "One question cannot tell models apart."
        power = (
            f"With {found.n_questions} questions a difference of {found.detectable:.2f} or more "
            "is found four times in five."
        )
        if found.p >= LEVEL:
            return f"No difference beyond chance (p = {found.p:.3f}). {power}"
        first, second = self.models
        if first == second:
            first, second = "the first run", "the second run"
        ahead = first if found.difference > 0 else second
        return f"Ahead: {ahead}, by {abs(found.difference):.2f} (p = {found.p:.4f}). {power}"

    def plain(self) -> dict[str, dict[str, Any]]:
        """The results as JSON."""
        return {
            name: asdict(result) | {"p_holm": self.p[name]} for name, result in self.results.items()
        }


def compare_models(
    pairing: Pairing,
    models: tuple[str, str],
    category_of: Mapping[int, str],
    *,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> Compared:
    """The comparison over all questions, and by category where there are several."""
    groups: dict[str, list[int]] = {}
    for i, question in enumerate(pairing.questions):
        if question in category_of:
            groups.setdefault(category_of[question], []).append(i)
    if len(groups) < 2:
        groups = {}
    results = {
        name: compare_paired(
            [pairing.first[i] for i in rows],
            [pairing.second[i] for i in rows],
            [pairing.questions[i] for i in rows],
            rounds=rounds,
            seed=seed,
        )
        for name, rows in {ALL: list(range(len(pairing.first))), **groups}.items()
    }
    corrected = holm({name: results[name].p for name in groups})
    p = {name: corrected.get(name, found.p) for name, found in results.items()}
    return Compared(models=models, results=results, p=p)


def _interval(found: Comparison) -> str:
    if found.n_questions < 2:
        return "-"
    return f"{found.lower:+.3f} to {found.upper:+.3f}"
