"""The board's tab: live ratings from the blind votes of people in the store.

Counts are kept and only new votes are read, so that a refresh costs little more than the fit.
"""

import html
import threading
from dataclasses import dataclass

import numpy as np

from fastchat.arena.counts import Counts, counts_of, fold
from fastchat.arena.rating import Ratings, fit, ranks
from fastchat.arena.votes import Votes
from fastchat.errors import FastChatError
from fastchat.store.arena import ArenaStore
from fastchat.store.arena_records import VoteColumns
from fastchat.web.texts import BoardTexts


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The board at one moment."""

    ratings: Ratings | None = None
    """None while nobody has voted."""
    n_votes: int = 0
    newest: int = 0
    """The number of the last vote that counts."""


class LiveBoard:
    """Keeps a board up to date with the store; shared by all readers and threads."""

    def __init__(self, store: ArenaStore) -> None:
        self.store = store
        self._lock = threading.Lock()  # guards the counts, which one thread brings up to date
        self._wins = self._ties = np.zeros((0, 0))
        self._standing = Standing()
        self._read = 0

    def standing(self) -> Standing:
        """The board with every vote that is in the store now.

        Raises:
            StoreError: the store cannot be read; the last board stays as it was.
        """
        with self._lock:
            columns = self.store.votes(since=self._read)
            while len(columns):
                self._add(columns)
                self._read = int(columns.ids[-1])
                columns = self.store.votes(since=self._read)
            if self._read != self._standing.newest:
                self._standing = self._rated()
            return self._standing

    def _add(self, columns: VoteColumns) -> None:
        """Counts the blind votes of people among `columns`."""
        blind = columns.anonymous & columns.human & (columns.model_a != columns.model_b)
        m = len(columns.models)
        grown = m - len(self._wins)
        new = fold(
            Votes(
                models=columns.models,
                a=columns.model_a[blind],
                b=columns.model_b[blind],
                outcome=columns.outcome[blind],
            )
        )
        self._models = columns.models
        self._wins = np.pad(self._wins, (0, grown)) + new.wins
        self._ties = np.pad(self._ties, (0, grown)) + new.ties

    def _rated(self) -> Standing:
        counts: Counts = counts_of(self._models, self._wins, self._ties)
        n = round(counts.total)
        old = self._standing.ratings
        start = None if old is None else dict(zip(old.models, old.theta.tolist(), strict=True))
        ratings = fit(counts, start=start) if n else None
        return Standing(ratings=ratings, n_votes=n, newest=self._read)


def board_html(standing: Standing, words: BoardTexts) -> str:
    """The table, best model first."""
    ratings = standing.ratings
    if ratings is None:
        return f'<p class="quiet">{html.escape(words.empty)}</p>'
    places = ranks(ratings.lower, ratings.upper)
    order = np.argsort(-ratings.rating, kind="stable")
    heads = (words.rank, words.model, words.rating, words.interval, words.votes)
    head = "".join(f'<th scope="col">{html.escape(h)}</th>' for h in heads)
    rows = [
        f"<tr><td>{places[i]}</td><td>{html.escape(ratings.models[i])}</td>"
        f"<td>{ratings.rating[i]:.0f}</td>"
        f"<td>+{ratings.upper[i] - ratings.rating[i]:.0f} / "
        f"-{ratings.rating[i] - ratings.lower[i]:.0f}</td>"
        f"<td>{ratings.n_battles[i]:.0f}</td></tr>"
        for i in order
    ]
    told = words.total.format(n=standing.n_votes, m=len(ratings.models))
    loose = "" if ratings.connection.is_finite else f"<p>{html.escape(words.loose)}</p>"
    return (
        f'<p class="quiet">{html.escape(told)}</p>{loose}'
        f'<div class="board"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        f'<p class="quiet">{html.escape(words.explained)}</p>'
    )


def live_board_html(board: LiveBoard, words: BoardTexts) -> str:
    """The board as it is now; when the store is away, a sentence that says so."""
    try:
        return board_html(board.standing(), words)
    except FastChatError as error:
        return f'<p role="status">{html.escape(error.message)}</p>'
