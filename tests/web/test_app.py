"""The page as a program sees it: its configuration, its routes, its log-in, its events."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import LIMIT_S

from fastchat.errors import UsageError
from fastchat.web.app import read_accounts
from fastchat.web.models import Source

ServePage = Callable[..., str]


def config_of(page: str) -> dict[str, Any]:
    return httpx.get(f"{page}/config", timeout=LIMIT_S).raise_for_status().json()


def components(page: str) -> dict[str, dict[str, Any]]:
    """The properties of the page's components by label."""
    config = config_of(page)
    found = [c["props"] for c in config["components"] if c["props"].get("label")]
    return {props["label"]: props for props in found}


def call(page: str, api_name: str, data: list[Any], session: str) -> list[list[Any]]:
    """What the event `api_name` sends back: one list for each step."""
    config = config_of(page)
    index = next(d["id"] for d in config["dependencies"] if d["api_name"] == api_name)
    body = {"fn_index": index, "session_hash": session, "data": data}
    httpx.post(f"{page}/gradio_api/queue/join", json=body, timeout=LIMIT_S).raise_for_status()
    steps: list[list[Any]] = []
    address = f"{page}/gradio_api/queue/data?session_hash={session}"
    with httpx.stream("GET", address, timeout=LIMIT_S) as events:
        for line in events.iter_lines():
            if not line.startswith("data:"):
                continue
            event = json.loads(line.removeprefix("data:"))
            if event["msg"] in ("process_generating", "process_completed"):
                assert event["success"], event
                steps.append(event["output"].get("data", []))
            if event["msg"] == "process_completed":
                break
    return steps


@pytest.fixture
def page(serve_page: ServePage, fake: Any) -> str:
    return serve_page(source=Source(api_url=fake.url))


@pytest.mark.slow
def test_the_page_shows_the_published_controls(page: str) -> None:
    shown = components(page)
    temperature, top_p = shown["Temperature"], shown["Top P"]
    assert [temperature[k] for k in ("minimum", "maximum", "step", "value")] == [0, 1, 0.1, 0.7]
    assert [top_p[k] for k in ("minimum", "maximum", "step", "value")] == [0, 1, 0.1, 1.0]
    tokens = shown["Max output tokens"]
    assert [tokens[k] for k in ("minimum", "maximum", "step", "value")] == [16, 2048, 64, 1024]
    conversation = shown["Conversation"]
    assert conversation["sanitize_html"] is True
    assert [d["left"] for d in conversation["latex_delimiters"]] == ["$$", "$", "\\(", "\\["]


@pytest.mark.slow
def test_nothing_is_reported_and_no_file_is_served(page: str) -> None:
    config = config_of(page)
    assert config["analytics_enabled"] is False
    for path in ("/gradio_api/file=/etc/passwd", "/file=/etc/passwd", "/gradio_api/upload"):
        assert httpx.get(page + path, timeout=LIMIT_S).status_code == 404
    assert httpx.get(page, headers={"host": "evil.example"}, timeout=LIMIT_S).status_code == 403


@pytest.mark.slow
def test_a_message_is_answered_over_the_queue(page: str, fake: Any) -> None:
    steps = call(page, "send", [None, "hello", "parrot", 0.2, 1.0, 64], "session-1")
    assert len(steps) >= 3
    assert "parrot heard: hello" in json.dumps(steps)
    assert fake.requests[-1]["max_tokens"] == 64
    again = call(page, "regenerate", [None, "parrot", 0.2, 1.0, 64], "session-1")
    assert "parrot heard: hello" in json.dumps(again), "the conversation is kept for its session"
    assert call(page, "regenerate", [None, "parrot", 0.2, 1.0, 64], "session-2")[-1] is not None
    assert len(fake.requests) == 2, "another session has nothing to answer again"


@pytest.mark.slow
def test_clear_forgets_the_conversation(page: str, fake: Any) -> None:
    call(page, "send", [None, "one", "parrot", 0.2, 1.0, 64], "s")
    call(page, "clear", [None], "s")
    call(page, "send", [None, "two", "parrot", 0.2, 1.0, 64], "s")
    assert [m["content"] for m in fake.requests[-1]["messages"]] == ["two"]


@pytest.mark.slow
def test_only_people_of_the_file_get_in(serve_page: ServePage, fake: Any, tmp_path: Path) -> None:
    accounts = tmp_path / "accounts"
    accounts.write_text("ann:secret,bob:with:colon\n\ncat:third\n", "utf-8")
    assert read_accounts(accounts) == (("ann", "secret"), ("bob", "with:colon"), ("cat", "third"))
    page = serve_page(source=Source(api_url=fake.url), accounts=read_accounts(accounts))
    assert httpx.get(f"{page}/config", timeout=LIMIT_S).status_code == 401
    body = {"fn_index": 0, "session_hash": "s", "data": []}
    join = f"{page}/gradio_api/queue/join"
    assert httpx.post(join, json=body, timeout=LIMIT_S).status_code == 401
    with httpx.Client(base_url=page, timeout=LIMIT_S) as client:
        wrong = {"username": "ann", "password": "guess"}
        assert client.post("/login", data=wrong).status_code == 400
        right = {"username": "bob", "password": "with:colon"}
        assert client.post("/login", data=right).status_code == 200
        assert client.get("/config").status_code == 200


@pytest.mark.parametrize("text", ["", "ann", "ann:", ":x", "ann:x,bob"])
def test_a_broken_file_of_accounts_is_refused(tmp_path: Path, text: str) -> None:
    accounts = tmp_path / "accounts"
    accounts.write_text(text, "utf-8")
    with pytest.raises(UsageError, match="--gradio-auth-path"):
        read_accounts(accounts)
    with pytest.raises(UsageError, match="cannot be read"):
        read_accounts(tmp_path / "none")


@pytest.mark.slow
def test_terms_are_part_of_the_page_when_asked_for(serve_page: ServePage, fake: Any) -> None:
    source = Source(api_url=fake.url)
    assert 'id="terms"' not in json.dumps(config_of(serve_page(source=source)))
    page = serve_page(source=source, show_terms=True)
    assert '<dialog id=\\"terms\\">' in json.dumps(config_of(page))
