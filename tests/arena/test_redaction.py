from collections import Counter
from pathlib import Path

import pytest

from fastchat.arena.redaction import MARK, read_redactor, redactor
from fastchat.errors import DataError

PERSONAL = [
    ("email", "write to jane.doe+news@mail.example.org today"),
    ("email", "我的邮箱是zhang＠example.com。"),
    ("phone", "call +44 20 7946 0958, please"),
    ("phone", "ring (415) 555-0132"),
    ("phone", "Tel. 030/1234567"),
    ("phone", "手机 13812345678"),
    ("phone", "0049 30 1234567"),
    ("ip", "from 203.0.113.77:8080"),
    ("ip", "over 2001:db8::8a2e:370:7334"),
    ("card", "card 4111 1111 1111 1111, thanks"),
    ("card", "5500-0000-0000-0004"),
    ("iban", "to DE89 3704 0044 0532 0130 00"),
    ("id", "SSN 123-45-6789"),
    ("key", "OPENAI_API_KEY=sk-abcdEFGHijklMNOP1234"),
    ("key", "use ghp_abcdefghijklmnopqrstuvwxyz0123"),
    ("key", "AKIAIOSFODNN7EXAMPLE"),
    ("key", "Authorization: Bearer abc123DEF456ghi"),
    ("key", 'password = "hunter2hunter2"'),
    ("key", "postgresql://me:s3cret@db.example.org/x"),
    ("key", "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----"),
    ("key", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2ln"),
]


@pytest.mark.parametrize(("kind", "text"), PERSONAL, ids=[f"{k} {t[:30]}" for k, t in PERSONAL])
def test_what_belongs_to_a_person_is_taken_out(kind: str, text: str) -> None:
    found: Counter[str] = Counter()
    redacted = redactor().redact(text, found)
    assert MARK in redacted and found == {kind: 1}
    assert redactor().redact(redacted, Counter()) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "On 2023-11-14 at 12:30:45 we met; on 14.11.2023 again.",
        "pi is 3.14159265358979, and 1234567890123456 is not a card",
        "version 1.2.3.4.5 and python 3.11.9, std::vector<int>::size",
        "127.0.0.1 is this machine; the ratio is 16:9",
        "Chapter 10, pages 100-200, ISBN 978-3-16-148410-0.",
        "def f(a, b): return a @ b",
        "The password is long enough.",
        "between 1000 and 2000 people, 10 000 000 in all",
        "https://example.org/a/b?c=1",
    ],
)
def test_what_belongs_to_nobody_stays(text: str) -> None:
    found: Counter[str] = Counter()
    assert redactor().redact(text, found) == text and not found


def test_texts_within_rows_are_redacted_and_other_values_stay() -> None:
    row = {"turn": 1, "conversation": [{"role": "user", "content": "I am a@b.org"}], "x": None}
    found: Counter[str] = Counter()
    assert redactor().redact_value(row, found) == {
        "turn": 1,
        "conversation": [{"role": "user", "content": f"I am {MARK}"}],
        "x": None,
    }
    assert found == {"email": 1}


@pytest.mark.parametrize("piece", ["1 ", "a.", "1-", ":", "0", "+1 ", "A1 ", "eyJ", "(0", "@a."])
def test_no_text_takes_long(piece: str) -> None:
    """Work grows with the length: what a regular expression that backtracks would never end."""
    redactor().redact(piece * 20_000, Counter())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[[pattern]]\nkind = 'x'\nsource = ''\nregex = '('", "pattern 1"),
        ("[[pattern]]\nkind = 'x'", "source"),
        ("[[", "no TOML"),
    ],
)
def test_a_file_of_patterns_that_is_none_is_told(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(content)
    with pytest.raises(DataError, match=words):
        read_redactor(path)
    with pytest.raises(DataError, match=r"none\.toml"):
        read_redactor(tmp_path / "none.toml")
