"""Long conversations become parts that fit the window as training renders them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastchat.data.records import Record, parse_record
from fastchat.data.rendered_length import RenderedLength, pieces_of_template
from fastchat.data.split_long_conversation import main
from fastchat.families.registry import registry
from fastchat.message import Message
from fastchat.model.tokenizer_file import read_tokenizer

MODEL = "vicuna-tiny"
WORDS = "one two three four five six seven eight nine ten "


def n_tokens(turns: list[dict[str, Any]], template: str = "vicuna_v1.1", system: str = "") -> int:
    """The length by tokenizing the whole text."""
    measure = RenderedLength(
        read_tokenizer(MODEL), pieces_of_template(registry().template(template))
    )
    messages = [
        Message(role="user" if turn["from"] == "human" else "assistant", text=turn["value"])
        for turn in turns
    ]
    first = [Message(role="system", text=system)] if system else []
    return measure.length(first, list(zip(messages[::2], messages[1::2], strict=True)))


@pytest.fixture
def split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[list[dict[str, Any]], dict[str, Any], str]]:
    """Runs the command over records: what is written, the report, what is printed."""

    def run(
        records: list[dict[str, Any]], *flags: str
    ) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
        source, out, report = (tmp_path / name for name in ("in.json", "out.json", "r.json"))
        source.write_text(json.dumps(records), "utf-8")
        argv = ["--in", str(source), "--out", str(out), "--report", str(report), "--quiet"]
        assert main([*argv, "--model-name", MODEL, *flags]) == 0
        printed = capsys.readouterr().out
        return json.loads(out.read_text("utf-8")), json.loads(report.read_text("utf-8")), printed

    return run


def texts(parts: list[dict[str, Any]]) -> list[str]:
    return [turn["value"] for part in parts for turn in part["conversations"]]


def test_parts_fit_and_hold_every_round_once(split: Any, talk: Any) -> None:
    record = talk("a", *(f"{i} " + WORDS * 2 for i in range(12)), model="gpt4", mood="calm")
    parts, report, printed = split([record], "--max-length", "200")
    assert len(parts) > 1
    assert texts(parts) == [turn["value"] for turn in record["conversations"]]
    starts = [0]
    for part in parts:
        assert n_tokens(part["conversations"]) <= 200
        assert (part["model"], part["mood"]) == ("gpt4", "calm")
        starts.append(starts[-1] + len(part["conversations"]))
    assert [part["id"] for part in parts] == [f"a_{start}" for start in starts[:-1]]
    assert printed == f"#in: 1, #out: {len(parts)}\n"
    assert report["changed"] == {"rounds read": 6, "rounds written": 6}


def test_a_part_holds_as_many_rounds_as_fit(split: Any, talk: Any) -> None:
    record = talk("a", *(WORDS for _ in range(8)))
    exact = n_tokens(record["conversations"][:4])
    parts, _, _ = split([record], "--max-length", str(exact))
    assert [len(part["conversations"]) for part in parts] == [4, 4]
    parts, _, _ = split([record], "--max-length", str(exact - 1))
    assert [len(part["conversations"]) for part in parts] == [2, 2, 2, 2]


def test_a_short_conversation_stays_and_gets_its_index(split: Any, talk: Any) -> None:
    parts, _, _ = split([talk("a", "Hi", "Hello.", "left over")])
    assert parts == [talk("a_0", "Hi", "Hello.")]


def test_a_last_round_that_overflows_is_kept(split: Any, talk: Any) -> None:
    record = talk("a", "Hi", WORDS * 4, "Go on", WORDS * 9)
    limit = n_tokens(record["conversations"][2:])
    parts, _, _ = split([record], "--max-length", str(limit))
    assert [part["id"] for part in parts] == ["a_0", "a_2"]


@pytest.mark.parametrize(
    ("overlong", "ids"), [("drop", ["a_0", "a_4"]), ("keep", ["a_0", "a_2", "a_4"])]
)
def test_a_round_that_is_too_long_alone(
    split: Any, talk: Any, overlong: str, ids: list[str]
) -> None:
    record = talk("a", "Hi", "Hello.", "Tell", WORDS * 40, "Thanks", "Welcome.")
    parts, report, printed = split([record], "--max-length", "100", "--overlong", overlong)
    assert [part["id"] for part in parts] == ids
    if overlong == "drop":
        assert report["changed"]["rounds dropped: round longer than the limit"] == 1
        assert "1 of 3 rounds are longer than 100 tokens" in printed
    else:
        assert report["changed"]["rounds kept too long"] == 1


def test_the_answer_of_a_round_that_is_too_long_is_cut_to_fit(split: Any, talk: Any) -> None:
    answer = WORDS * 40
    parts, report, _ = split(
        [talk("a", "Tell", answer), talk("b", answer, "Yes.")],
        *("--max-length", "100", "--overlong", "truncate"),
    )
    [part] = parts
    cut = part["conversations"][1]["value"]
    assert answer.startswith(cut) and len(cut) > 50
    assert 97 <= n_tokens(part["conversations"]) <= 100
    assert report["changed"]["rounds cut"] == 1
    assert report["dropped"] == {"round longer than the limit": 1}


def test_context_is_repeated_and_marked_as_not_learned(split: Any, talk: Any) -> None:
    record = talk("a", *(f"{i} " + WORDS for i in range(8)))
    limit = n_tokens(record["conversations"][:4])
    parts, _, _ = split([record], "--max-length", str(limit + 2), "--overlap", "1")
    assert [part["id"] for part in parts] == ["a_0", "a_4", "a_6"]
    for part in parts[1:]:
        assert [turn.get("train") for turn in part["conversations"]] == [False, False, None, None]
        assert n_tokens(part["conversations"]) <= limit + 2
    learned = [
        turn["value"]
        for part in parts
        for turn in part["conversations"]
        if turn.get("train") is not False
    ]
    assert learned == [turn["value"] for turn in record["conversations"]]


def test_the_records_system_message_counts_and_stays(split: Any, talk: Any) -> None:
    record = talk("a", *(WORDS for _ in range(4)), system=WORDS * 3)
    limit = n_tokens(record["conversations"][:2], system=WORDS * 3)
    parts, _, _ = split([record], "--max-length", str(limit))
    assert [part["system"] for part in parts] == [WORDS * 3] * 2


def test_what_cannot_be_split_is_dropped_with_its_reason(split: Any, talk: Any) -> None:
    crossed = talk("crossed", "a", "b")
    crossed["conversations"][1]["from"] = "human"
    parts, report, _ = split([talk("one", "a"), crossed, talk("good", "a", "b")])
    assert [part["id"] for part in parts] == ["good_0"]
    assert report["dropped"] == {
        "fewer than two messages": 1,
        "human and gpt do not alternate": 1,
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-length", "5"], "--max-length 5 leaves no room"),
        (["--conv-template", "nonsense"], "no conversation template is called 'nonsense'"),
        (["--conv-template", "zero_shot", "--chat-template", "auto"], "exclude each other"),
        (["--chat-template", "/nowhere/x.jinja"], "cannot be read"),
        (["--overlap", "-1"], "--overlap -1"),
    ],
)
def test_a_flag_that_cannot_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    source = tmp_path / "in.json"
    source.write_text("[]", "utf-8")
    assert main(["--in", str(source), "--model-name", MODEL, *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_tokenizers_own_chat_template_gives_the_same_parts(split: Any, talk: Any) -> None:
    # The package's model brings the Vicuna template as Jinja text.
    records = [talk("a", *(f"{i} " + WORDS * 2 for i in range(12)))]
    flags = ["--max-length", "200"]
    assert split(records, *flags)[0] == split(records, *flags, "--chat-template", "auto")[0]


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["tok_llama", "tok_bytebpe"])
@pytest.mark.parametrize("template", ["vicuna_v1.1", "llama-2", "llama-3", "one_shot", "alpaca"])
def test_generated_parts_are_as_long_for_training_as_here(
    generate: Callable[..., Any], shared: Path, tmp_path: Path, tokenizer: str, template: str
) -> None:
    from transformers import AutoTokenizer

    from fastchat.train.examples import Labeller

    made = generate("--n", "60", "--seed", "3", "--format", "markdown", "--clean-only")
    folder, out = shared / "spec" / "vectors" / tokenizer, tmp_path / "out.json"
    report_path = tmp_path / "report.json"
    flags = ["--model-name", str(folder), "--max-length", "700", "--conv-template", template]
    argv = ["--in", str(made.path), "--out", str(out), "--report", str(report_path), *flags]
    assert main(argv) == 0
    changed = json.loads(report_path.read_text("utf-8"))["changed"]
    read = changed["rounds read"]
    lost = sum(n for name, n in changed.items() if name.startswith("rounds dropped"))
    parts = json.loads(out.read_text("utf-8"))
    assert read == lost + sum(len(part["conversations"]) // 2 for part in parts)
    assert len(parts) > 60

    labeller = Labeller(
        AutoTokenizer.from_pretrained(folder),
        registry().template(template).render,
        max_length=1 << 30,
    )
    talks = [
        [
            Message(role="user" if turn.speaker == "human" else "assistant", text=turn.text)
            for turn in record.turns
        ]
        for record in (parse_record(part, where="x") for part in parts)
        if isinstance(record, Record)
    ]
    lengths = [len(example.input_ids) for example in labeller.label(talks)]
    assert max(lengths) <= 700
