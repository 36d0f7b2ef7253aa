import contextlib
import pickle
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from arena_votes import stored_vote
from real_processes import free_port, wait_until_answers

from fastchat.arena.battle_files import battle_table, frame_of_rows
from fastchat.arena.categories import chosen_categories
from fastchat.arena.events import Event, LoggedState, append
from fastchat.arena.export import json_of
from fastchat.arena.leaderboard import Leaderboard, Method, build
from fastchat.errors import DataError, UsageError
from fastchat.serve.monitor import basic_stats, monitor, monitor_md
from fastchat.serve.monitor.monitor import MonitorSettings, Renewed, leaderboard_source
from fastchat.store.arena import ArenaStore
from fastchat.store.database import Database

T0 = 1_700_000_000.0
CHROMIUM = Path("/usr/bin/chromium")


def results(tmp_path: Path, *winners: str) -> Path:
    rows = [{"model_a": "x|y", "model_b": "z", "winner": w, "tstamp": T0} for w in winners]
    frame = battle_table(frame_of_rows(rows, Counter())).frame
    path = tmp_path / "ratings.json"
    path.write_bytes(json_of(build(frame, chosen_categories(["full"], {}))))
    return path


def vote(i: int) -> Event:
    said = (("user", "How do I cook an egg?"), ("assistant", "Boil it for three minutes."))
    a, b = (LoggedState(conv_id=f"{i}{m}", model_name=m, messages=said) for m in ("m-a", "m-b"))
    kind: Any = "leftvote" if i % 2 else "rightvote"
    return Event(type=kind, tstamp=T0 + i, models=("", ""), states=(a, b))


def test_results_store_and_logs_are_shown(tmp_path: Path) -> None:
    path = results(tmp_path, "model_a", "model_b")
    assert leaderboard_source(MonitorSettings(elo_results_file=path))().first.n_votes == 2
    url = str(tmp_path / "store.db")
    database = Database(url)
    ArenaStore(database).record([stored_vote("1", "leftvote")])
    database.close()
    assert leaderboard_source(MonitorSettings(database_url=url))().first.n_votes == 1
    for i in range(4):
        append(tmp_path / "logs", vote(i))
    found = leaderboard_source(MonitorSettings(log_root=tmp_path / "logs"))()
    assert found.boards["full"].n_votes == 4
    assert "coding" in found.boards and "math" not in found.boards


def test_what_is_old_is_made_anew() -> None:
    made: list[Leaderboard] = []
    clock = [0.0]

    def make() -> Leaderboard:
        made.append(Leaderboard(boards={}, updated_at=float(len(made))))
        return made[-1]

    read = Renewed(make, 300, lambda: clock[0])
    assert read() is read()
    clock[0] = 299.0
    assert read() is made[0]
    clock[0] = 300.0
    assert read() is made[1]


def test_a_pickle_and_bad_intervals_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "elo_results.pkl"
    path.write_bytes(pickle.dumps({"full": 1}))
    with pytest.raises(DataError, match="pickle"):
        leaderboard_source(MonitorSettings(elo_results_file=path))
    with pytest.raises(UsageError, match="--update-interval"):
        monitor.run(MonitorSettings(update_interval=0))


def test_markdown_of_the_boards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = results(tmp_path, "model_a", "model_b", "tie")
    assert monitor_md.main(["--elo", str(path)]) == 0
    said = capsys.readouterr().out
    assert "## Overall" in said and "x\\|y" in said and "| 3 |" in said
    assert monitor_md.main(["--elo", str(path), "--category", "math"]) == 2
    assert "full" in capsys.readouterr().err


def test_markdown_has_the_published_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {
        side: [{"role": "user", "content": "x"}, {"role": "assistant", "content": text}]
        for side, text in (("a", "- **a**\n- b\n- c"), ("b", "no"))
    }
    rows: list[dict[str, Any]] = [
        {"model_a": a, "model_b": b, "winner": w, "tstamp": T0, "language": language}
        | {f"conversation_{side}": messages for side, messages in said.items()}
        for a, b in (("x", "y"), ("y", "z"), ("z", "x"), ("y", "x"))
        for w in ("model_a", "model_b", "tie", "model_a")
        for language in ("English", "French")
    ]
    frame = battle_table(frame_of_rows(rows, Counter())).frame
    board = build(frame, chosen_categories(["full", "french"], {}), method=Method(style=True))
    path, table = tmp_path / "ratings.json", tmp_path / "models.csv"
    path.write_bytes(json_of(board))
    table.write_text(
        "key,Model,License,Organization,Link,Knowledge cutoff date,Deprecated\n"
        'x,X,MIT,"Us, Inc.",https://x.example,2024/1,no\nz,Z,-,-,-,-,yes\n'
    )
    argv = ["--elo", str(path), "--leaderboard-table-file", str(table), "--category", "full,french"]
    assert monitor_md.main(argv) == 0
    overall, french = capsys.readouterr().out.split("## ")[1:]
    assert "| Rank | Rank (StyleCtrl) | Model | Rating | 95 % interval | Votes |" in overall
    assert "| [X](https://x.example) |" in overall and "| Us, Inc. | MIT | 2024/1 |" in overall
    assert "| Rank | Delta | Model |" in french and "| +0 |" in french
    assert "| Z |" not in overall
    assert monitor_md.main([*argv, "--show-deprecated"]) == 0
    assert "| Z |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"update_interval": 0}, "--update-interval 0"),
        ({"concurrency_count": 0}, "--concurrency-count 0"),
        ({"copilot_url": "file:///etc/passwd"}, "no http address"),
        ({"database_url": "x.db", "exclude_model_names": ("m",)}, "--exclude-model-names is of"),
        ({"elo_results_file": Path("r"), "ban_ip_file": Path("b")}, "--ban-ip-file is of"),
    ],
)
def test_flags_that_cannot_be_are_told(flags: dict[str, Any], words: str) -> None:
    with pytest.raises((UsageError, DataError), match=words):
        monitor.run(MonitorSettings(**flags))


@pytest.mark.slow
def test_statistics_come_from_logs_or_the_store(
    tmp_path: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    database = Database(database_url)
    votes = [stored_vote("1", "leftvote"), stored_vote("2", "tievote", origin="judge")]
    ArenaStore(database).record([*votes, stored_vote("3", "tievote", kind="named")])
    database.close()
    assert basic_stats.main(["--database-url", database_url]) == 0
    said = capsys.readouterr().out
    for row in (
        "| chat | 4 |",
        "| leftvote | 1 |",
        "| tievote | 1 |",
        "| tievote of a judge | 1 |",
    ):
        assert row in said
    assert "### Blind votes\n\n| vote | count |\n| --- | --- |\n| leftvote | 1 |" in said
    shown = monitor._statistics(MonitorSettings(database_url=database_url))
    text, chart = shown()
    assert text in said and len(chart.data) == 2
    text, chart = monitor._statistics(MonitorSettings(log_root=tmp_path / "none"))()
    assert text == "There are no logs yet." and chart is None


@contextmanager
def served(data: bytes) -> Iterator[str]:
    """The bytes at an address of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/board" else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/board"
        finally:
            server.shutdown()
            thread.join()


LIMIT_MS = 180_000
"""For what must be seen; a machine that is short of time may take long over it."""


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    if not CHROMIUM.exists():
        pytest.skip("no Chromium is installed")
    from playwright.sync_api import expect, sync_playwright

    logs = tmp_path / "logs"
    for i in range(4):
        append(logs, vote(i))
    port = free_port()
    command = [sys.executable, "-m", "fastchat.serve.monitor.monitor", "--port", str(port)]
    hard = tmp_path / "hard.csv"
    hard.write_text("model,score\nm-a,41.5\n")
    command += ["--log-root", str(logs), "--update-interval", "1"]
    models, hard = tmp_path / "models.csv", tmp_path / "hard.csv"
    models.write_text("key,Model,License\nm-a,Model A,MIT\n", "utf-8")
    hard.write_text("model,score\nm-a,44.4\n", "utf-8")
    command += ["--leaderboard-table-file", str(models), "--arena-hard-leaderboard", str(hard)]
    command += ["--arena-hard-leaderboard", str(hard)]
    with (
        served(b'{"elo_data": [{"Model": "pilot", "Arena Score": 1010.5}]}') as board,
        subprocess.Popen(command, env=environment(tmp_path, board)) as server,
    ):
        try:
            wait_until_answers(f"http://127.0.0.1:{port}/", [server])
            with sync_playwright() as play:
                browser = play.chromium.launch(
                    executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
                )
                expect.set_options(timeout=LIMIT_MS)
                page = browser.new_page()
                page.set_default_timeout(LIMIT_MS)
                failures: list[str] = []
                page.on("pageerror", lambda error: failures.append(str(error)))
                page.goto(f"http://127.0.0.1:{port}/")
                rows = page.locator(".ratings tbody tr")
                expect(rows).to_have_count(2)
                expect(page.get_by_text("2 models, 4 votes.")).to_be_visible()
                append(logs, vote(9))
                expect(page.get_by_text("2 models, 5 votes.")).to_be_visible()
                page.get_by_label("Style control").check()
                page.get_by_text("Plots", exact=True).click()
                expect(page.locator(".js-plotly-plot")).to_be_visible()
                page.get_by_text("Export", exact=True).click()
                page.get_by_role("button", name="Make files").click()
                with page.expect_download() as download:
                    page.get_by_role("link", name="ratings.json").click()
                assert b"m-a" in Path(download.value.path()).read_bytes()
                for name in ("Overview", "Arena (Vision)", "Arena-Hard-Auto", "Full Leaderboard"):
                    page.get_by_role("tab", name=name).click()
                expect(page.locator("table.full td:visible", has_text="Model A")).to_be_visible()
                expect(page.locator("table.full td:visible", has_text="44.4")).to_be_visible()
                score = page.get_by_role("cell", name="1010.50")
                # The page gives the other server 5 s; whoever looks again makes it ask again.
                for _ in range(10):
                    page.get_by_role("tab", name="Overview").click()
                    page.get_by_role("tab", name="Copilot Arena").click()
                    with contextlib.suppress(AssertionError):
                        expect(score).to_be_visible(timeout=20_000)
                        break
                expect(score).to_be_visible()
                page.get_by_role("tab", name="Basic stats").click()
                expect(page.get_by_text("rightvote").first).to_be_visible()
                chart = page.get_by_text("Chats and votes a day (UTC)")
                expect(chart).to_be_visible()
                assert failures == []
                browser.close()
        finally:
            server.terminate()


def environment(folder: Path, board: str) -> dict[str, str]:
    import os

    return {**os.environ, "LOGDIR": str(folder), "COPILOT_ARENA_LEADERBOARD_URL": board}
