"""Says how long people take to vote, from the slower answer on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastchat.errors import DataError
from fastchat.settings import Env, alias, run_command

if TYPE_CHECKING:
    from fastchat.arena.vote_times import VoteTimes


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteTimeSettings:
    """Joins votes to the chats before them and prints how long the votes took."""

    log_root: Annotated[Path, alias("--logdir")] = Path("~/fastchat_logs")
    """Folder of the logs, or of folders server0, server1, ... that hold them."""
    database_url: Annotated[str | None, Env("FASTCHAT_DATABASE_URL")] = None
    """Read the platform's store instead of logs: a SQLite file or a URL."""
    max_num_files: int | None = None
    """Read only the newest so many logs."""
    plot_file: Path | None = None
    """Write the histogram to this HTML file."""
    debug: bool = False
    """Show tracebacks."""


def vote_time_stats(settings: VoteTimeSettings) -> None:
    """Prints mean, median, maximum and the histogram."""
    from fastchat.arena.events import log_files, read_events
    from fastchat.arena.vote_times import stored_vote_times, vote_times

    if settings.database_url is not None:
        times = stored_vote_times(settings.database_url)
    else:
        files = log_files(settings.log_root, newest=settings.max_num_files)
        times = vote_times(read_events(files))
    if not times.seconds:
        raise DataError(
            f"none of {times.n_votes} votes can be joined to its chats; read logs that hold both."
        )
    print("\n".join(report(times)))
    if settings.plot_file is not None:
        from fastchat.arena.row_files import written_at_once

        with written_at_once(settings.plot_file) as part:
            part.write_text(_page(times), "utf-8")
        print(f"written: {settings.plot_file}")


def report(times: "VoteTimes") -> list[str]:
    """The figures and the histogram, a line each."""
    import itertools

    import numpy as np

    seconds = np.array(times.seconds)
    edges, counts = times.histogram()
    labels = [f"{a:.0f}-{b:.0f} s" for a, b in itertools.pairwise(edges)]
    labels.append(f"over {edges[-1]:.0f} s")
    return [
        f"votes: {times.n_votes}, joined: {len(seconds)}, without their chats: "
        f"{times.n_unmatched}, before the answer's end: {times.n_negative}",
        f"mean: {seconds.mean():.1f} s, median: {np.median(seconds):.1f} s, "
        f"maximum: {seconds.max():.1f} s",
        *(f"{label:>12} {n}" for label, n in zip(labels, counts, strict=True)),
    ]


def _page(times: "VoteTimes") -> str:
    import plotly.graph_objects as go

    edges, counts = times.histogram()
    labels = [f"{edge:.0f}" for edge in edges[:-1]] + [f"> {edges[-1]:.0f}"]
    figure = go.Figure(go.Bar(x=labels, y=counts))
    figure.update_layout(
        title="Seconds from the slower answer to the vote",
        xaxis={"title": "seconds, from", "type": "category"},
        yaxis_title="votes",
    )
    return figure.to_html(include_plotlyjs=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        VoteTimeSettings,
        vote_time_stats,
        argv,
        prog="python3 -m fastchat.serve.monitor.vote_time_stats",
    )


if __name__ == "__main__":
    raise SystemExit(main())
