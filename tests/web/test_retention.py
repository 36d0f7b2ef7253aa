"""What an arena keeps, and for how long."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gradio_session import Session

from fastchat.arena.events import log_files
from fastchat.arena.live import LiveLeaderboard
from fastchat.serve.monitor import forget
from fastchat.store.arena import ArenaStore
from fastchat.store.database import Database
from fastchat.web.app import PageSettings
from fastchat.web.arena import ArenaSettings, about_text
from fastchat.web.models import Source
from fastchat.web.retention import Retention
from fastchat.web.texts import load_texts
from fastchat.web.visitors import read_networks

WORDS = load_texts().arena


def everything_in(folder: Path) -> bytes:
    """All bytes of the store and of the logs."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def battle_and_vote(page: str, text: str, *, address: str = "") -> Session:
    session = Session(page)
    session.http.headers["x-forwarded-for"] = address
    session.battle(text)
    assert WORDS.thanks in session.vote("left")
    return session


@pytest.fixture
def models(fake: Any) -> None:
    fake.models = [{"id": "lion"}, {"id": "bear"}]


@pytest.mark.slow
def test_without_texts_the_votes_still_count(
    serve_arena: Callable[..., str], tmp_path: Path, fake: Any, models: None
) -> None:
    session = battle_and_vote(serve_arena(keeps_texts=False), "an unspeakable thing")
    session.direct("another unspeakable thing", "lion")
    assert WORDS.thanks in session.call("direct_upvote", None)[-1][-1]
    session.close()
    database = Database(str(tmp_path / "arena.db"))
    store = ArenaStore(database)
    fake.wait_until(lambda: store.count()["conversations"] == 3)
    assert LiveLeaderboard(store).leaderboard().first.n_votes == 1
    assert b"leftvote" in everything_in(tmp_path / "logs")
    assert b"unspeakable" not in everything_in(tmp_path)
    database.close()


@pytest.mark.slow
def test_an_arena_forgets_what_is_too_old_when_it_starts(
    serve_arena: Callable[..., str], tmp_path: Path, fake: Any, models: None
) -> None:
    session = battle_and_vote(serve_arena(), "an unspeakable thing")
    session.close()
    database = Database(str(tmp_path / "arena.db"))
    store = ArenaStore(database)
    fake.wait_until(lambda: b"unspeakable" in everything_in(tmp_path))
    serve_arena(retention_days=1e-9)
    fake.wait_until(lambda: store.votes().voter == ("",))
    found = store.battle(store.votes().battle[0])
    assert found is not None and found.a.messages == () and found.a.model in ("lion", "bear")
    assert LiveLeaderboard(store).leaderboard().first.n_votes == 1, "the vote stays"
    database.close()


def test_retention_removes_files_of_days_that_are_over(tmp_path: Path) -> None:
    import os

    logs = tmp_path / "logs"
    (logs / "serve_images").mkdir(parents=True)
    for day in ("2026-01-01", "2026-01-09", "2026-01-10"):
        (logs / f"{day}-conv.json").write_text("{}\n", "utf-8")
    database = Database(str(tmp_path / "a.db"))
    ArenaStore(database)
    now = 1_768_046_400.0  # 2026-01-10 12:00 UTC
    Retention(database, logs, days=2, now=lambda: now).forget()
    assert sorted(os.listdir(logs)) == [
        "2026-01-09-conv.json",
        "2026-01-10-conv.json",
        "serve_images",
    ]
    database.close()


@pytest.mark.slow
def test_one_person_is_forgotten_on_request_while_the_page_runs(
    serve_arena: Callable[..., str],
    tmp_path: Path,
    fake: Any,
    models: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = serve_arena(proxies=read_networks(["127.0.0.1"]), votes_per_minute=0)
    ann = battle_and_vote(page, "ann is unspeakable", address="203.0.113.7")
    ann.direct("ann alone is unspeakable", "lion")  # without a vote only the log knows whose it is
    told = ann.call("anonymous_share", None)[-1][-1]
    assert "shared/" in told
    bob = battle_and_vote(page, "bob speaks", address="203.0.113.8")
    fake.wait_until(lambda: everything_in(tmp_path / "logs").count(b'"type":"chat"') == 5)
    flags = ["--database-url", str(tmp_path / "arena.db"), "--log-root", str(tmp_path / "logs")]
    assert forget.main([*flags, "--address", "203.0.113.7"]) == 0
    assert "3 conversations, 1 shared pages, 0 pictures, names beside 1 votes, 5 lines" in (
        capsys.readouterr().out
    )
    assert b"unspeakable" not in everything_in(tmp_path)
    assert b"bob speaks" in everything_in(tmp_path / "logs")
    bob.call("anonymous_clear", None)
    bob.battle("and goes on")
    assert WORDS.thanks in bob.vote("right"), "the page never stopped"
    database = Database(str(tmp_path / "arena.db"))
    assert len(ArenaStore(database).votes()) == 3
    database.close()
    ann.close()
    bob.close()
    assert len(log_files(tmp_path / "logs")) >= 1


def test_what_is_not_named_is_not_forgotten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--database-url", str(tmp_path / "a.db"), "--log-root", str(tmp_path)]
    for wrong in ([], ["--address", "1.2.3.4", "--older-than-days", "3"]):
        assert forget.main([*flags, *wrong]) == 2
        assert "--older-than-days alone" in capsys.readouterr().err
    assert forget.main([*flags, "--address", "1.2.3.4"]) == 2
    assert "is not there" in capsys.readouterr().err
    database = Database(str(tmp_path / "a.db"))
    ArenaStore(database)
    database.close()
    assert forget.main([*flags, "--older-than-days", "-1"]) == 2
    assert forget.main([*flags, "--older-than-days", "30"]) == 0
    assert "forgotten: 0 conversations" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_says_what_it_keeps(language: str) -> None:
    def said(**settings: Any) -> str:
        page = PageSettings(source=Source(), language=language)
        return about_text(ArenaSettings(page=page, database_url="x.db", **settings))

    words = PageSettings(source=Source(), language=language).texts.arena
    assert words.kept.strip() in said() and words.kept_hash in said()
    assert words.kept_address in said(stores_addresses=True)
    assert words.kept_for.format(days=30).strip() in said(retention_days=30.0)
    assert words.kept_not in said(keeps_texts=False, retention_days=30.0)
    assert "{" not in said() + said(retention_days=30.0)
