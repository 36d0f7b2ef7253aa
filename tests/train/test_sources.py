"""Data flags become examples: eager, lazy or streamed, mixed, split and kept."""

import gzip
import json
import pickle
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastchat.data.records import Rejected, read_records
from fastchat.errors import DataError, UsageError
from fastchat.families.registry import registry
from fastchat.train import token_store
from fastchat.train.account import Rules
from fastchat.train.arguments import parse
from fastchat.train.examples import Example, Labeller
from fastchat.train.lazy_examples import LazyExamples, RecordLines
from fastchat.train.sources import TrainingData, drop_cache, open_data
from fastchat.train.token_store import TokenStore, family, open_store, store_key


def write(path: Path, name: str, n: int, *, start: int = 0, long: int = 1) -> str:
    records = [
        {
            "id": f"{name}{i}",
            "conversations": [
                {"from": "human", "value": f"{name} asks {i}"},
                {"from": "gpt", "value": f"{name} says {i} " * (1 + i % long)},
            ],
        }
        for i in range(start, start + n)
    ]
    text = (
        "".join(json.dumps(record) + "\n" for record in records)
        if ".jsonl" in path.name
        else json.dumps(records, indent=2)
    )
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def tokenizer_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def opened(model: Path, out: Path, paths: Sequence[str], *flags: str) -> TrainingData:
    words = ["--data_path", *paths, "--output_dir", str(out), "--model_max_length", "200", *flags]
    arguments = parse(["--model_name_or_path", str(model), *words], prog="train")
    return open_data(arguments, tokenizer_of(model), template=registry().template("vicuna_v1.1"))


def texts(data: TrainingData, examples: Any, *, n: int | None = None) -> list[str]:
    """What the model is told in each example, without what all have in common."""
    rows = [examples[i] for i in range(len(examples) if n is None else n)]
    return [told(data, row) for row in rows]


def told(data: TrainingData, example: Example) -> str:
    text = data.labeller.backend.decode(example.input_ids.tolist(), skip_special_tokens=False)
    return text.partition("USER: ")[2].partition(" ASSISTANT")[0]


def test_containers_and_modes_give_the_same_examples(tiny_llama: Path, tmp_path: Path) -> None:
    paths = [write(tmp_path / name, "a", 9) for name in ("a.json", "a.jsonl", "a.json.gz")]
    found: list[list[list[int]]] = []
    for path in paths:
        for mode in ([], ["--lazy_preprocess", "True"]):
            data = opened(tiny_llama, tmp_path / "out", [path], *mode)
            assert isinstance(data.train.__getitem__(0), Example)  # pyright: ignore
            rows: Any = data.train
            found.append([rows[i].input_ids.tolist() for i in range(len(rows))])
    assert all(rows == found[0] for rows in found) and len(found[0]) == 9


def test_sources_are_mixed_in_proportion(tiny_llama: Path, tmp_path: Path) -> None:
    paths = [
        write(tmp_path / f"{name}.json", name, n) for name, n in (("a", 40), ("b", 30), ("c", 9))
    ]
    data = opened(tiny_llama, tmp_path / "out", paths, "--data_mix", "0.5,0.3,0.2")
    said = [text[0] for text in texts(data, data.train)]
    assert [said.count(name) for name in "abc"] == [24, 14, 9]
    plain = opened(tiny_llama, tmp_path / "out", paths)
    assert len(plain.train) == 79  # pyright: ignore[reportArgumentType]
    assert plain.account.n_records == 79
    with pytest.raises(UsageError, match="each of the 3 values"):
        opened(tiny_llama, tmp_path / "out", paths, "--data_mix", "0.5,0.5")


@pytest.mark.parametrize("mode", [[], ["--lazy_preprocess", "True"]])
def test_a_share_is_held_out_and_every_set_has_a_name(
    tiny_llama: Path, tmp_path: Path, mode: list[str]
) -> None:
    paths = [write(tmp_path / f"{name}.json", name, 20) for name in "ab"]
    evaluation = write(tmp_path / "fresh.json", "f", 3)
    flags = ["--eval_split", "0.1", "--eval_data_path", evaluation, *mode]
    data = opened(tiny_llama, tmp_path / "out", paths, *flags)
    assert isinstance(data.held_out, dict)
    sizes = {name: len(examples) for name, examples in data.held_out.items()}
    assert sizes == {"a": 2, "b": 2, "fresh": 3}
    off = {text for name in "ab" for text in texts(data, data.held_out[name])}
    kept = set(texts(data, data.train))
    assert len(kept) == 36 and len(off) == 4 and not kept & off
    with pytest.raises(UsageError, match=r"--eval_split 0\.001 of 20"):
        opened(tiny_llama, tmp_path / "out", paths, "--eval_split", "0.001", *mode)


def test_parts_of_one_conversation_stay_on_one_side(tiny_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "parts.jsonl"
    talk = [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]
    lines = [{"id": f"talk{i // 4}_{2 * (i % 4)}", "conversations": talk} for i in range(80)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    data = opened(tiny_llama, tmp_path / "out", [str(path)], "--eval_split", "0.1")
    held_out: Any = data.held_out
    rows: Any = data.train
    [stays] = rows.parts
    off, kept = (set((np.asarray(x.index_in) // 4).tolist()) for x in (held_out, stays))
    assert not off & kept and len(held_out) == 8
    assert family("talk1_0") == family("talk1_12") != family("talk2_0")


def labeller_of(folder: Path, *, max_length: int = 200) -> Labeller:
    render = registry().template("vicuna_v1.1").render
    return Labeller(tokenizer_of(folder), render, max_length=max_length)


def test_a_store_is_found_again_by_what_it_was_made_of(tiny_llama: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", "a", 5)
    maker = labeller_of(tiny_llama)

    def key(labeller: Labeller = maker, rules: Rules | None = None, template: str = "t") -> str:
        return store_key([path], labeller, rules=rules or Rules(), template=template)

    first = key()
    assert first == key(labeller_of(tiny_llama))
    others = {
        key(labeller_of(tiny_llama, max_length=100)),
        key(rules=Rules(loss_on="last_reply")),
        key(template="u"),
    }
    write(tmp_path / "a.json", "a", 6)
    assert len(others | {first, key()}) == 5


def test_a_store_is_read_not_made_when_it_is_there(tiny_llama: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", "a", 5)
    maker = labeller_of(tiny_llama)
    made = open_store(tmp_path / "s", read_records(path), maker, rules=Rules())

    def nothing() -> Any:
        raise AssertionError("read again")
        yield

    again = open_store(tmp_path / "s", nothing(), maker, rules=Rules())
    sent = pickle.loads(pickle.dumps(again))
    for store in (again, sent):
        assert store.account == made.account and len(store) == 5
        assert [store[i].labels.tolist() for i in range(5)] == [
            made[i].labels.tolist() for i in range(5)
        ]
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("moment", ["while the records are read", "at the last moment"])
def test_of_two_runs_that_make_one_store_the_first_puts_it_there(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = write(tmp_path / "a.json", "a", 5)
    maker = labeller_of(tiny_llama)
    others: list[TokenStore] = []

    def other_run() -> None:
        monkeypatch.undo()
        monkeypatch.setattr(token_store.os, "getpid", lambda: -1)
        others.append(open_store(tmp_path / "s", read_records(path), maker, rules=Rules()))

    def records() -> Any:
        if moment == "while the records are read":
            other_run()
        yield from read_records(path)

    def remove(folder: Path, *, ignore_errors: bool) -> None:
        if folder == tmp_path / "s":
            other_run()

    if moment == "at the last moment":
        monkeypatch.setattr(token_store.shutil, "rmtree", remove)
    mine = open_store(tmp_path / "s", records(), maker, rules=Rules())
    [theirs] = others
    assert mine.account == theirs.account and len(mine) == 5
    assert sorted(x.name for x in tmp_path.iterdir()) == ["a.json", "s"]


def test_a_stopped_tokenization_leaves_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    def broken() -> Any:
        yield Rejected(where="x", reason="x")
        raise DataError("the file ends too soon.")

    with pytest.raises(DataError, match="too soon"):
        open_store(tmp_path / "s", broken(), labeller_of(tiny_llama), rules=Rules())
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_many_processes_tokenize_as_one_does(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_store, "ALONE", 1)
    path = write(tmp_path / "a.jsonl", "a", 1100, long=3)
    stores = [
        open_store(
            tmp_path / str(n),
            read_records(path),
            labeller_of(tiny_llama),
            rules=Rules(),
            n_workers=n,
        )
        for n in (1, 2)
    ]
    for name in ("ids.bin", "learned.bin", "bounds.npy", "account.json"):
        assert (stores[0].folder / name).read_bytes() == (stores[1].folder / name).read_bytes()


def test_the_cache_is_removed_unless_it_was_asked_for(tiny_llama: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", "a", 5)
    data = opened(tiny_llama, tmp_path / "out", [path])
    assert list((tmp_path / "out" / "tokenized").iterdir())
    drop_cache(data.arguments)
    assert not (tmp_path / "out" / "tokenized").exists()
    data = opened(tiny_llama, tmp_path / "out", [path], "--data_cache", str(tmp_path / "kept"))
    drop_cache(data.arguments)
    [folder] = (tmp_path / "kept").iterdir()
    assert len(TokenStore(folder)) == 5


def test_lazy_examples_tokenize_nothing_but_what_is_asked_for(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastchat.train import lazy_examples

    monkeypatch.setattr(lazy_examples, "N_CHECKED", 3)
    monkeypatch.setattr(lazy_examples, "N_CACHED", 2)
    path = write(tmp_path / "a.jsonl", "a", 50)
    lazy = LazyExamples([path], labeller_of(tiny_llama), rules=Rules())
    assert (len(lazy), lazy.account.n_records) == (50, 3)
    for i in (7, 8, 9, 7):
        assert lazy[i].input_ids.size
    assert lazy.account.n_records == 6
    assert len(lazy._cache) == 2
    sent = pickle.loads(pickle.dumps(lazy))
    assert sent[20].input_ids.tolist() == lazy[20].input_ids.tolist()


def test_a_lazy_record_that_teaches_nothing_gives_its_place_away(
    tiny_llama: Path, tmp_path: Path
) -> None:
    path = Path(write(tmp_path / "a.jsonl", "a", 40))
    lines = path.read_text("utf-8").splitlines()
    lines[3] = '{"id": "x", "conversations": []}'
    lines[5] = "not JSON"
    path.write_text("\n\n".join(lines), "utf-8")
    lazy = LazyExamples([str(path)], labeller_of(tiny_llama), rules=Rules())
    assert len(lazy) == 40
    assert lazy[3].input_ids.tolist() == lazy[4].input_ids.tolist()
    assert lazy[5].input_ids.tolist() == lazy[6].input_ids.tolist()
    assert lazy.account.dropped == {"no reply": 1, "not valid JSON": 1}


def test_record_lines_read_every_container(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, "a", 3) for name in ("a.json", "a.jsonl", "a.jsonl.gz")]
    lines = RecordLines(paths)
    ids = [getattr(lines[i], "id", None) for i in range(len(lines))]
    assert ids == ["a0", "a1", "a2"] * 3
    (tmp_path / "empty.jsonl").write_text("", "utf-8")
    assert len(RecordLines([str(tmp_path / "empty.jsonl")])) == 0


def streamed(data: TrainingData, epoch: int = 0) -> list[str]:
    from fastchat.train.streaming import StreamedExamples

    assert isinstance(data.train, StreamedExamples)
    data.train.set_epoch(epoch)
    return [
        told(data, example)
        for item in data.train
        for example in (item if isinstance(item, tuple) else (item,))
    ]


def test_a_stream_is_shuffled_anew_in_every_epoch_and_the_same_each_time(
    tiny_llama: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.jsonl", "a", 30)
    flags = ["--streaming", "True", "--max_steps", "5", "--shuffle_buffer", "8"]
    data = opened(tiny_llama, tmp_path / "out", [path], *flags)
    first = streamed(data)
    assert sorted(first) == sorted(f"a asks {i}" for i in range(30))
    assert sorted(first[:8]) == sorted(f"a asks {i}" for i in range(8))
    assert streamed(data) == first != streamed(data, epoch=1)
    assert data.account.n_records == 30


def test_processes_share_a_stream_and_make_examples_of_their_own_records_only(
    tiny_llama: Path, tmp_path: Path
) -> None:
    from fastchat.train.streaming import Share, StreamedExamples

    paths = [write(tmp_path / f"{name}.jsonl", name, 15) for name in ("a", "b")]
    flags = ["--streaming", "True", "--max_steps", "5", "--data_mix", "0.5,0.5"]
    data = opened(tiny_llama, tmp_path / "out", paths, *flags)
    whole = sorted(streamed(data))
    assert isinstance(data.train, StreamedExamples)
    found: list[list[str]] = []
    for number in range(2):
        data.train.share = Share(number=number, of=2)
        found.append(streamed(data))
        assert data.account.n_records == len(found[-1]) == len(whole) // 2
        # Sources that take turns come to every process.
        assert {text[0] for text in found[-1]} == {"a", "b"}
    assert sorted(found[0] + found[1]) == whole


@pytest.mark.parametrize("of", [1, 2, 3, 5])
def test_every_record_is_in_one_share(of: int) -> None:
    from fastchat.train.streaming import WHOLE, Share

    shares = [Share(number=i, of=of) for i in range(of)]
    for place in range(40):
        assert sum(share.holds(place) for share in shares) == 1 and WHOLE.holds(place)
    parts = [share.part(i, 2) for share in shares for i in range(2)]
    assert [(part.number, part.of) for part in parts] == [(i, 2 * of) for i in range(2 * of)]


def test_a_stream_goes_on_with_its_next_pass_and_an_empty_share_is_told(
    tiny_llama: Path, tmp_path: Path
) -> None:
    from fastchat.train.streaming import EndlessRows, Share, StreamedExamples

    path = write(tmp_path / "a.jsonl", "a", 4)
    data = opened(tiny_llama, tmp_path / "out", [path], "--streaming", "True", "--max_steps", "5")
    rows = data.train
    assert isinstance(rows, StreamedExamples)
    endless = islice(EndlessRows(rows), 12)
    said = [told(data, row) for row in endless if not isinstance(row, tuple)]
    assert said == streamed(data, 0) + streamed(data, 1) + streamed(data, 2)
    assert data.account.n_records == 4
    rows.share = Share(number=4, of=9)
    with pytest.raises(DataError, match="process 5 of 9"):
        next(iter(EndlessRows(rows)))


def test_a_stream_is_mixed_and_packed(tiny_llama: Path, tmp_path: Path) -> None:
    from fastchat.train.streaming import StreamedExamples

    paths = [write(tmp_path / f"{name}.jsonl", name, n) for name, n in (("a", 60), ("b", 9))]
    flags = ["--streaming", "True", "--max_steps", "5", "--data_mix", "0.75,0.25"]
    data = opened(tiny_llama, tmp_path / "out", paths, *flags)
    said = [text[0] for text in streamed(data)]
    assert (said.count("b"), said.count("a")) == (9, 29)
    assert isinstance(data.train, StreamedExamples)
    data.train.window = 200
    rows = list(data.train)
    assert all(isinstance(row, tuple) for row in rows) and len(rows) < len(said)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--streaming", "True"], "--max_steps"),
        (["--streaming", "True", "--max_steps", "2", "--eval_split", "0.1"], "--eval_data_path"),
        (["--streaming", "True", "--max_steps", "2", "--save_strategy", "epoch"], "no epochs"),
    ],
)
def test_a_stream_says_what_it_needs(
    tiny_llama: Path, tmp_path: Path, flags: list[str], said: str
) -> None:
    path = write(tmp_path / "a.jsonl", "a", 3)
    with pytest.raises(UsageError, match=said):
        opened(tiny_llama, tmp_path / "out", [path], *flags)


def test_files_that_are_not_there_are_named(tiny_llama: Path, tmp_path: Path) -> None:
    for mode in ([], ["--lazy_preprocess", "True"]):
        with pytest.raises(DataError, match=r"gone\.jsonl"):
            opened(tiny_llama, tmp_path / "out", [str(tmp_path / "gone.jsonl")], *mode)
    with pytest.raises(UsageError, match="no file fits"):
        opened(tiny_llama, tmp_path / "out", [str(tmp_path / "*.nothing")])
