import pytest

from fastchat.families.patterns import fits, longest, n_fixed


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("vicuna", "Vicuna-7B", "vicun"),
        ("oasst*pythia", "oasst-sft-4-pythia-12b", "pythia-oasst"),
        ("-2.[2-9]", "l2-70b-2.2.1", "l2-70b-2.1"),
        ("=gpt-4", "GPT-4", "gpt-4-turbo"),
        ("ReaLM", "ReaLM-7b", "realm-7b"),
        ("gpt-3.5", "gpt-3.5-turbo", "gpt-3x5-turbo"),
        ("=a|b", "a|b", "a"),
    ],
)
def test_what_a_pattern_fits(pattern: str, yes: str, no: str) -> None:
    assert fits(pattern, yes)
    assert not fits(pattern, no)


def test_wildcards_fix_nothing() -> None:
    assert [n_fixed(x) for x in ("oasst*pythia", "-2.[2-9]", "=gpt-4")] == [11, 3, 5]


def test_the_pattern_that_fixes_most_decides() -> None:
    items = {"chat": 1, "baichuan2*chat": 2}.items()
    assert [longest(items, x) for x in ("chat-7b", "baichuan2-7b-chat", "x")] == [1, 2, None]
