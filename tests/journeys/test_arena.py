"""From the README's two commands to battles of the shipped model, votes, and ratings of them."""

import csv
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import real_processes
from arena_reader import Reader
from live import LIMIT_S
from real_browser import open_browser

from fastchat.web.texts import load_texts

ROOT = Path(__file__).resolve().parents[2]
WORDS = load_texts().arena
BATTLES = 10
QUESTIONS = ("Who are you?", "What is 12 + 7?", "List the days of the week.")
CHOICES = (WORDS.left, WORDS.right, WORDS.tie, WORDS.left, WORDS.both_bad)


def shown_commands() -> list[list[str]]:
    """The commands of the README's section, in order."""
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.split("## The arena")[1].split("\n## ")[0]
    block = re.findall(r"```bash\n(.*?)```", section, re.S)[0]
    return [shlex.split(line) for line in block.splitlines()]


@pytest.fixture
def browser() -> Iterator[Any]:
    yield from open_browser()


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_the_commands_of_the_readme_lead_to_battles_and_ratings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, browser: Any
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)  # the commands leave and look for fastchat.db where they run
    launch, rate = shown_commands()
    assert launch[:2] == rate[:2] == ["python3", "-m"]
    ports = {
        f"--{name}-port": str(real_processes.free_port())
        for name in ("controller", "worker", "server", "web")
    }
    flags = [word for item in ports.items() for word in item]
    command = [*launch[2:], *flags, "--log-dir", str(tmp_path / "logs"), "--device", "cpu"]
    page = f"http://127.0.0.1:{ports['--web-port']}"
    models = f"http://localhost:{ports['--server-port']}/v1/models"
    with real_processes.running(command, log_path=tmp_path / "log") as processes:
        for url in (page, f"{models}/tiny-a"):
            real_processes.wait_until_answers(url, processes)
        listed = {
            model["id"]
            for model in httpx.get(models, trust_env=False, timeout=LIMIT_S).json()["data"]
        }
        assert listed == {"tiny-a", "tiny-b", "tiny-c"}
        reader = Reader(browser.new_context(viewport={"width": 1280, "height": 800}), page)
        for number in range(BATTLES):
            reader.say(QUESTIONS[number % len(QUESTIONS)])
            reader.expect(reader.answers()).to_have_count(2)
            names = reader.tab.locator(".labels:visible")
            reader.expect(names).not_to_contain_text("tiny-")
            reader.vote(CHOICES[number % len(CHOICES)])
            reader.expect(names).to_contain_text("tiny-")
            reader.shoot(f"tiny-{number}")
            reader.begin_new_round()
        reader.tab.get_by_role("tab", name=WORDS.tab_leaderboard).click()
        reader.see("10 votes")
        reader.shoot("tiny-board")
        assert reader.failures == []
    done = subprocess.run(
        [sys.executable, *rate[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "board" / "ratings.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} <= listed
