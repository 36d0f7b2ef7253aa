"""The way from a raw dump to a chat with the trained model, in the README's own words."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MINUTES = 60.0


def shown_commands() -> list[list[str]]:
    """The commands of the README's section, in order."""
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.split("## From raw conversations to a chat")[1].split("\n## ")[0]
    block = re.findall(r"```bash\n(.*?)```", section, re.S)[0]
    return [shlex.split(line) for line in block.splitlines()]


def raw_dump(path: Path) -> None:
    """Sixty chats as a page holds them, one of them too short to be of use."""
    records = [
        {
            "id": f"chat{i}",
            "conversations": [
                {"from": "human", "value": f"How do I print the number {i} in Python?"},
                {
                    "from": "gpt",
                    "value": f"<div class='markdown'><p>Call <code>print</code> with {i}:</p>"
                    f"<pre><code class='language-python'>print({i})</code></pre></div>",
                },
            ],
        }
        for i in range(60)
    ]
    records.append({"id": "short", "conversations": [{"from": "human", "value": "Hi"}]})
    path.write_text(json.dumps(records), "utf-8")


@pytest.mark.slow
def test_the_commands_of_the_readme_lead_from_a_dump_to_a_chat(tmp_path: Path) -> None:
    raw_dump(tmp_path / "my_html.json")
    prepare, preview, train, chat = shown_commands()
    assert "prepare_all" in prepare[2]
    for words in (prepare, preview, [*train, "--max_steps", "3", "--disable_tqdm", "True"]):
        run(words, tmp_path)
    report = json.loads((tmp_path / "my_1024_report.json").read_text("utf-8"))
    cleaned = report[0]
    assert (cleaned["read"], cleaned["kept"]) == (61, 60)
    said = run(chat, tmp_path, typed="Who are you?\n!!exit\n")
    assert re.search(r"Assistant: \S", said)


def run(words: list[str], folder: Path, *, typed: str = "") -> str:
    """What a command prints; it has to end well."""
    assert words[0] == "python3"
    done = subprocess.run(
        [
            sys.executable,
            *(str(ROOT / word) if word.startswith("fastchat/") else word for word in words[1:]),
        ],
        cwd=folder,
        input=typed,
        capture_output=True,
        text=True,
        timeout=5 * MINUTES,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
