"""The elements of a JSON array, one after another: memory holds one of them, not the array."""

import re
from collections.abc import Iterator
from typing import IO

BLOCK = 1 << 20
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{},]', re.DOTALL)


def array_elements(file: IO[bytes]) -> Iterator[bytes]:
    """The bytes of each element of an array whose `[` has been read; what is torn comes last."""
    held = file.read(BLOCK)
    depth = at = start = 0
    while True:
        for token in _TOKEN.finditer(held, at):
            mark = token[0]
            if mark == b'"':  # a text whose end is not read yet
                at = token.start()
                break
            at = token.end()
            if mark in b"{[":
                depth += 1
            elif mark in b",]}" and depth == 0:
                yield held[start : token.start()]
                start = at
                if mark != b",":
                    return
            elif mark in b"]}":
                depth -= 1
        else:
            at = len(held)
        held, at, start = held[start:], at - start, 0
        more = file.read(max(BLOCK, len(held)))  # so that a long text is looked at few times
        if not more:
            break
        held += more
    if held.strip():
        yield held
