"""Lists whose items are all called 1 are found, and counted."""

import pytest

from fastchat.data.numbered_lists import is_misnumbered, renumbered

WRONG = [
    "Steps:\n1. alpha\n1. beta\n1. gamma",
    # A digit 2 in the text is no number of the list.
    "Steps:\n1. take 2 eggs\n1. stir",
    "Steps:\n1. a\n\nthen\n\n1. b",
    "Steps:\n1. a\n   - x\n1. b",
    "```\ncode\n```\n1. a\n1. b",
]
RIGHT = [
    "",
    "no list",
    "Steps:\n1. a\n2. b",
    "Steps:\n1. a\n2. b\n\nMore:\n1. c\n2. d",
    "Steps:\n1. a\n  2. b\n1. c",
    "Say:\n```\n1. a\n1. b\n```\n",
    "Say:\n```python\n1. a\n1. b",
    "Say:\n~~~\n1. a\n1. b\n~~~",
    "Outer:\n1. a\n```\n1. code\n```",
    "Points:\n10. a\n11. b",
    "Version\n1.0 and\n1.1",
]


@pytest.mark.parametrize("text", WRONG)
def test_a_list_that_counts_one_and_one_is_wrong(text: str) -> None:
    assert is_misnumbered(text)
    assert not is_misnumbered(renumbered(text))


@pytest.mark.parametrize("text", RIGHT)
def test_other_texts_are_right_and_stay_as_they_are(text: str) -> None:
    assert not is_misnumbered(text)
    assert renumbered(text) == text


def test_the_items_are_counted() -> None:
    assert renumbered("Do:\n1. a\n1. b\n1. c") == "Do:\n1. a\n2. b\n3. c"
    many = "Do:" + "\n1. x" * 11
    assert renumbered(many).endswith("\n10. x\n11. x")
    two = "A:\n1. a\n1. b\n2. c\nB:\n1. d\n1. e"
    assert renumbered(two) == "A:\n1. a\n2. b\n2. c\nB:\n1. d\n2. e"


def test_a_heading_begins_a_new_list() -> None:
    text = "\n## One\n1. a\n1. b\n## Two\n1. c\n1. d"
    assert renumbered(text) == "\n## One\n1. a\n2. b\n## Two\n1. c\n2. d"
