import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from fastchat.engine.stopping import Stopping


def cut(text: str, stop: list[str]) -> str:
    """What should remain, found the plain way in the whole text."""
    found = [i for s in stop if (i := text.find(s)) >= 0]
    return text[: min(found)] if found else text


def run(pieces: list[str], stopping: Stopping) -> str:
    return "".join(stopping.feed(piece) for piece in pieces) + stopping.flush()


def test_text_passes_unchanged_without_stops() -> None:
    stopping = Stopping()
    assert run(["a", "", "bc"], stopping) == "abc"
    assert not stopping.ended


def test_a_stop_string_ends_the_text_and_is_not_part_of_it() -> None:
    stopping = Stopping(["###"])
    assert stopping.feed("hello #") == "hello "
    assert stopping.held == "#"
    assert stopping.feed("##") == ""
    assert stopping.ended
    assert stopping.feed("more") == "" and stopping.flush() == ""


def test_the_first_of_two_occurrences_cuts() -> None:
    assert run(["a STOP b STOP c"], Stopping(["STOP"])) == "a "


def test_a_tail_of_any_length_is_held_and_released_when_harmless() -> None:
    stopping = Stopping(["abcd"])
    for n in range(1, 4):
        assert stopping.feed("abcd"[:n]) == ""
        assert stopping.held == "abcd"[:n]
        assert stopping.feed("!") == "abcd"[:n] + "!"


def test_a_text_that_repeats_its_own_beginning_is_matched() -> None:
    assert run(list("aaab"), Stopping(["aab"])) == "a"


def test_every_stop_of_a_list_is_looked_for() -> None:
    # The first stop matches in part at the end; the second one matches whole.
    assert run(["one END xy"], Stopping(["xyz", "END"])) == "one "


def test_an_earlier_beginning_is_waited_for() -> None:
    stopping = Stopping(["abcd", "bc"])
    assert stopping.feed("abc") == "" and not stopping.ended
    assert stopping.feed("x") == "a" and stopping.ended
    stopping = Stopping(["abcd", "bc"])
    assert stopping.feed("abc") + stopping.flush() == "a" and stopping.ended


def test_of_two_stops_with_one_beginning_the_shorter_ends_the_text() -> None:
    stopping = Stopping(["<|end", "<|end|>"])
    assert stopping.feed("x<|end") == "x"
    assert stopping.ended


def test_a_stop_id_ends_the_text_and_what_was_held_is_released() -> None:
    stopping = Stopping(["###"], [7])
    assert not stopping.ends_at(3)
    assert stopping.feed("a##") == "a"
    assert stopping.ends_at(7)
    assert stopping.flush() == "##"


def test_empty_stop_strings_stop_nothing() -> None:
    assert run(["abc"], Stopping([""])) == "abc"


SMALL = st.text(alphabet="ab。#", max_size=30)
STOPS = st.lists(st.text(alphabet="ab。#", min_size=1, max_size=5), max_size=4)


@settings(max_examples=500, deadline=None)
@given(SMALL, STOPS, st.lists(st.integers(0, 30), max_size=8))
def test_the_result_does_not_depend_on_the_cuts(
    text: str, stop: list[str], cuts: list[int]
) -> None:
    points = [0, *sorted(min(c, len(text)) for c in cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(points)]
    stopping = Stopping(stop)
    assert run(pieces, stopping) == cut(text, stop)
    assert stopping.ended == any(s in text for s in stop)


@settings(max_examples=300, deadline=None)
@given(SMALL, STOPS)
def test_nothing_is_sent_that_a_later_piece_could_take_back(text: str, stop: list[str]) -> None:
    stopping = Stopping(stop)
    sent = ""
    for i, character in enumerate(text):
        sent += stopping.feed(character)
        assert cut(text, stop).startswith(sent)
        if not stopping.ended:
            held = text[: i + 1].removeprefix(sent)
            assert held == stopping.held
            assert not held or any(s.startswith(held[0]) for s in stop)


def test_the_string_that_ended_the_text_is_told() -> None:
    stopping = Stopping(["end", "bend"])
    assert (stopping.feed("a b"), stopping.matched) == ("a ", None)
    assert (stopping.feed("ends"), stopping.matched) == ("", "bend")
    held = Stopping(["abcd", "bc"])
    assert (held.feed("xabc"), held.matched) == ("x", None)
    assert (held.flush(), held.matched) == ("a", "bc")
