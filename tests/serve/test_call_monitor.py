"""Limits by the logs: exact as the log stands, by model and by person; the page obeys them."""

import json
import os
from pathlib import Path
from typing import Any

import httpx2
import pytest
from in_process import serving

from fastchat.serve import call_monitor
from fastchat.serve.call_counts import CallCounts, Limits, LogTail
from fastchat.serve.call_monitor import Monitor
from fastchat.web.guard import CallMonitor

NOW = 1_700_000_000.0
LIMITS = Limits(model_hourly={"m-a": 3}, user_daily={"m-b": 2})


def chat(at: float, model: str, ip: str, kind: str = "chat") -> str:
    return json.dumps({"tstamp": NOW + at, "type": kind, "model": model, "ip": ip, "state": {}})


def write(folder: Path, *lines: str, name: str = "2023-11-14-conv.json") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / name
    with path.open("a") as file:
        file.write("".join(line + "\n" for line in lines))
    os.utime(path, (NOW, NOW))
    return path


def monitor(folder: Path, limits: Limits = LIMITS, **more: Any) -> Monitor:
    return Monitor(LogTail((folder,)), limits, now=lambda: NOW, **more)


async def get(client: httpx2.AsyncClient, path: str, **query: Any) -> Any:
    reply = await client.get(path, params=query)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.slow
async def test_the_published_routes_on_a_sample_log(tmp_path: Path) -> None:
    write(
        tmp_path,
        *(chat(-7200, "m-a", "1"), chat(-90_000, "m-b", "1"), chat(-50, "m-a", "1")),
        *(chat(-40, "m-b", "2"), chat(-30, "m-a", "2", "upvote"), "{torn", "[]", ""),
    )
    write(tmp_path / "server1", chat(-5000, "m-b", "2"), chat(-20, "m-a", "3"))
    async with (
        serving(monitor(tmp_path).app()) as url,
        httpx2.AsyncClient(base_url=url, timeout=600) as client,
    ):
        assert await get(client, "/get_num_users_hr") == {"num_users": 3}
        assert await get(client, "/get_num_users_day") == {"num_users": 3}
        stats = await get(client, "/get_model_call_stats", most_recent_min=24 * 60)
        assert stats == {"model_call_stats": {"m-a": 3, "m-b": 2}}
        stats = await get(client, "/get_model_call_stats", model="m-a")
        assert stats == {"model_call_stats": {"m-a": 2}}
        stats = await get(client, "/get_user_call_stats", top_k=1, most_recent_min=100)
        assert stats == {"user_call_stats": {"2": {"call_dict": {"m-b": 2}, "total_calls": 2}}}
        assert await get(client, "/get_model_call_limit/m-a") == {"model_call_limit": {"m-a": 3}}
        assert await get(client, "/get_model_call_limit/org/x") == {
            "model_call_limit": {"org/x": -1}
        }
        assert await get(client, "/is_limit_reached", model="m-b", user_id="2") == {
            "is_limit_reached": True,
            "reason": "USER_DAILY_LIMIT (m-b): 2",
        }
        free = {"is_limit_reached": False}
        assert await get(client, "/is_limit_reached", model="m-b", user_id="1") == free
        assert await get(client, "/is_limit_reached", model="m-a", user_id="1") == free
        write(tmp_path, chat(-1, "m-a", "9"))
        assert await get(client, "/is_limit_reached", model="m-a", user_id="1") == {
            "is_limit_reached": True,
            "reason": "MODEL_HOURLY_LIMIT (m-a): 3",
        }
        assert (await get(client, "/health"))["unread_lines"] == 2


async def test_a_line_that_is_not_whole_counts_when_it_is(tmp_path: Path) -> None:
    tail = LogTail((tmp_path,))
    whole = chat(-1, "m-a", "1")
    path = write(tmp_path, chat(-2, "m-a", "1"))
    with path.open("a") as file:
        file.write(whole[:20])
    assert len(tail.new_calls(NOW)) == 1
    with path.open("a") as file:
        file.write(whole[20:] + "\n")
    assert len(tail.new_calls(NOW)) == 1 and tail.n_unread == 0
    assert tail.new_calls(NOW) == []
    path.write_text(whole + "\n")
    assert len(tail.new_calls(NOW)) == 1


def test_calls_are_forgotten_after_a_day(tmp_path: Path) -> None:
    write(tmp_path, chat(-10, "m-b", "1"), chat(-5, "m-b", "1"))
    counts = CallCounts()
    counts.add(LogTail((tmp_path,)).new_calls(NOW), NOW)
    assert counts.reason(LIMITS, "m-b", "1", now=NOW)
    counts.add([], NOW + 86_395)
    assert not counts.reason(LIMITS, "m-b", "1", now=NOW + 86_395)
    assert not counts.calls and not counts.by_user


@pytest.mark.slow
async def test_limits_change_by_post_with_the_secret_only(tmp_path: Path) -> None:
    write(tmp_path, chat(-1, "m-a", "1"))
    app = monitor(tmp_path, admin_token="s").app()
    async with serving(app) as url, httpx2.AsyncClient(base_url=url, timeout=600) as client:
        path, body = "/update_model_call_limit", {"model": "m-a", "limit": 1}
        assert (await client.get(path)).status_code == 405
        assert (await client.post(path, json=body)).status_code == 401
        secret = {"authorization": "Bearer s"}
        for wrong in ({"model": "m-a"}, {"limit": 1}, {**body, "kind": "x"}, {**body, "limit": -2}):
            assert (await client.post(path, json=wrong, headers=secret)).status_code == 400
        reply = await client.post(path, json=body, headers=secret)
        assert reply.json() == {"success": True}
        reached = await get(client, "/is_limit_reached", model="m-a", user_id="2")
        assert reached["reason"] == "MODEL_HOURLY_LIMIT (m-a): 1"
        await client.post(path, json={**body, "limit": -1}, headers=secret)
        assert not (await get(client, "/is_limit_reached", model="m-a", user_id="2"))[
            "is_limit_reached"
        ]
        assert (await client.get("/is_limit_reached")).status_code == 400
        assert (await client.get("/get_model_call_stats?top_k=x")).status_code == 400


@pytest.mark.slow
async def test_the_page_hears_that_a_limit_of_one_call_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastchat.web.guard.MONITOR_TIMEOUT_S", 600.0)
    write(tmp_path)
    app = monitor(tmp_path, Limits(user_daily={"m": 1})).app()
    async with serving(app) as url:
        page = CallMonitor(url)
        assert await page.reason("m", "1.2.3.4") == ""
        write(tmp_path, chat(0, "m", "1.2.3.4"))
        assert await page.reason("m", "1.2.3.4") == "USER_DAILY_LIMIT (m): 1"
        assert await page.reason("m", "5.6.7.8") == ""
        await page.close()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--log-dir is missing"),
        (["--log-dir", "/nowhere/at/all"], "is no folder"),
        (["--log-dir", ".", "--limits", "none.json"], "none.json"),
        (["--log-dir", ".", "--limits", "bad.json"], "user_daily"),
    ],
)
def test_what_cannot_be_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text('{"user_daily": {"m": -1}}')
    assert call_monitor.main(flags) != 0
    assert words in capsys.readouterr().err
