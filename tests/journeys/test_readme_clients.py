"""What the README shows for clients is answered by a platform."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from live import LIMIT_S
from real_processes import Platform

ROOT = Path(__file__).resolve().parents[2]


def shown_commands() -> list[list[str]]:
    """The commands of the README's section, in order."""
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.split("## Every client")[1].split("\n## ")[0]
    block = re.findall(r"```bash\n(.*?)```", section, re.S)[0]
    return [shlex.split(line) for line in block.splitlines()]


@pytest.mark.slow
@pytest.mark.xdist_group("platform")
def test_the_commands_of_the_readme_are_answered(platform: Platform) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")

    def run(words: list[str]) -> str:
        words = [word.replace("http://localhost:8000", platform.gateway_url) for word in words]
        if words[0] == "python3":
            words = [sys.executable, *words[1:], "--base-url", f"{platform.gateway_url}/v1"]
        else:
            words = [words[0], "--silent", "--show-error", "--fail", *words[1:]]
        return subprocess.run(
            words, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=True
        ).stdout

    chat, message, response, embedding, search = map(run, shown_commands())
    filled = json.loads(json.loads(chat)["choices"][0]["message"]["content"])
    assert filled in ({"is_odd": True}, {"is_odd": False})
    assert "vicuna" in json.loads(message)["content"][0]["text"].lower()
    assert "event: response.completed" in response
    assert [len(item["embedding"]) for item in json.loads(embedding)["data"]] == [8, 8]
    assert search.startswith("vicuna-tiny:\n") and len(search.splitlines()) == 4
