"""One set of records through every container, and files that are not what they say."""

import gzip
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from fastchat.data import files
from fastchat.data.chunks import cut_array
from fastchat.data.files import Broken, open_writer, read_chunks, read_values
from fastchat.data.output import Layout, lay_out
from fastchat.errors import DataError, UsageError

Talk = Callable[..., dict[str, Any]]

CONTAINERS = [
    *("a.json", "a.jsonl", "a.parquet", "a.json.gz", "a.jsonl.gz", "a.json.zst", "a.jsonl.zst"),
]


def values(*paths: Path | str) -> list[Any]:
    return [found.value for found in read_values([str(path) for path in paths])]


def write(path: Path, given: list[Any]) -> None:
    with open_writer(path) as writer:
        for value in given:
            writer.write(value)


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_gives_back_the_same_records(tmp_path: Path, talk: Talk, name: str) -> None:
    given = [
        talk(str(i), 'Ünï \n\t"q" \\', "答え 🙂", model=None if i % 2 else "x") for i in range(300)
    ]
    for record in given:
        if record["model"] is None:
            del record["model"]
    write(tmp_path / name, given)
    assert values(tmp_path / name) == given
    assert [x.name for x in tmp_path.iterdir()] == [name]


def test_json_has_the_published_layout(tmp_path: Path, talk: Talk) -> None:
    odd = {"big": 2**70, "round": 1e16, "list": [], "nest": {"a": [1, -0.5, None, True]}}
    given = [talk("a", "x\ny", "\x7f\x01 é"), talk("b", "1", "2", extra=odd)]
    write(tmp_path / "a.json", given)
    assert (tmp_path / "a.json").read_text("utf-8") == json.dumps(
        given, indent=2, ensure_ascii=False
    )
    assert values(tmp_path / "a.json") == given
    write(tmp_path / "empty.json", [])
    assert (tmp_path / "empty.json").read_text() == "[]"


@pytest.mark.parametrize("odd", [{}, {"big": 2**70}, {"half": 0.5}])
@pytest.mark.parametrize("layout", ["json", "jsonl"])
def test_records_laid_out_together_are_those_laid_out_alone(
    layout: Layout, odd: dict[str, Any], talk: Talk
) -> None:
    given = [talk("a", "x\ny", ",\n  {"), talk("b", "[\n", "\n]", extra=odd), {"c": [], "d": {}}]
    between = b",\n  " if layout == "json" else b""
    assert lay_out(given, layout) == between.join(lay_out([one], layout) for one in given)
    assert lay_out([], layout) == lay_out([], layout, is_text=True) == b""
    if not odd:
        assert lay_out(given, layout, is_text=True) == lay_out(given, layout)
    text = b"[\n  " + lay_out(given, "json") + b"\n]"
    assert text.decode() == json.dumps(given, indent=2, ensure_ascii=False)


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 7, 64, 1 << 19])
@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"separators": (",", ":")}])
def test_an_array_is_cut_between_values_wherever_blocks_end(
    block_bytes: int, layout: dict[str, Any]
) -> None:
    choose = random.Random(5)
    texts = ['a"b', "\\", '\\"', "},{", "[]", ",", "é\n", '"\\\\"', ""]
    given = [
        {"k": [choose.choice(texts), {"n": choose.choice([1, None, -2.5, True])}], "t": "\\" * i}
        for i in range(40)
    ]
    given += [[], {}, "x,]", 5, None, [[["]"]]]]  # type: ignore[list-item]
    data = json.dumps(given, **layout).encode()[1:] + b" \n"
    blocks = [data[i : i + block_bytes] for i in range(0, len(data), block_bytes)]
    chunks = list(cut_array(blocks, "a", position=lambda: 0))
    decoded = list(cut_array(blocks, "a", position=lambda: 0, decodes=True))
    assert [(c.first, c.n_values, c.data) for c in decoded] == [
        (c.first, c.n_values, c.data) for c in chunks
    ]
    assert [found.value for chunk in decoded for found in chunk.values()] == given
    assert [found.value for chunk in chunks for found in chunk.values()] == given
    assert sum(chunk.n_values for chunk in chunks) == len(given)
    first = 0
    for chunk in chunks:
        assert chunk.first == first
        first += chunk.n_values


@pytest.mark.parametrize("block_bytes", [7, 64, 1 << 19])
@pytest.mark.parametrize("indent", ["\n", "\n  "])
def test_what_is_deeper_in_an_element_is_not_taken_for_its_end(
    block_bytes: int, indent: str
) -> None:
    seam = "}," + indent + "{"
    element = f'{{"a": [{{"b": 1{seam}"c": "x"{seam}"d": {{}}}}]}}'
    data = f"[{indent}{element},{indent}{element},{indent}{element}\n]".encode()
    blocks = [data[1:][i : i + block_bytes] for i in range(0, len(data), block_bytes)]
    cut = [
        [(c.first, c.n_values, c.data, list(c.values())) for c in chunks]
        for chunks in (
            cut_array(blocks, "a", position=lambda: 0),
            cut_array(blocks, "a", position=lambda: 0, decodes=True),
        )
    ]
    assert cut[0] == cut[1]
    assert [found.value for chunk in cut[1] for found in chunk[3]] == json.loads(data)


def test_chunks_are_small_however_long_the_file_is(tmp_path: Path, talk: Talk) -> None:
    for name in ("a.json", "a.jsonl"):
        write(tmp_path / name, [talk(str(i), "x" * 1000, "y" * 1000) for i in range(2000)])
        chunks = list(read_chunks([str(tmp_path / name)]))
        assert len(chunks) > 5
        assert max(len(chunk.data) for chunk in chunks) < 2 * files.BLOCK_BYTES


def test_several_paths_and_patterns_are_read_in_order(tmp_path: Path, talk: Talk) -> None:
    for name in ("b", "a", "c"):
        write(tmp_path / f"part_{name}.jsonl", [talk(name, "x", "y")])
    found = values(tmp_path / "part_c.jsonl", tmp_path / "part_[ab].jsonl")
    assert [x["id"] for x in found] == ["c", "a", "b"]
    with pytest.raises(UsageError, match=r"no file fits the pattern '.*none\*'"):
        values(tmp_path / "none*")


@pytest.mark.slow
def test_standard_input_is_read_in_every_container(tmp_path: Path, talk: Talk) -> None:
    given = [talk(str(i), "x", "y") for i in range(3)]
    code = "from fastchat.data.files import read_values; print([x.value for x in read_values('-')])"
    for name in CONTAINERS:
        write(tmp_path / name, given)
        with open(tmp_path / name, "rb") as file:
            done = subprocess.run(
                [sys.executable, "-c", code],
                stdin=file,
                capture_output=True,
                text=True,
                timeout=600,
            )
        assert done.stdout.strip() == str(given), done.stderr


def test_a_bad_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n{"a":\n[' + b"[" * 100_000 + b'\n{"a": 2}')
    found = list(read_values([str(path)]))
    broken = Broken(reason="not valid JSON")
    assert [x.value for x in found] == [{"a": 1}, broken, broken, {"a": 2}]
    assert [x.where for x in found] == ["a.jsonl:1", "a.jsonl:3", "a.jsonl:4", "a.jsonl:5"]


def test_letters_that_cannot_be_written_are_replaced_and_told(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"a": "\\ud83d x"}, {"a": "fine"}, {"a": "\xff"}]')
    found = list(read_values([str(path)]))
    assert [(x.value["a"], x.repaired) for x in found] == [
        ("\ufffd x", True),
        ("fine", False),
        ("\ufffd", True),
    ]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", b'[{"a": 1}, {"a": ', r"a\.json is not valid JSON: the array does not end"),
        ("a.json", b"[1] [2]", r"a\.json is not valid JSON: something stands after the array"),
        ("a.json", b"[1, 2 3]", r"a\.json is not valid JSON: .* in its values 0 to 1"),
        ("a.json", b"\x89PNG\r\n", r"a\.json is neither a JSON array nor JSON Lines nor Parquet"),
        ("a.json", '[{"a": 1}]'.encode("utf-16"), r"a\.json is UTF-16 text; save it as UTF-8"),
        ("a.json.gz", b"[1]", r"a\.json\.gz is not a gzip file, as its name says"),
        ("a.zst", b"[1]", r"a\.zst is not a Zstandard file, as its name says"),
        ("a.parquet", b"[1]", r"a\.parquet is not a Parquet file, as its name says"),
        ("a.parquet", b"PAR1xxxxPAR1", r"a\.parquet is a damaged Parquet file"),
        (
            "a.json.gz",
            gzip.compress(b"[%b]" % bytes(range(48, 58)) * 99, mtime=0)[:-9],
            r"a\.json\.gz is a damaged gzip",
        ),
    ],
)
def test_a_file_that_is_not_what_it_says_is_one_clear_error(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        values(tmp_path / name)


def test_damaged_zstandard_and_missing_files_are_named(tmp_path: Path) -> None:
    whole = zstandard.ZstdCompressor().compress(os.urandom(10_000))
    for data in (
        whole[:4] + b"\xff" * 100,
        zstandard.ZstdCompressor().compress(b'{"a": 1}\n')[:-1],
    ):
        (tmp_path / "a.zst").write_bytes(data)
        with pytest.raises(DataError, match=r"a\.zst is a damaged Zstandard file"):
            values(tmp_path / "a.zst")
    with pytest.raises(DataError, match=r"cannot read .*none\.json: No such file"):
        values(tmp_path / "none.json")


def test_an_error_while_writing_leaves_what_stood_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")
    with pytest.raises(KeyError), open_writer(path) as writer:
        writer.write({"a": 1})
        raise KeyError
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_a_full_disk_leaves_no_file_under_the_final_name(tmp_path: Path) -> None:
    code = """
import resource, sys
from fastchat.data.files import open_writer
from fastchat.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with open_writer(sys.argv[1]) as writer:
        for i in range(100_000):
            writer.write({"id": str(i), "conversations": [], "text": str(i * 7) * 9})
except DataError as error:
    print(error.message)
"""
    for name in ("a.json", "a.jsonl.gz", "a.parquet"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / name)],
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert "cannot write" in done.stdout and "Nothing stands under that name" in done.stdout
        assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_named_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no folder .*none"):
        open_writer(tmp_path / "none" / "a.json")
    with pytest.raises(UsageError, match="is a folder"):
        open_writer(tmp_path)
    with pytest.raises(UsageError, match="Parquet compresses by itself"):
        open_writer(tmp_path / "a.parquet.gz")


def test_fields_of_several_kinds_cannot_be_parquet_and_the_error_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match=r"a\.parquet cannot be Parquet: .* Write \.jsonl"),
        open_writer(tmp_path / "a.parquet") as writer,
    ):
        writer.write({"a": "text"})
        writer.write({"a": {"b": 1}})
    assert list(tmp_path.iterdir()) == []


def test_a_stream_that_cannot_be_searched_may_hold_parquet(tmp_path: Path, talk: Talk) -> None:
    given = [talk("a", "x", "y")]
    write(tmp_path / "a.parquet", given)
    (tmp_path / "b").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    assert values(tmp_path / "b") == given


def test_a_reader_that_goes_away_ends_the_command_with_one_line(tmp_path: Path, talk: Talk) -> None:
    write(tmp_path / "a.json", [talk(str(i), "x" * 1000, "y" * 1000) for i in range(2000)])
    command = f"{sys.executable} -m fastchat.data.pretty_json --in a.json --out - | head -c 10"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert len(done.stdout) == 10 and done.stderr.count("\n") == 1
    assert "the reader of the output has gone" in done.stderr


def test_a_device_without_room_is_named(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(DataError, match="cannot write the output: No space left"):
        write(Path("/dev/full"), [{"a": "x" * 1000}] * 1000)
