"""Preferences: the pairs as ids, and a model that comes to prefer what was chosen."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from fastchat.data.votes_to_pairs import Report
from fastchat.train import fit
from fastchat.train.presets import TRAIN_DPO

Argv = Callable[..., list[str]]

PAIRS = [
    {"prompt": "What is the river?", "chosen": "It is the Rhine.", "rejected": "I do not know."},
    {"prompt": "Name colours.", "chosen": "Red, blue and green.", "rejected": "No."},
    {
        "prompt": [{"role": "user", "content": "Say that again."}],
        "chosen": [{"role": "assistant", "content": "Please."}],
        "rejected": "What",
    },
]


@pytest.fixture
def pairs_path(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(pair) for pair in PAIRS), "utf-8")
    return path


def dpo(argv: list[str]) -> int:
    return fit.main(argv, prog="x.train_dpo", preset=TRAIN_DPO)


def course(folder: Path, name: str) -> list[float]:
    state = json.loads((folder / "trainer_state.json").read_text("utf-8"))
    return [entry[name] for entry in state["log_history"] if name in entry]


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags", [{}, {"lora": True}, {"lora": True, "q_lora": True}], ids=["full", "lora", "qlora"]
)
def test_the_margin_of_rewards_rises(
    flags: dict[str, object], pairs_path: Path, argv_for: Argv, tmp_path: Path
) -> None:
    if "q_lora" in flags:
        pytest.importorskip("bitsandbytes")
    rate = 2e-2 if flags else 5e-3
    argv = argv_for(data_path=pairs_path, max_steps=12, learning_rate=rate, beta=0.2, **flags)
    assert dpo([*argv, "--logging_steps", "1", "--save_steps", "6"]) == 0
    out = tmp_path / "out"
    margins = course(out, "rewards/margins")
    assert margins[0] == pytest.approx(0, abs=1e-4)
    assert sum(margins[-3:]) > sum(margins[:3]) + 0.05
    assert course(out, "loss")[-1] < course(out, "loss")[0]
    saved = "adapter_model.safetensors" if flags else "model.safetensors"
    assert (out / saved).is_file() and not (out / "ref").exists()
    assert (out / "tokenizer.json").is_file() and (out / "chat_template.jinja").is_file()


@pytest.mark.slow
def test_a_log_of_votes_is_learned_from_as_it_is(argv_for: Argv, tmp_path: Path) -> None:
    def state(reply: str, model: str) -> dict[str, Any]:
        messages = [["USER", "What is the river?"], ["ASSISTANT", reply]]
        return {"messages": messages, "offset": 0, "conv_id": model, "model_name": model}

    log = tmp_path / "2026-05-01-conv.json"
    states = [state("The Rhine.", "a"), state("Who knows.", "b")]
    lines = [{"type": "chat"}, {"type": "rightvote", "models": ["", ""], "states": states}]
    log.write_text("\n".join(json.dumps(line) for line in lines), "utf-8")
    assert dpo(argv_for(data_path=log, max_steps=1)) == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_the_ids_of_a_pair_are_those_of_the_template(tiny_llama: Path) -> None:
    from transformers import AutoTokenizer

    from fastchat.families.registry import registry
    from fastchat.train.dpo import _ids, _pair
    from fastchat.train.examples import Labeller

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_llama)
    template = registry().template("vicuna_v1.1")
    pair = _pair(PAIRS[0], name="x")
    assert not isinstance(pair, str)
    row = _ids(pair, Labeller(tokenizer, template.render, max_length=1000))
    assert not isinstance(row, str)
    assert tokenizer.decode(row["prompt_ids"]).endswith("USER: What is the river? ASSISTANT:")
    assert tokenizer.decode(row["chosen_ids"]) == " It is the Rhine.</s>"
    assert tokenizer.decode(row["rejected_ids"]) == " I do not know.</s>"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "not an object"),
        ('{"prompt": "", "chosen": "a", "rejected": "b"}', "prompt is neither"),
        ('{"prompt": [{"role": "assistant", "content": "x"}], "chosen": "a"}', "prompt is neither"),
        ('{"prompt": "x", "chosen": "a"}', "not an answer"),
        ('{"prompt": "x", "chosen": "a", "rejected": "a"}', "equal answers"),
    ],
)
def test_what_is_no_pair_is_counted_and_a_file_of_nothing_else_refused(
    line: str, reason: str, argv_for: Argv, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastchat.train.dpo import read_pairs

    path = tmp_path / "bad.jsonl"
    path.write_text(line + "\n", "utf-8")
    report = Report()
    assert list(read_pairs(path, report)) == [] and report.read == 1
    assert next(iter(report.dropped)).find(reason) >= 0
    assert dpo(argv_for(data_path=path)) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "holds no pair to learn from" in message and reason in message


@pytest.mark.slow
def test_an_adapter_that_moves_its_base_is_refused(
    pairs_path: Path, argv_for: Argv, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dpo(argv_for(data_path=pairs_path, lora=True, lora_init="pissa")) == 2
    assert "take default or gaussian" in capsys.readouterr().err.splitlines()[-1]
