"""The words of the page."""

from pathlib import Path

import pytest

from fastchat.errors import DataError
from fastchat.web.texts import TEXTS_PATH, load_texts


def test_the_shipped_texts_are_complete() -> None:
    assert load_texts().chat.suggestions


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('stopped = "Stopped."', "", "stopped"),
        ('stopped = "Stopped."', 'stopped = "Stopped."\nextra = "x"', "extra"),
        ("[empty]", "[void]", "void"),
    ],
)
def test_a_missing_or_unknown_entry_is_named(
    tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    changed = tmp_path / "texts.toml"
    text = TEXTS_PATH.read_text("utf-8")
    assert old in text
    changed.write_text(text.replace(old, new), "utf-8")
    with pytest.raises(DataError, match=complaint):
        load_texts(changed)
