"""The arena as a program sees it: battles, votes, what is hidden, what is kept."""

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_session import Session
from live import LIMIT_S

from fastchat.arena.events import Event, log_files, read_events
from fastchat.arena.live import LiveLeaderboard
from fastchat.store import database as database_module
from fastchat.store.arena import ArenaStore
from fastchat.store.database import Database
from fastchat.web import guard
from fastchat.web.guard import Moderation, read_patterns
from fastchat.web.texts import load_texts

WORDS = load_texts().arena
MODELS = ("secret-lion", "secret-tiger", "secret-bear")


@pytest.fixture
def arena(serve_arena: Callable[..., str], fake: Any) -> str:
    fake.models = [{"id": name, "context_length": 4096} for name in MODELS]
    fake.says_its_name = False
    return serve_arena(votes_per_minute=0)


@pytest.fixture
def session(arena: str) -> Iterator[Session]:
    opened = Session(arena)
    yield opened
    opened.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ArenaStore]:
    database = Database(str(tmp_path / "arena.db"))
    yield ArenaStore(database)
    database.close()


def logged(tmp_path: Path, *kinds: str) -> list[Event]:
    found = list(read_events(log_files(tmp_path / "logs")))
    assert all(isinstance(event, Event) for event in found)
    return [event for event in found if isinstance(event, Event) and event.type in kinds]


def named_in(text: str) -> list[str]:
    return [name for name in MODELS if name in text]


@pytest.mark.slow
def test_a_battle_is_blind_until_the_vote(
    session: Session, store: ArenaStore, fake: Any, tmp_path: Path
) -> None:
    session.battle("hello there")
    session.battle("and again")
    assert fake.requests[-1]["max_tokens"] == 2000
    assert len(fake.requests) == 4
    assert named_in(session.everything) == [], "no payload names a model before the vote"
    assert WORDS.thanks in session.vote("left")
    columns = store.votes()
    assert len(columns) == 1 and columns.anonymous.all() and columns.turn.tolist() == [2]
    [vote] = logged(tmp_path, "leftvote")
    assert vote.models == ("", ""), "the log proves that the vote was blind"
    asked = {request["model"] for request in fake.requests}
    assert {state.model_name for state in vote.states} == asked
    assert [role for role, _ in vote.states[0].messages] == ["user", "assistant"] * 2
    assert vote.extra["battle_id"] == columns.battle[0]


@pytest.mark.slow
def test_names_appear_with_the_vote(session: Session, fake: Any) -> None:
    session.battle("hello")
    before = session.follow("anonymous")
    assert named_in(session.everything) == []
    assert WORDS.side_a in json.dumps(before)
    session.vote("tie")
    asked = {request["model"] for request in fake.requests}
    assert set(named_in(json.dumps(session.follow("anonymous")))) == asked


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choice", "kind", "code"),
    [
        ("left", "leftvote", 0),
        ("right", "rightvote", 1),
        ("tie", "tievote", 2),
        ("both_bad", "bothbad_vote", 3),
    ],
)
def test_each_vote_is_stored_and_logged(
    session: Session, store: ArenaStore, tmp_path: Path, choice: str, kind: str, code: int
) -> None:
    session.battle("hello")
    session.vote(choice)
    assert store.votes().outcome.tolist() == [code]
    [path] = log_files(tmp_path / "logs")
    rows = [json.loads(text) for text in path.read_text("utf-8").splitlines()]
    [line] = [row for row in rows if row["type"] == kind]
    assert {"tstamp", "type", "models", "states", "ip"} <= line.keys()
    assert {"template_name", "system_message", "roles", "messages", "offset"} <= (
        line["states"][0].keys()
    )
    assert "127.0.0.1" not in json.dumps(line), "an address is kept as a hash only"
    conversation = store.battle(line["battle_id"])
    assert conversation is not None and conversation.a.model == line["states"][0]["model_name"]


@pytest.mark.slow
def test_a_round_ends_with_its_vote(session: Session, store: ArenaStore, fake: Any) -> None:
    session.battle("hello")
    session.vote("left")
    n = len(fake.requests)
    assert WORDS.begin_new_round in session.battle("one more")[-1][-1]
    session.call("anonymous_regenerate", None, 0.7, 1.0, 64)
    assert len(fake.requests) == n
    assert WORDS.refused_votes["voted"] in session.vote("right")
    assert len(store.votes()) == 1
    session.call("anonymous_clear", None)
    session.battle("a new round")
    assert WORDS.thanks in session.vote("right")
    assert store.votes().outcome.tolist() == [0, 1]


@pytest.mark.slow
def test_side_by_side_goes_on_after_a_vote(
    session: Session, store: ArenaStore, fake: Any, tmp_path: Path
) -> None:
    session.named("one", "secret-lion", "secret-bear")
    assert WORDS.thanks in session.vote("left", "named")
    session.named("two", "secret-lion", "secret-bear")
    assert WORDS.thanks in session.vote("right", "named")
    columns = store.votes()
    assert len(set(columns.battle)) == 2, "each vote has a battle of its own"
    assert not columns.anonymous.any()
    assert columns.turn.tolist() == [1, 2]
    assert [v.models for v in logged(tmp_path, "leftvote")] == [("secret-lion", "secret-bear")]
    session.named("three", "secret-lion", "secret-tiger")
    assert len(fake.requests[-1]["messages"]) == 1, "other models begin anew"


@pytest.mark.slow
def test_only_known_models_can_be_chosen(session: Session, fake: Any) -> None:
    assert "nobody" in session.named("hi", "secret-lion", "nobody")[-1][-1]
    assert "nobody" in session.direct("hi", "nobody")[-1][-1]
    assert fake.requests == []


@pytest.mark.slow
def test_direct_chat_takes_thumbs_and_flags(
    session: Session, store: ArenaStore, tmp_path: Path
) -> None:
    session.direct("hello", "secret-lion")
    assert WORDS.thanks in session.call("direct_upvote", None)[-1][-1]
    session.call("direct_downvote", None)  # one thumb an answer
    session.direct("again", "secret-lion")
    session.call("direct_flag", None)
    assert store.count()["flags"] == 2
    assert [e.type for e in logged(tmp_path, "upvote", "downvote", "flag")] == ["upvote", "flag"]
    assert store.refused() == {}


@pytest.mark.slow
def test_chats_are_logged_with_their_battle(session: Session, tmp_path: Path, fake: Any) -> None:
    session.battle("hello")
    session.battle("break !break")
    session.vote("left")
    session.call("anonymous_regenerate", None, 0.7, 1.0, 64)
    fake.wait_until(lambda: len(logged(tmp_path, "chat", "error")) == 6)
    chats = logged(tmp_path, "chat", "error")
    assert [e.type for e in chats] == ["chat"] * 2 + ["error"] * 4
    assert len({e.extra["battle_id"] for e in chats}) == 1
    assert chats[0].gen_params == {"temperature": 0.7, "top_p": 1.0, "max_new_tokens": 2000}
    assert chats[0].start is not None and chats[0].finish is not None
    assert chats[0].start <= chats[0].finish
    session.close()


@pytest.mark.slow
def test_failed_and_missing_answers_cannot_be_voted_on(arena: str, tmp_path: Path) -> None:
    session = Session(arena)
    assert WORDS.refused_votes["no_battle"] in session.vote("left")
    steps = session.battle("try !broken")
    assert WORDS.side_failed.format(side=WORDS.side_a) in steps[-1][-1]
    assert WORDS.refused_votes["failed"] in session.vote("left")
    assert named_in(session.everything) == [], "a failure names nobody either"
    session.close()


@pytest.mark.slow
def test_a_vote_before_both_answers_ended_is_refused(
    arena: str, store: ArenaStore, fake: Any
) -> None:
    session = Session(arena)
    session.join("anonymous_send", None, "count !slow", 0.7, 1.0, 64)
    fake.wait_until(lambda: fake.open == 2)
    session.join("anonymous_left", None)
    fake.wait_until(lambda: store.refused() == {"unfinished": 1})
    session.join("anonymous_stop")
    session.steps(events=3)
    assert WORDS.refused_votes["unfinished"] in session.everything
    fake.wait_until(lambda: fake.given_up == 2)
    assert WORDS.refused_votes["failed"] in session.vote("left"), "a stopped answer is not whole"
    session.close()


@pytest.mark.slow
def test_another_browser_cannot_vote_in_a_session_it_knows(arena: str, store: ArenaStore) -> None:
    owner = Session(arena)
    owner.battle("hello")
    thief = Session(arena, session=owner.session)
    assert WORDS.refused_votes["forged"] in thief.vote("left")
    for name, *values in (
        ("send", None, "and what did I say?", 0.7, 1.0, 64),
        ("regenerate", None, 0.7, 1.0, 64),
        ("share", None),
        ("clear", None),
    ):
        thief.join(f"anonymous_{name}", *values)
    thief.steps(events=4, succeed=False)
    assert "hello" not in thief.everything and "shared/" not in thief.everything
    assert named_in(thief.everything) == []
    assert WORDS.thanks in owner.vote("right")
    assert store.votes().outcome.tolist() == [1]
    owner.close()
    thief.close()


@pytest.mark.slow
def test_two_votes_at_once_count_once(arena: str, store: ArenaStore) -> None:
    session = Session(arena)
    session.battle("hello")
    for name in ("left", "right", "tie"):
        session.join(f"anonymous_{name}", None)
    session.steps(events=3)
    assert session.everything.count(WORDS.thanks) == 1
    assert len(store.votes()) == 1
    session.close()


@pytest.mark.slow
def test_many_votes_of_one_address_are_limited_and_counted(
    serve_arena: Callable[..., str],
    fake: Any,
    store: ArenaStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "MINUTE_S", 3600.0)  # five votes may take longer than a minute
    fake.models = [{"id": "lion"}, {"id": "bear"}]
    page = serve_arena(votes_per_minute=3)
    session = Session(page)
    notices: list[str] = []
    for number in range(5):
        session.call("anonymous_clear", None)
        session.battle(f"question {number}")
        notices.append(session.vote("left"))
    session.close()
    assert [WORDS.thanks in notice for notice in notices] == [True] * 3 + [False] * 2
    assert all(WORDS.refused_votes["rate"] in notice for notice in notices[3:])
    assert len(store.votes()) == 3
    fake.wait_until(lambda: store.refused() == {"rate": 2})


@pytest.mark.slow
def test_when_the_database_is_locked_the_page_says_so_and_chat_goes_on(
    tmp_path: Path,
    store: ArenaStore,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setattr(database_module, "BUSY_S", 1)  # before the arena opens it
    session = Session(request.getfixturevalue("arena"))
    session.battle("hello")
    other = sqlite3.connect(tmp_path / "arena.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert WORDS.vote_not_saved in session.vote("left")
    assert "and on" in json.dumps(session.battle("and on")[-1])
    other.execute("ROLLBACK")
    other.close()
    assert WORDS.thanks in session.vote("left"), "the same vote can be given again"
    assert len(store.votes()) == 1
    session.close()


def test_a_shared_conversation_shows_what_was_shown(arena: str) -> None:
    session = Session(arena)
    assert WORDS.nothing_to_share in session.call("anonymous_share", None)[-1][-1]
    session.battle("hello <script>alert(1)</script>")
    blind = session.call("anonymous_share", None)[-1][-1]
    session.vote("left")
    told = session.call("anonymous_share", None)[-1][-1]
    pages = [session.http.get("/" + link_in(html)).text for html in (blind, told)]
    assert named_in(pages[0]) == []
    assert len(named_in(pages[1])) == 2 and WORDS.left in pages[1]
    assert all("<script>" not in page and "&lt;script&gt;" in page for page in pages)
    assert session.http.get("/shared/none").status_code == 404
    session.close()


def link_in(html: str) -> str:
    found = re.search(r'href="(shared/[^"]+)"', html)
    assert found
    return found[1]


@pytest.mark.slow
def test_the_board_moves_with_the_votes_of_blind_battles(
    session: Session, store: ArenaStore
) -> None:
    board = LiveLeaderboard(store)
    assert board.leaderboard().first.rows == ()
    session.named("one", "secret-lion", "secret-bear")
    session.vote("left", "named")
    assert board.leaderboard().first.rows == (), "votes by name do not count"
    session.battle("hello")
    session.vote("left")
    assert board.leaderboard().first.n_votes == 1
    assert len(board.leaderboard().first.rows) == 2


@pytest.mark.slow
def test_a_flagged_message_reaches_no_model(
    serve_arena: Callable[..., str], fake: Any, tmp_path: Path
) -> None:
    patterns = tmp_path / "patterns"
    patterns.write_text("# what is not sent\nbad\\s+words\n", "utf-8")
    fake.models = [{"id": "lion"}, {"id": "bear"}]
    session = Session(
        serve_arena(page={"moderation": Moderation(moderator=read_patterns(patterns))})
    )
    assert load_texts().notice.flagged in session.battle("such BAD  words")[-1][-1]
    assert fake.requests == []
    session.battle("good ones")
    assert len(fake.requests) == 2
    session.close()
    fake.wait_until(lambda: len(logged(tmp_path, "chat")) == 4)
    assert [bool(e.extra.get("flagged")) for e in logged(tmp_path, "chat")] == [True] * 2 + [
        False
    ] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"vision": False}, "/gradio_api/upload"),
        ({"vision": False}, "/gradio_api/file=/etc/passwd"),
        ({"vision": True}, "/gradio_api/file=/etc/passwd"),
        ({"vision": True}, "/gradio_api/file=../../etc/passwd"),
    ],
)
def test_nothing_of_the_server_can_be_read(
    serve_arena: Callable[..., str], settings: dict[str, Any], path: str
) -> None:
    page = serve_arena(**settings)
    assert httpx.get(page + path, timeout=LIMIT_S).status_code in (403, 404, 405)
