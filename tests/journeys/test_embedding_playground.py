"""The scripts of playground/test_embedding: against a platform, and on made-up data."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from live import LIMIT_S
from real_processes import Platform

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("platform")]

WORDS = ("sun", "sea", "ship", "fork", "spoon", "knife")


class WordCounts(BaseHTTPRequestHandler):
    """An embeddings endpoint whose vectors count the words that it knows."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        rows = [[0.1 + text.split().count(word) for word in WORDS] for text in body["input"]]
        data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        reply = json.dumps(
            {"object": "list", "data": data, "model": body["model"], "usage": usage}
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests' output is not the place for it."""


@pytest.fixture
def word_counts() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), WordCounts) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """Travels and cutlery: twelve of each, no word in both."""
    lines = ["label,text"]
    for i in range(12):
        lines.append(f"travel,{WORDS[i % 3]} and {WORDS[(i + 1) % 3]}")
        lines.append(f"cutlery,{WORDS[3 + i % 3]} and {WORDS[3 + (i + 1) % 3]}")
    path = tmp_path / "reviews.csv"
    path.write_text("\n".join(lines))
    return path


def script(root: Path, name: str, *words: str, status: int = 0) -> str:
    """What a script prints; on standard error where it is to fail."""
    path = root / "playground" / "test_embedding" / f"{name}.py"
    done = subprocess.run(
        [sys.executable, str(path), *words], capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def test_the_platform_compares_sentences(platform: Platform, root: Path) -> None:
    """The same sentence twice is nearest; the model is the one that the server lists."""
    told = script(
        *(root, "test_sentence_similarity", "--base-url", f"{platform.gateway_url}/v1"),
        *("--sentences", "Who are you?", "What is 12 + 7?", "Who are you?"),
    )
    first, nearest, *others = told.splitlines()
    assert first == "vicuna-tiny:"
    assert nearest == "  +1.0000  Who are you? | Who are you?"
    assert len(others) == 2 and all(float(line.split()[0]) < 0.999 for line in others)


def test_the_platform_finds_a_review_by_its_own_words(platform: Platform, root: Path) -> None:
    told = script(
        *(root, "test_semantic_search", "--base-url", f"{platform.gateway_url}/v1"),
        *("--query", "The radio loses every station and sounds horrible.", "--top", "2"),
    )
    assert told.splitlines()[1].startswith("  +1.0000  bad  The radio loses")
    assert len(told.splitlines()) == 3


def test_the_platforms_embeddings_are_classified(platform: Platform, root: Path) -> None:
    told = script(root, "test_classification", "--base-url", f"{platform.gateway_url}/v1")
    assert told.splitlines()[0] == "36 reviews to learn from, 12 to try"
    assert re.fullmatch(r"  0\.\d{3}|  1\.000", told.splitlines()[2].removesuffix("  vicuna-tiny"))


def test_what_embeddings_tell_apart_is_learned(word_counts: str, reviews: Path, root: Path) -> None:
    told = script(
        *(root, "test_classification", "--base-url", word_counts),
        *("--models", "a,b", "--data", str(reviews)),
    )
    assert told.splitlines()[1:] == ["  0.500  always 'cutlery'", "  1.000  a", "  1.000  b"]


def test_the_nearest_by_meaning_come_first(word_counts: str, reviews: Path, root: Path) -> None:
    told = script(
        *(root, "test_semantic_search", "--base-url", word_counts, "--models", "a"),
        *("--data", str(reviews), "--query", "sun and sea", "--top", "12"),
    )
    lines = told.splitlines()[1:]
    assert "sun" in lines[0] and "sea" in lines[0]
    assert all(" travel " in line for line in lines)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("test_semantic_search", ["--data", "nowhere.csv"], "nowhere.csv cannot be read"),
        ("test_semantic_search", ["--top", "0"], "--top must be at least 1"),
        ("test_sentence_similarity", ["--sentences", "one"], "at least two"),
        ("test_classification", ["--test-share", "1.5"], "--test-share"),
        ("test_sentence_similarity", ["--base-url", "http://127.0.0.1:9/v1"], "Nobody answers"),
    ],
)
def test_what_cannot_be_done_is_told(root: Path, name: str, words: list[str], message: str) -> None:
    if "--base-url" not in words:
        words = [*words, "--base-url", "http://127.0.0.1:9/v1", "--models", "a"]
    status = 1 if "--data" in words or "Nobody" in message else 2
    assert message in script(root, name, *words, status=status)
