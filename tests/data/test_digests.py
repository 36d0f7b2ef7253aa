"""The compact set of texts."""

from fastchat.data.digests import DigestSet


def test_it_knows_what_was_added_and_nothing_else() -> None:
    seen = DigestSet()
    for i in range(20_000):
        assert (str(i), "x") not in seen
        seen.add((str(i), "x"))
        seen.add((str(i), "x"))
    assert len(seen) == 20_000
    assert all((str(i), "x") in seen for i in range(20_000))
    assert not any((str(i), "x") in seen for i in range(20_000, 40_000))


def test_texts_are_told_from_their_parts() -> None:
    seen = DigestSet()
    seen.add(("ab", "c"))
    assert ("a", "bc") not in seen and ("abc",) not in seen and ("ab", "c") in seen
