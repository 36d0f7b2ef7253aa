import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from arena_votes import stored_vote
from real_processes import free_port, wait_until_answers

from fastchat.arena.battle_files import battle_table, frame_of_rows
from fastchat.arena.categories import chosen_categories
from fastchat.arena.events import Event, LoggedState, append
from fastchat.arena.export import json_of
from fastchat.arena.leaderboard import Leaderboard, build
from fastchat.errors import DataError, UsageError
from fastchat.serve.monitor import monitor, monitor_md
from fastchat.serve.monitor.monitor import MonitorSettings, Renewed, leaderboard_source
from fastchat.store.arena import ArenaStore
from fastchat.store.database import Database

T0 = 1_700_000_000.0
CHROMIUM = Path("/usr/bin/chromium")


def results(tmp_path: Path, *winners: str) -> Path:
    from collections import Counter

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
    command += ["--log-root", str(logs), "--update-interval", "1"]
    with subprocess.Popen(command, env=environment(tmp_path)) as server:
        try:
            wait_until_answers(f"http://127.0.0.1:{port}/", [server])
            with sync_playwright() as play:
                browser = play.chromium.launch(
                    executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
                )
                page = browser.new_page()
                failures: list[str] = []
                page.on("pageerror", lambda error: failures.append(str(error)))
                page.goto(f"http://127.0.0.1:{port}/")
                rows = page.locator(".ratings tbody tr")
                expect(rows).to_have_count(2, timeout=30_000)
                expect(page.get_by_text("2 models, 4 votes.")).to_be_visible()
                append(logs, vote(9))
                expect(page.get_by_text("2 models, 5 votes.")).to_be_visible(timeout=30_000)
                page.get_by_label("Style control").check()
                page.get_by_text("Plots", exact=True).click()
                expect(page.locator(".js-plotly-plot")).to_be_visible(timeout=30_000)
                page.get_by_text("Export", exact=True).click()
                page.get_by_role("button", name="Make files").click()
                with page.expect_download() as download:
                    page.get_by_role("link", name="ratings.json").click()
                assert b"m-a" in Path(download.value.path()).read_bytes()
                page.get_by_role("tab", name="Basic stats").click()
                expect(page.get_by_text("rightvote").first).to_be_visible(timeout=30_000)
                assert failures == []
                browser.close()
        finally:
            server.terminate()


def environment(folder: Path) -> dict[str, str]:
    import os

    return {**os.environ, "LOGDIR": str(folder)}
