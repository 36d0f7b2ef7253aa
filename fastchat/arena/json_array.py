"""The elements of a JSON array, one after another: memory holds one of them, not the array."""

import re
from collections.abc import Iterator
from typing import IO

BLOCK = 1 << 20

# Whole texts and what is neither bracket nor quote, up to the next bracket; between elements, up to
# the next comma too. A quote at the end begins a text that is not read to its end yet. Nothing is
# given back, so that no input takes long.
_UP_TO = rb'(?:[^"\[\]{}%b]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+(["\[\]{}%b])'
_WITHIN = re.compile(_UP_TO % (b"", b""), re.DOTALL)
_BETWEEN = re.compile(_UP_TO % (b",", b","), re.DOTALL)


def array_elements(file: IO[bytes]) -> Iterator[bytes]:
    """The bytes of each element of an array whose `[` has been read; what is torn comes last."""
    held = file.read(BLOCK)
    depth = at = start = 0
    while True:
        found = (_WITHIN if depth else _BETWEEN).match(held, at)
        mark = found[1] if found else b'"'
        if found is None or mark == b'"':
            held, at, start = held[start:], at - start, 0
            more = file.read(max(BLOCK, len(held)))  # so that a long text is looked at few times
            if not more:
                break
            held += more
            continue
        at = found.end()
        if mark in b"{[":
            depth += 1
        elif depth:
            depth -= 1
        else:  # a comma, or the array's end
            yield held[start : at - 1]
            start = at
            if mark != b",":
                return
    if held.strip():
        yield held
