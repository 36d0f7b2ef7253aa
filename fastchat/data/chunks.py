"""Cuts a stream of JSON into chunks of whole values, and decodes a chunk where it is used.

The process that reads a file only cuts; the processes that work on its records decode. A chunk
is about as long as a block of the file, so memory does not depend on the number of values, and
its bounds depend on the file alone: not on the number of processes, nor on where a run began.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, NamedTuple

import orjson

from fastchat.errors import DataError

_EXACT_INTEGER = 2.0**53
_MEMO_LIMIT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """What stands for a value that could not be decoded."""

    reason: str


class Value(NamedTuple):
    """One value of a file."""

    where: str
    """`file[index]` in an array and in Parquet, `file:line` in JSON Lines."""
    value: Any
    """The decoded value, or `Broken`."""
    repaired: bool
    """Whether letters that cannot be written as UTF-8 were replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some whole values of one file, not decoded yet."""

    name: str
    """The file, as messages show it."""
    kind: Literal["array", "lines", "rows"]
    first: int
    """Index of the first value in its file; in JSON Lines the number of the first line."""
    n_values: int
    data: bytes | list[dict[str, Any]]
    position: int
    """How far the file has been read, in bytes of the file as stored."""
    decoded: "Decoded | None" = None
    """The values of an array's chunk, where cutting it has decoded them."""

    def values(self) -> Iterator[Value]:
        """Decodes the values.

        Raises:
            DataError: a part of an array is not valid JSON.
        """
        if self.kind == "rows":
            assert isinstance(self.data, list)
            for i, row in enumerate(self.data, start=self.first):
                yield Value(f"{self.name}[{i}]", _without_nulls(row), False)
        elif self.kind == "array":
            assert isinstance(self.data, bytes)
            yield from self._elements(self.data)
        else:
            assert isinstance(self.data, bytes)
            yield from self._lines(self.data)

    def _elements(self, data: bytes) -> Iterator[Value]:
        try:
            values = self.decoded or decode(b"[%b]" % data)
        except ValueError as error:
            last = self.first + self.n_values - 1
            raise DataError(
                f"{self.name} is not valid JSON: {_reason(error)}, in its values {self.first} to "
                f"{last}; correct the file or write it anew."
            ) from None
        for i, value in enumerate(values.value, start=self.first):
            yield Value(f"{self.name}[{i}]", value, values.repaired and is_repaired(value))

    def _lines(self, data: bytes) -> Iterator[Value]:
        for number, line in enumerate(data.split(b"\n"), start=self.first):
            if not line or line.isspace():
                continue
            where = f"{self.name}:{number}"
            try:
                found = decode(line)
            except ValueError:
                yield Value(where, Broken(reason="not valid JSON"), False)
            else:
                yield Value(where, found.value, found.repaired)


class Decoded(NamedTuple):
    """A decoded text of JSON."""

    value: Any
    repaired: bool
    """Whether letters had to be replaced."""


def decode(data: bytes) -> Decoded:
    """The value of JSON text, exact in every number, and writable as UTF-8 in every text.

    orjson refuses half a surrogate pair and bytes that are not UTF-8, and rounds integers of
    more than 64 bits; Python's own decoder, slower, reads those.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return _decode_slowly(data)
    return _decode_slowly(data) if _has_long_number(value) else Decoded(value, False)


def is_plain(value: Any) -> bool:
    """Whether orjson writes the value in the same bytes as Python's own encoder."""
    return all(
        type(x) in (bool, NoneType) or (type(x) is int and -(2**63) <= x < 2**63)
        for x in _leaves(value)
    )


def is_repaired(value: Any) -> bool:
    """Whether a text in the value holds the letter that stands for lost ones."""
    if isinstance(value, str):
        return "\ufffd" in value
    if isinstance(value, dict):
        return any(is_repaired(x) for x in value.values())
    return isinstance(value, list) and any(is_repaired(x) for x in value)


def cut_lines(
    blocks: Iterable[bytes], name: str, *, position: Callable[[], int]
) -> Iterator[Chunk]:
    """Chunks of whole lines."""
    held: list[bytes] = []
    first = 1
    for block in blocks:
        cut = block.rfind(b"\n") + 1
        if cut:
            data = b"".join([*held, block[:cut]])
            yield _lines_chunk(data, name, first=first, position=position())
            first += data.count(b"\n")
            held = []
        held.append(block[cut:])
    if rest := b"".join(held):
        yield _lines_chunk(rest, name, first=first, position=position())


def _lines_chunk(data: bytes, name: str, *, first: int, position: int) -> Chunk:
    n_values = sum(1 for line in data.split(b"\n") if line and not line.isspace())
    return Chunk(
        name=name, kind="lines", first=first, n_values=n_values, data=data, position=position
    )


def cut_array(
    blocks: Iterable[bytes],
    name: str,
    *,
    position: Callable[[], int],
    open_ended: bool = False,
    decodes: bool = False,
) -> Iterator[Chunk]:
    """Chunks of whole elements of the array whose `[` has been taken away.

    open_ended: whether the array may end without its `]`, between two elements.
    decodes: whether the chunks may be decoded here, as they may where no other process works on
        them. That finds the same bounds sooner: what decodes was cut between two elements.

    Raises:
        DataError: the array does not end, or something stands after it.
    """
    scan = _ArrayScan()
    pending: list[bytes] = []
    n_pending = first = 0
    held = b""
    seam: bytes | None = None
    for i, given in enumerate(blocks):
        block = held + given
        held = b""
        if decodes and i == 0:
            seam = _seam(block)
        if scan.ended:
            _refuse_rest(block, name)
            continue
        if block.endswith(b"\\") and (len(block) - len(block.rstrip(b"\\"))) % 2:
            block, held = block[:-1], b"\\"
        decoded = None
        if seam and (cut := scan.guess(block, seam)) >= 0:
            decoded = _tried(b"".join([*pending, block[:cut]]))
            found = _Found(cut, 0)
            if decoded is None:
                scan.take_back()
                seam = None
        if decoded is None:
            found = scan.block(block)
        n_pending += found.n_commas
        if found.cut >= 0:
            pending.append(block[: found.cut])
            data = b"".join(pending)
            if decoded:
                n_values = len(decoded.value)
            else:
                n_values = n_pending + (1 if scan.ended and not data.isspace() and data else 0)
            if n_values:
                yield Chunk(
                    name=name,
                    kind="array",
                    first=first,
                    n_values=n_values,
                    data=data,
                    position=position(),
                    decoded=decoded,
                )
            first += n_values
            pending, n_pending = [block[found.cut + 1 :]], 0
        else:
            pending.append(block)
        if scan.ended:
            _refuse_rest(b"".join(pending), name)
            pending = []
    if scan.ended:
        return
    rest = b"".join(pending)
    if not open_ended:
        raise DataError(
            f"{name} is not valid JSON: the array does not end; the file was cut off after its "
            f"value {max(0, first - 1)}. Fetch or write it again."
        )
    if rest.strip():
        n_values = n_pending + 1
        yield Chunk(
            name=name, kind="array", first=first, n_values=n_values, data=rest, position=position()
        )


def _seam(block: bytes) -> bytes | None:
    """What stands between two elements of an array that begins so, if each begins a line.

    No text holds a line break as such, but the same letters may stand deeper in an element.
    """
    blanks = block[: len(block) - len(block.lstrip())]
    is_laid_out = b"\n" in blanks and block[len(blanks) :].startswith(b"{")
    return b"},%b{" % blanks if is_laid_out else None


def _tried(elements: bytes) -> Decoded | None:
    """The elements, unless they are no whole ones."""
    try:
        return decode(b"[%b]" % elements)
    except ValueError:
        return None


class _Found(NamedTuple):
    cut: int
    """Offset in the block of its last comma between elements, or of the array's `]`; -1: none."""
    n_commas: int


class _ArrayScan:
    """Follows strings and brackets through an array, block by block.

    What stands between two strings repeats itself all through a file (`: `, `},\\n      {`), so
    what it does to the depth is looked up.
    """

    def __init__(self) -> None:
        self.depth = 1
        self.in_string = False
        self.ended = False
        self._before = (1, False)
        self._memo: dict[tuple[int, bytes], tuple[int, int, int]] = {}

    def guess(self, block: bytes, seam: bytes) -> int:
        """Takes up a block from its last seam on, as if that stood between two elements.

        Returns:
            As the `cut` of `block`; -1 where there is no seam, and nothing was taken up.
        """
        at = block.rfind(seam)
        if at < 0:
            return -1
        self._before = (self.depth, self.in_string)
        self.depth, self.in_string = 1, False
        comma = at + 1
        found = self.block(block[comma + 1 :])
        return comma if found.cut < 0 else comma + 1 + found.cut

    def take_back(self) -> None:
        """Goes back to where the last guess began."""
        self.depth, self.in_string = self._before
        self.ended = False

    def block(self, block: bytes) -> _Found:
        """Takes up a block, which must not end within an escape."""
        # Same length, so that offsets hold; a run of backslashes pairs up from its left.
        plain = block.replace(b"\\\\", b"  ").replace(b'\\"', b"  ")
        parts = plain.split(b'"')
        outside = 1 if self.in_string else 0
        memo, depth = self._memo, self.depth
        n_commas, cut_part, cut_at = 0, -1, -1
        for i in range(outside, len(parts), 2):
            key = (depth, parts[i])
            effect = memo.get(key)
            if effect is None:
                effect = _effect(depth, parts[i])
                if len(memo) < _MEMO_LIMIT:
                    memo[key] = effect
            depth = effect[0]
            if effect[2] >= 0:
                n_commas += effect[1]
                cut_part, cut_at = i, effect[2]
                if depth == 0:
                    self.ended = True
                    break
        self.depth = depth
        if not self.ended:
            self.in_string ^= len(parts) % 2 == 0
        if cut_part < 0:
            return _Found(-1, 0)
        offset = sum(map(len, parts[:cut_part])) + cut_part + cut_at
        return _Found(offset, n_commas)


def _effect(depth: int, part: bytes) -> tuple[int, int, int]:
    """Depth after `part`, commas between elements in it, offset of the last or of the end."""
    n_commas, cut = 0, -1
    for i, letter in enumerate(part):
        if letter in b"{[":
            depth += 1
        elif letter in b"}]":
            depth -= 1
            if depth == 0:
                return 0, n_commas, i
        elif letter == 44 and depth == 1:
            n_commas, cut = n_commas + 1, i
    return depth, n_commas, cut


def _refuse_rest(rest: bytes, name: str) -> None:
    if rest.strip():
        raise DataError(f"{name} is not valid JSON: something stands after the array; remove it.")


def _decode_slowly(data: bytes) -> Decoded:
    try:
        text, repaired = data.decode("utf-8"), False
    except UnicodeDecodeError:
        text, repaired = data.decode("utf-8", "replace"), True
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    try:
        # The encoder is quicker than a search through every text for half a surrogate pair.
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return Decoded(_whole_letters(value), True)
    return Decoded(value, repaired)


def _whole_letters(value: Any) -> Any:
    """The value with every half of a surrogate pair replaced."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_whole_letters(name): _whole_letters(x) for name, x in value.items()}
    return [_whole_letters(x) for x in value] if isinstance(value, list) else value


def _has_long_number(value: Any) -> bool:
    """Whether an integer may have been rounded."""
    return any(type(x) is float and abs(x) >= _EXACT_INTEGER for x in _leaves(value))


def _leaves(value: Any) -> list[Any]:
    """What a value holds besides texts, lists and objects.

    Nearly all of a record is text: passing over that quickly is half of copying a file.
    """
    leaves: list[Any] = []
    inner = [value]
    for one in inner:
        kind = type(one)
        if kind is dict:
            inner += [x for x in one.values() if type(x) is not str]
        elif kind is list:
            inner += [x for x in one if type(x) is not str]
        elif kind is not str:
            leaves.append(one)
    return leaves


def _without_nulls(row: Any) -> Any:
    """A row of Parquet, where a field that is absent cannot be told from null."""
    if isinstance(row, dict):
        return {name: _without_nulls(x) for name, x in row.items() if x is not None}
    return [_without_nulls(x) for x in row] if isinstance(row, list) else row


def _reason(error: ValueError) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)
