import random
import sqlite3
from typing import Any

import pytest

from fastchat.arena import scratch
from fastchat.arena.scratch import RowSpool, Scratch, digest
from fastchat.errors import DataError


def test_texts_are_told_apart_however_they_are_cut() -> None:
    assert len({digest("ab"), digest("a", "b"), digest("ab", ""), digest("", "ab")}) == 4
    assert len(digest("\ud800")) == 16


def test_counts_and_values_are_those_of_a_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "CACHE_KIB", 16)  # a few pages: the rest is on the disk
    drawn = random.Random(3)
    counts: dict[bytes, int] = {}
    with Scratch() as held:
        for _ in range(4000):
            key = digest(str(int(drawn.expovariate(0.003))))
            assert held.is_new(key) == (key not in counts)
            counts[key] = counts.get(key, 0) + 1
        assert len(held) == len(counts)
        assert all(held.count(key) == n for key, n in counts.items())
        most = sorted(counts.items(), key=lambda item: -item[1])[:5]  # stable: earlier ones first
        assert held.most(5, above=1) == most and held.most(5, above=10**6) == []
        assert sum(n * keys for n, keys in held.counts()) == 4000
        first = next(iter(counts))
        held.put(first, "told")
        assert held.get(first) == "told" and held.count(first) == counts[first]
        assert held.get(b"unknown") is None and held.count(b"unknown") == 0


def test_rows_come_back_by_their_numbers_and_in_order_of_a_number() -> None:
    rows: list[dict[str, Any]] = [{"t": t, "text": "é" * t} for t in (3, 1, 2, 1)]
    with RowSpool(rows[:2]) as spool:
        assert spool[1] == rows[1]
        for row in rows[2:]:
            spool.append(row)
        assert len(spool) == 4 and list(spool) == rows and spool[0] == rows[0]
        assert list(spool.numbers_in_order_of("t")) == [1, 3, 2, 0]
        assert [row["t"] for row in spool.in_order_of("t")] == [1, 1, 2, 3]


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def execute(self, *_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        def tell(self) -> int:
            return 0

        def write(self, _: bytes) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            pass

    held, spool = Scratch(), RowSpool()
    held._file.close()
    spool._file.close()
    monkeypatch.setattr(held, "_file", Full())
    monkeypatch.setattr(spool, "_file", Full())
    with pytest.raises(DataError, match="disk is full; free some space"):
        held.add(b"k")
    with pytest.raises(DataError, match="No space left on device; free some space"):
        spool.append({})
