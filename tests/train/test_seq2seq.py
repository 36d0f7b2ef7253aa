"""T5: the published text and pairs, the cache, and the shared table of embeddings."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastchat.errors import DataError
from fastchat.families.registry import registry
from fastchat.message import Message
from fastchat.train import fit, seq2seq
from fastchat.train.presets import TRAIN_FLANT5, TRAIN_LORA_T5, Preset

Argv = Callable[..., list[str]]
TEMPLATE = registry().template("one_shot")
COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def user(text: str) -> Message:
    return Message(role="user", text=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", text=text)


def test_every_reply_is_a_pair_of_the_published_text() -> None:
    head = TEMPLATE.system_message + "\n\n"
    first = head + "### <Human>: one\n### <Assistant>: "
    talk = [user("one"), assistant("two"), user("three"), assistant("four")]
    assert seq2seq.pairs_of(talk, TEMPLATE) == [
        (first, "two\n"),
        (first + "two\n### <Human>: three\n### <Assistant>: ", "four\n"),
    ]
    own = [Message(role="system", text="Be brief."), *talk[:2]]
    [(before, _)] = seq2seq.pairs_of(own, TEMPLATE)
    assert before.startswith("Be brief.\n\n### <Human>: one\n")


def test_ids_are_cut_at_the_far_ends_and_short_pairs_left_out(tiny_t5: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_t5)
    seq2seq.add_t5_tokens(tokenizer)
    before, reply = "What is the name of the river? " * 3, "It is the Rhine, I think.\n"
    [whole] = seq2seq.tokenized([(before, reply)], tokenizer, max_length=500)
    assert tokenizer.decode(whole.input_ids) == before + "</s>"
    assert tokenizer.decode(whole.labels) == reply + "</s>"
    [cut] = seq2seq.tokenized([(before, reply)], tokenizer, max_length=10)
    assert cut.input_ids == whole.input_ids[-11:]
    assert cut.labels == [*whole.labels[:10], tokenizer.eos_token_id]
    assert seq2seq.tokenized([(before, "a")], tokenizer, max_length=500) == []


def test_the_characters_that_t5_lacks_become_tokens(tiny_t5: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_t5)
    seq2seq.add_t5_tokens(tokenizer)
    assert tokenizer.pad_token == "[PAD]"
    for text in seq2seq.T5_LACKS:
        [number] = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode([number]) == text


def test_the_chat_template_writes_what_was_learned(tiny_t5: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_t5)
    talk = [user("one"), assistant("two"), user("a {% brace %}"), assistant("four")]
    for given in (talk, [Message(role="system", text="Brief."), *talk]):
        expected, _ = seq2seq.pairs_of(given, TEMPLATE)[-1]
        text = tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.text} for m in given[:-1]],
            chat_template=seq2seq.chat_template(TEMPLATE),
            add_generation_prompt=True,
            tokenize=False,
        )
        assert text == expected


def t5_argv(argv_for: Argv, tiny_t5: Path, **flags: object) -> list[str]:
    return argv_for(model_name_or_path=tiny_t5, learning_rate=1e-2, **flags)


def train(argv: list[str], preset: Preset = TRAIN_FLANT5) -> int:
    return fit.main(argv, prog="x.train_flant5", preset=preset)


@pytest.mark.slow
def test_a_trained_t5_has_one_table_of_embeddings_and_answers_as_it_was_trained(
    tiny_t5: Path, argv_for: Argv, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    argv = t5_argv(argv_for, tiny_t5, max_steps=30, logging_steps=1)
    assert train(argv) == 0
    out = tmp_path / "out"
    state = json.loads((out / "trainer_state.json").read_text("utf-8"))
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
    saved = load_file(out / "model.safetensors")
    assert all(saved[name].equal(saved["shared.weight"]) for name in COPIES if name in saved)
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(out)
    table = model.shared.weight
    assert model.encoder.embed_tokens.weight.equal(table)
    assert model.decoder.embed_tokens.weight.equal(table)
    tokenizer: Any = AutoTokenizer.from_pretrained(out)
    assert tokenizer.pad_token == "[PAD]" and len(tokenizer) <= table.shape[0]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the name of the river?"}],
        add_generation_prompt=True,
        tokenize=False,
    )
    ids = tokenizer(text, return_tensors="pt").input_ids
    labels = tokenizer("It is the Rhine, I think.\n", return_tensors="pt").input_ids
    with torch.no_grad():
        assert float(model(input_ids=ids, labels=labels).loss) < losses[0]


@pytest.mark.slow
def test_pairs_are_kept_and_made_anew_when_their_source_changed(
    tiny_t5: Path, argv_for: Argv, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = tmp_path / "preprocessed_data" / "pairs.json"
    argv = t5_argv(argv_for, tiny_t5, max_steps=1, preprocessed_path=kept)
    assert train(argv) == 0
    first = json.loads(kept.read_text("utf-8"))
    assert len(first["input_ids"]) == len(first["labels"]) == 8
    stamp = kept.stat().st_mtime_ns
    assert train(argv) == 0
    assert kept.stat().st_mtime_ns == stamp
    assert train([*argv, "--num_data", "3"]) == 0
    again = json.loads(kept.read_text("utf-8"))
    assert again["key"] != first["key"] and len(again["labels"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("has_rows_to_spare", [True, False])
def test_an_adapter_of_a_t5_merges_into_the_model_that_was_trained(
    has_rows_to_spare: bool, tiny_t5: Path, argv_for: Argv, tmp_path: Path
) -> None:
    import shutil

    import torch
    from peft import PeftModel
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    from fastchat.model.apply_lora import apply_lora

    if not has_rows_to_spare:
        full = shutil.copytree(tiny_t5, tmp_path / "full")
        tokenizer = AutoTokenizer.from_pretrained(full)
        model: Any = AutoModelForSeq2SeqLM.from_pretrained(full)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model.save_pretrained(full)
        tiny_t5 = full
    assert train(t5_argv(argv_for, tiny_t5, max_steps=4), TRAIN_LORA_T5) == 0
    out = tmp_path / "out"
    config = json.loads((out / "adapter_config.json").read_text("utf-8"))
    assert sorted(config["target_modules"]) == ["q", "v"]
    assert config["task_type"] == "SEQ_2_SEQ_LM"
    merged = apply_lora(str(tiny_t5), str(tmp_path / "merged"), lora_path=str(out), dtype="float32")
    tokenizer: Any = AutoTokenizer.from_pretrained(merged)
    base: Any = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5)
    if has_rows_to_spare:
        assert len(tokenizer) <= base.shared.num_embeddings
    else:
        base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    given = {
        "input_ids": torch.tensor([[5, 6, 7, len(tokenizer) - 1]]),
        "decoder_input_ids": torch.tensor([[2, 9, 10]]),
    }
    whole: Any = AutoModelForSeq2SeqLM.from_pretrained(merged)
    adapted: Any = PeftModel.from_pretrained(base, out)
    with torch.no_grad():
        first, second = whole.eval()(**given).logits, adapted.eval()(**given).logits
    assert first.allclose(second, atol=1e-4)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_wrong_copies_of_the_shared_table_are_repaired(kind: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    shared = torch.arange(6.0).reshape(3, 2)
    parts = [
        {"shared.weight": shared, COPIES[0]: torch.zeros(3, 2)},
        {COPIES[1]: shared.clone(), "other.weight": torch.ones(1)},
    ]
    for i, part in enumerate(parts):
        if kind == "bin":
            torch.save(part, tmp_path / f"pytorch_model-{i}.bin")
        else:
            save_file(part, tmp_path / f"model-{i}.safetensors")
    [written] = seq2seq.clean_flant5_ckpt(tmp_path)
    read = torch.load(written, weights_only=True) if kind == "bin" else load_file(written)
    assert read[COPIES[0]].equal(shared)
    assert seq2seq.clean_flant5_ckpt(tmp_path) == []
    with pytest.raises(DataError, match=r"shared\.weight is in none"):
        seq2seq.clean_flant5_ckpt(tmp_path / "..")


def test_a_file_without_pairs_is_refused(
    tiny_t5: Path, argv_for: Argv, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.json"
    empty.write_text('[{"id": "1", "conversations": [{"from": "human", "value": "x"}]}]', "utf-8")
    assert train(t5_argv(argv_for, tiny_t5, data_path=empty)) == 1
    assert "nothing to learn from (no reply: 1)" in capsys.readouterr().err.splitlines()[-1]
