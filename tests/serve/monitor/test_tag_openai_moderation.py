import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fastchat.serve.monitor import tag_openai_moderation
from fastchat.serve.monitor.release import main as release


class FakeModeration(ThreadingHTTPServer):
    """Flags what holds the word bad; what holds the word break gets a 500."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.is_broken = False
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: FakeModeration

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = body["input"]
        self.server.asked.append(text)
        broken = self.server.is_broken and "break" in text
        flagged = "bad" in text
        result = {"flagged": flagged, "categories": {"hate": flagged}, "category_scores": {}}
        reply: dict[str, Any] = {"id": "1", "model": body["model"], "results": [result]}
        data = json.dumps({"error": {"message": "no"}} if broken else reply).encode()
        self.send_response(400 if broken else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def fake() -> Iterator[FakeModeration]:
    with FakeModeration() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def battle(i: int, *asked: str) -> dict[str, Any]:
    said = [
        {"role": role, "content": text} for a in asked for role, text in (("user", a), ("a", "x"))
    ]
    return {"question_id": f"q{i}", "conversation_a": said, "conversation_b": said}


def tagged(path: Path, url: str, *flags: str) -> int:
    argv = ["--input", str(path), "--api-base", url, "--max-tries", "1", *flags]
    return tag_openai_moderation.main(argv)


def test_prompts_are_tagged_and_what_is_flagged_is_not_released(
    fake: FakeModeration, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "battles.json"
    path.write_text(json.dumps([battle(1, "hello", "bad thing"), battle(2, "hi"), battle(3, "hi")]))
    assert tagged(path, fake.url, "--parallel", "2") == 0
    rows = json.loads((tmp_path / "battles_tagged.json").read_text())
    assert [row["openai_moderation"]["flagged"] for row in rows] == [True, False, False]
    assert rows[0]["openai_moderation"]["categories"]["hate"] is True
    assert "hello\nbad thing" in fake.asked
    assert "tagged: 3 of 3, flagged: 1" in capsys.readouterr().out
    config = tmp_path / "release.toml"
    source = tmp_path / "battles_tagged.json"
    config.write_text(f'input = ["{source}"]\noutput_dir = "{tmp_path}"')
    assert release(["--config", str(config)]) == 0
    assert json.loads((tmp_path / "arena" / "report.json").read_text())["dropped"]["flagged"] == 1


def test_a_run_that_was_broken_off_goes_on(
    fake: FakeModeration, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "battles.jsonl"
    path.write_text("\n".join(json.dumps(battle(i, f"p{i}")) for i in range(3)))
    path.write_text(path.read_text() + "\n" + json.dumps(battle(4, "break")))
    fake.is_broken = True
    assert tagged(path, fake.url) == 1
    captured = capsys.readouterr()
    assert "tagged: 3 of 4" in captured.out and "HTTP 400" in captured.err
    fake.is_broken = False
    before = len(fake.asked)
    assert tagged(path, fake.url) == 0
    assert fake.asked[before:] == ["break"]
    assert len(json.loads((tmp_path / "battles_tagged.json").read_text())) == 4
    assert not list(tmp_path.glob("*.progress.jsonl"))


def test_a_file_of_patterns_needs_no_endpoint(tmp_path: Path) -> None:
    path, patterns = tmp_path / "b.json", tmp_path / "patterns.txt"
    path.write_text(json.dumps([battle(1, "A BAD word"), battle(2, "fine")]))
    patterns.write_text("# words\n\\bbad\\b\n")
    argv = ["--input", str(path), "--pattern-file", str(patterns)]
    assert tag_openai_moderation.main(argv) == 0
    rows = json.loads((tmp_path / "b_tagged.json").read_text())
    assert [row["openai_moderation"]["flagged"] for row in rows] == [True, False]
    argv += ["--first-n", "1"]
    assert tag_openai_moderation.main(argv) == 0
    assert len(json.loads((tmp_path / "b_tagged.json").read_text())) == 1
    patterns.write_text("(")
    assert tag_openai_moderation.main(argv) == 1
