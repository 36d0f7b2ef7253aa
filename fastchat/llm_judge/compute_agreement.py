"""How far two judges agree, and what a judge's votes say once people have checked a part.

python3 -m fastchat.llm_judge.compute_agreement --judges gpt4-pair human --votefiles a.json b.json
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastchat.errors import UsageError
from fastchat.llm_judge.extras import needing_extras
from fastchat.settings import run_command

if TYPE_CHECKING:
    from fastchat.llm_judge.votes import Vote

PROG = "python3 -m fastchat.llm_judge.compute_agreement"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementSettings:
    """Counts how often two judges say the same of the same pair."""

    judges: tuple[str, str] = ("gpt4-pair", "human")
    """Two of gpt4-pair, human (experts), author, or any judge's name; twice the same is allowed."""
    votefiles: tuple[Path, ...] = (Path("gpt4_judgments.json"), Path("human_judgments.json"))
    """Votes as JSON lists or JSON lines, or judgment files of pairs."""
    data_dir: Path = Path("data")
    """Where vote files are looked for that are not here."""
    win_rates: bool = False
    """Also estimate each model's win rate by the second judge, from many votes of the first."""
    json: Path | None = None
    """File for the results as JSON."""
    debug: bool = False
    """Show tracebacks."""


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0 when there was something to compare."""
    return run_command(AgreementSettings, needing_extras(_run), argv, prog=PROG)


def _run(settings: AgreementSettings) -> None:
    from fastchat.llm_judge.running import say
    from fastchat.llm_judge.tables import write_json
    from fastchat.llm_judge.votes import read_votes

    paths = [p if p.exists() else settings.data_dir / p for p in settings.votefiles]
    votes, notes = read_votes(paths)
    known = sorted({vote.judge_name for vote in votes})
    if absent := [judge for judge in settings.judges if judge not in known]:
        raise UsageError(f"No vote is by {absent[0]!r}; the files hold {', '.join(known)}.")
    n_unclear = sum(vote.label is None for vote in votes)
    if n_unclear:
        notes.append(f"{n_unclear} votes name no winner and are left out")
    found = [_show(votes, settings.judges, turn) for turn in sorted({v.turn for v in votes})]
    value: dict[str, Any] = {"judges": list(settings.judges), "turns": found, "notes": notes}
    if settings.win_rates:
        value["win_rates"] = _win_rates(votes, settings.judges)
    say(notes)
    if settings.json:
        write_json(settings.json, value)


def _show(votes: "Sequence[Vote]", judges: tuple[str, str], turn: int) -> dict[str, Any]:
    """Prints the published lines of a turn; the same as values."""
    from fastchat.llm_judge.agreement import (
        agreement,
        comparisons,
        krippendorff_alpha,
        votes_by_unit,
    )
    from fastchat.llm_judge.tables import plain

    held = comparisons(votes, judges, turn)
    alpha = krippendorff_alpha(votes_by_unit(votes, judges, turn))
    values: dict[str, Any] = {"turn": turn, "alpha": alpha}
    for with_ties in (True, False):
        found = agreement(held, turn=turn, with_ties=with_ties, is_same=judges[0] == judges[1])
        name = "with_tie" if with_ties else "without_tie"
        print(
            f"turn {turn} {name.replace('_', ' ')}: {judges[0]}-{judges[1]} "
            f"total {found.total}, agree {found.agree}, ratio {found.ratio.value:.2f} "
            f"({found.ratio.interval}), kappa {found.kappa:.2f}"
        )
        values[name] = {
            **{"total": found.total, "agree": found.agree},
            **{"ratio": plain(found.ratio), "kappa": found.kappa},
        }
    print(f"turn {turn} Krippendorff's alpha: {alpha:.2f}")
    return values


def _win_rates(votes: "Sequence[Vote]", judges: tuple[str, str]) -> dict[str, Any]:
    """Prints each model's win rate: the judge's own, people's own, and the estimate from both."""
    from fastchat.llm_judge.calibration import pair_scores, prediction_powered, rogan_gladen
    from fastchat.llm_judge.intervals import clustered_mean
    from fastchat.llm_judge.tables import Table, plain

    if judges[0] == judges[1]:
        raise UsageError("--win-rates corrects one judge by another; name two judges.")
    values: dict[str, Any] = {}
    lines: list[tuple[object, ...]] = []
    for model in sorted({name for vote in votes for name in (vote.model_a, vote.model_b)}):
        scores = pair_scores(votes, model, judge=judges[0], human=judges[1])
        seen = [s for s in scores if s.human is not None]
        decided = [(s.human or 0.0, s.judge) for s in seen if {s.human, s.judge} <= {0.0, 1.0}]
        rest = [s.judge for s in scores if s.human is None and s.judge in (0.0, 1.0)]
        estimates = {
            "judge": clustered_mean([s.judge for s in scores], [s.cluster for s in scores]),
            "human": clustered_mean([s.human or 0.0 for s in seen], [s.cluster for s in seen]),
            "prediction_powered": prediction_powered(scores),
            "rogan_gladen_of_decided": rogan_gladen(rest, decided),
        }
        values[model] = {name: plain(estimate) for name, estimate in estimates.items()}
        cells = (f"{e.value:.3f} ({e.interval})" for e in estimates.values())
        lines.append((model, len(scores), len(seen), *cells))
    columns = ("model", "pairs", f"by {judges[1]}", judges[0], judges[1], "both", "decided, both")
    print(Table(title="Win rates", columns=columns, rows=tuple(lines)).text())
    return values


if __name__ == "__main__":
    sys.exit(main())
