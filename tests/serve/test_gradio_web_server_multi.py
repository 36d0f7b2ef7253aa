"""The arena's command: its flags, what it refuses, and a real process."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import real_processes
from live import LIMIT_S

from fastchat.errors import UsageError
from fastchat.serve.gradio_web_server_multi import MultiSettings, read_arena_settings
from fastchat.settings import parse
from fastchat.web.guard import OpenAIModerator, PatternModerator


def settings(*flags: str) -> MultiSettings:
    return parse(MultiSettings, flags, prog="x")


def test_every_flag_arrives_where_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTCHAT_IMAGE_STORAGE_URL", "http://127.0.0.1:9/bucket")
    monkeypatch.setenv("FASTCHAT_IMAGE_STORAGE_TOKEN", "t")
    monkeypatch.setenv("LOGDIR", str(tmp_path / "logs"))
    patterns = tmp_path / "patterns"
    patterns.write_text("bad\n", "utf-8")
    flags = [
        *("--database-url", "a.db", "--arena-config", "rules.toml", "--vision-arena"),
        *("--use-remote-storage", "--moderate", "--moderation-file", str(patterns)),
        *("--moderation-fail", "open", "--monitor-url", "http://127.0.0.1:9090"),
        *("--trusted-proxies", "10.0.0.0/8", "--store-addresses", "--vote-limit", "5"),
        *("--remote-logger-url", "http://127.0.0.1:9/log", "--password", "pw", "--ga-id", "G-1"),
        *("--language", "zh", "--elo", "r.json", "--leaderboard-table-file", "m.csv"),
        *("--arena-hard-table", "h.csv", "--show-visualizer", "--blind-char-len-limit", "9"),
        *("--input-char-len-limit", "8", "--show-terms", "--concurrency", "3"),
        *("--retention-days", "30"),
    ]
    read = read_arena_settings(settings(*flags))
    assert read.database_url == "a.db" and read.log_folder == tmp_path / "logs"
    assert read.arena_config == Path("rules.toml") and read.vision
    assert (read.storage_url, read.storage_token) == ("http://127.0.0.1:9/bucket", "t")
    assert read.page.moderation is not None and read.page.moderation.on_failure == "open"
    assert isinstance(read.page.moderation.moderator, PatternModerator)
    assert read.monitor_url == "http://127.0.0.1:9090" and read.votes_per_minute == 5
    assert str(read.proxies[0]) == "10.0.0.0/8" and read.stores_addresses
    assert read.remote_log_url == "http://127.0.0.1:9/log" and read.analytics_id == "G-1"
    assert (read.page.password, read.page.language) == ("pw", "zh")
    assert read.board is not None and read.shows_visualizer
    assert (read.board.results, read.board.models) == (Path("r.json"), Path("m.csv"))
    assert read.board.hard == Path("h.csv")
    assert (read.limits.anonymous, read.limits.message) == (9, 8)
    assert read.page.show_terms and read.page.concurrency == 3
    assert read.retention_days == 30 and read.keeps_texts
    assert not read_arena_settings(settings("--no-log-content")).keeps_texts
    monkeypatch.setenv("COPILOT_ARENA_LEADERBOARD_URL", "http://127.0.0.1:9/board")
    foreign = read_arena_settings(settings()).board
    assert foreign is not None and foreign.copilot_url == "http://127.0.0.1:9/board"
    own = read_arena_settings(settings("--category-file", "c.toml")).board
    assert own is not None and own.categories == Path("c.toml")


def test_moderation_needs_a_file_or_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert read_arena_settings(settings()).page.moderation is None
    with pytest.raises(UsageError, match="--moderation-file FILE or OPENAI_API_KEY"):
        read_arena_settings(settings("--moderate"))
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    moderation = read_arena_settings(settings("--moderate")).page.moderation
    assert moderation is not None and isinstance(moderation.moderator, OpenAIModerator)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--random-questions", "q.json"], "--vision-arena"),
        (["--vision-arena", "--random-questions", "none.json"], "cannot be read"),
        (["--vote-limit", "-1"], "--vote-limit"),
        (["--ga-id", "G-1'><script>"], "--ga-id"),
        (["--blind-char-len-limit", "0"], "--blind-char-len-limit"),
        (["--trusted-proxies", "x"], "--trusted-proxies"),
        (["--use-remote-storage"], "FASTCHAT_IMAGE_STORAGE_URL"),
        (["--retention-days", "0"], "--no-log-content"),
        (["--no-log-content", "--use-remote-storage"], "exclude each other"),
        (["--category-file", "c.toml", "--elo", "r.json"], "elo_analysis"),
        (["--moderate", "--moderation-file", "none"], "cannot be read"),
        (["--copilot-url", "file:///etc/passwd"], "no http address"),
    ],
)
def test_what_cannot_work_is_refused_with_the_remedy(
    flags: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FASTCHAT_IMAGE_STORAGE_URL", raising=False)
    with pytest.raises(UsageError, match=complaint):
        read_arena_settings(settings(*flags))


def test_the_file_runs_as_a_script(root: Path) -> None:
    script = root / "fastchat" / "serve" / "gradio_web_server_multi.py"
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--vision-arena" in done.stdout, done.stderr


@pytest.mark.slow
def test_the_arena_runs_without_models_files_or_keys(tmp_path: Path) -> None:
    port = real_processes.free_port()
    page = f"http://127.0.0.1:{port}"
    command = [
        *("fastchat.serve.gradio_web_server_multi", "--host", "127.0.0.1", "--port", str(port)),
        *("--database-url", str(tmp_path / "a.db"), "--log-dir", str(tmp_path / "logs")),
        *("--controller-url", "", "--password", "open sesame"),
    ]
    with real_processes.running(command, log_path=tmp_path / "log") as processes:
        real_processes.wait_until_answers(page, processes)
        with httpx.Client(base_url=page, trust_env=False, timeout=LIMIT_S) as client:
            assert client.get("/config").status_code == 401
            assert client.post("/login", data={"username": "x", "password": "no"}).is_error
            right = {"username": "anybody", "password": "open sesame"}
            assert client.post("/login", data=right).is_success
            assert "Arena (battle)" in client.get("/config").text
