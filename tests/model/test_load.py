import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastchat.errors import DataError, ModelError, UsageError
from fastchat.message import Message
from fastchat.model.load import ModelSettings, load

HELLO = [Message(role="user", text="hello")]

Change = Callable[..., Path]


@pytest.fixture
def changed(checkpoint: Path, tmp_path: Path) -> Change:
    """A copy of the checkpoint under another name, with other values in its config."""

    def copy(name: str = "copy", *, drop: tuple[str, ...] = (), **values: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(checkpoint, folder)
        config = json.loads((folder / "config.json").read_text())
        config = {k: v for k, v in (config | values).items() if k not in drop}
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return copy


def settings(path: Path | str, **values: Any) -> ModelSettings:
    return ModelSettings(model_path=str(path), device="cpu", **values)


def test_a_folder_is_loaded_with_everything_that_belongs_to_it(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    with caplog.at_level(logging.INFO, "fastchat"):
        loaded = load(settings(checkpoint))
    assert loaded.context_len == 512
    assert loaded.vocab_size == 260
    assert loaded.dtype == torch.float32
    assert loaded.device.type == "cpu"
    assert loaded.template_name == "tokenizer"
    assert loaded.eos_token_ids == {1, 2}, "9999 is no id of this model"
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert not loaded.model.training
    assert sum("prompt format" in line for line in caplog.messages) == 1


def test_one_bos_however_the_prompt_was_written(checkpoint: Path) -> None:
    own = load(settings(checkpoint))
    assert own.render(HELLO) == "<s>[hello]"
    for ids in (
        own.encode_messages(HELLO),
        own.encode("<s>[hello]"),
        own.encode("[hello]"),
    ):
        assert ids.count(0) == 1 and ids[0] == 0
    assert own.encode("hello", add_special_tokens=False)[0] != 0
    ours = load(settings(checkpoint, conv_template="vicuna_v1.1"))
    assert ours.render(HELLO).endswith("USER: hello ASSISTANT:")
    assert ours.encode_messages(HELLO).count(0) == 1


def test_a_tokenizer_that_closes_texts_does_not_close_prompts(changed: Change) -> None:
    folder = changed()
    record = json.loads((folder / "tokenizer.json").read_text())
    post = record["post_processor"]
    post["single"].append({"SpecialToken": {"id": "</s>", "type_id": 0}})
    post["special_tokens"]["</s>"] = {"id": "</s>", "ids": [1], "tokens": ["</s>"]}
    (folder / "tokenizer.json").write_text(json.dumps(record))
    loaded = load(settings(folder))
    assert loaded.tokenizer("hi").input_ids[-1] == 1
    assert 1 not in loaded.encode("hi")


@pytest.mark.parametrize(
    ("flags", "name", "prompt"),
    [
        ({"conv_template": "alpaca", "chat_template": "x.jinja"}, "alpaca", "### Instruction"),
        ({"chat_template": "x.jinja"}, "x.jinja", "X:hello"),
        ({}, "tokenizer", "<s>[hello]"),
    ],
)
def test_the_prompt_format_follows_the_order_of_precedence(
    checkpoint: Path, tmp_path: Path, flags: dict[str, str], name: str, prompt: str
) -> None:
    file = tmp_path / "x.jinja"
    file.write_text("{% for m in messages %}X:{{ m.content }}{% endfor %}")
    if "chat_template" in flags:
        flags = flags | {"chat_template": str(file)}
    loaded = load(settings(checkpoint, **flags))
    assert loaded.template_name == name
    assert prompt in loaded.render(HELLO)


def test_a_name_gives_the_template_where_the_tokenizer_has_none(
    changed: Change, caplog: pytest.LogCaptureFixture
) -> None:
    for name, template in (("vicuna-7b-v1.5", "vicuna_v1.1"), ("nobody-knows", "zero_shot")):
        folder = changed(name)
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        loaded = load(settings(folder))
        assert loaded.template_name == template
        assert loaded.stop == loaded.prompting.template.stop  # type: ignore[union-attr]
    with caplog.at_level(logging.INFO, "fastchat"):
        load(settings(changed("vicuna-7b-v1.3")))
    assert "differs from vicuna_v1.1" in caplog.text


def test_unknown_templates_and_files_are_refused_by_name(checkpoint: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jinja"
    broken.write_text("{% for %}")
    for flags, word in (
        ({"conv_template": "vicuna_v1.2"}, "vicuna_v1.1"),
        ({"chat_template": str(tmp_path / "none.jinja")}, "none.jinja"),
        ({"chat_template": str(broken)}, "broken.jinja"),
    ):
        with pytest.raises(UsageError, match=word):
            load(settings(checkpoint, **flags))


def test_a_conversation_that_the_chat_template_refuses_is_the_callers_mistake(
    checkpoint: Path,
) -> None:
    loaded = load(settings(checkpoint))
    with pytest.raises(UsageError, match="no system messages"):
        loaded.render([Message(role="system", text="x"), *HELLO])


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
    ],
)
def test_a_hostile_chat_template_reaches_nothing(
    checkpoint: Path, tmp_path: Path, source: str
) -> None:
    file = tmp_path / "x.jinja"
    file.write_text(source)
    with pytest.raises(UsageError):
        load(settings(checkpoint, chat_template=str(file)))


def test_pickled_weights_run_no_code(changed: Change, tmp_path: Path) -> None:
    import pickle

    import torch

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "marker",))

    for saved in ("torch", "pickle"):
        folder = changed(saved)
        (folder / "model.safetensors").unlink()
        weights = folder / "pytorch_model.bin"
        if saved == "torch":
            torch.save({"model.norm.weight": Bomb()}, weights)
        else:
            weights.write_bytes(pickle.dumps({"x": Bomb()}, protocol=2))
        with pytest.raises(DataError, match="weights"):
            load(settings(folder))
    assert not (tmp_path / "marker").exists()


def test_pickled_weights_that_are_only_tensors_are_loaded(changed: Change) -> None:
    import torch
    from safetensors.torch import load_file

    folder = changed()
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert load(settings(folder)).vocab_size == 260


def test_code_that_comes_with_a_model_runs_only_when_asked_for(
    changed: Change, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    folder = changed(
        model_type="strange",
        auto_map={
            "AutoConfig": "own_code.StrangeConfig",
            "AutoModelForCausalLM": "own_code.StrangeForCausalLM",
        },
    )
    (folder / "own_code.py").write_text(
        "from pathlib import Path\n"
        f"Path({str(marker)!r}).touch()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class StrangeConfig(LlamaConfig):\n    model_type = 'strange'\n"
        "class StrangeForCausalLM(LlamaForCausalLM):\n    config_class = StrangeConfig\n"
    )
    with pytest.raises(UsageError, match="--trust-remote-code"):
        load(settings(folder))
    assert not marker.exists()
    assert load(settings(folder, trust_remote_code=True)).vocab_size == 260
    assert marker.exists()


def test_what_has_no_weights_to_load_here_is_refused_by_family(
    changed: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastchat.model import hub

    monkeypatch.setattr(hub, "_is_hub_reachable", lambda: True)
    with pytest.raises(UsageError, match="is a service"):
        load(settings("gpt-4"))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "vicuna-7b"}')
    with pytest.raises(UsageError, match="PEFT adapter"):
        load(settings(adapter))


def test_a_family_in_code_loads_its_own_models(checkpoint: Path) -> None:
    from fastchat.conversation import get_conv_template
    from fastchat.families.registry import registry

    class OwlAdapter:
        def match(self, model_path: str) -> bool:
            return model_path == "an-owl"

        def load_model(self, model_path: str, wishes: dict[str, Any]) -> tuple[Any, Any]:
            from transformers import AutoModelForCausalLM, AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(checkpoint)
            tokenizer.chat_template = None
            return AutoModelForCausalLM.from_pretrained(checkpoint), tokenizer

        def get_default_conv_template(self, model_path: str) -> Any:
            return get_conv_template("alpaca")

    registry.cache_clear()
    try:
        registry().add_adapter(OwlAdapter())
        loaded = load(settings("an-owl"))
    finally:
        registry.cache_clear()
    assert (loaded.template_name, loaded.vocab_size, loaded.context_len) == ("alpaca", 260, 512)


def test_a_family_may_know_whose_end_token_is_right(changed: Change) -> None:
    folder = changed("guanaco-7b", eos_token_id=7)
    (folder / "generation_config.json").unlink()
    assert load(settings(folder)).eos_token_ids == {7}
    assert load(settings(changed("nobody", eos_token_id=7))).eos_token_ids == {1, 2, 7}


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"quantization_config": {"quant_method": "exl2", "bits": 4}}, UsageError, "exl2"),
        ({"quantization_config": {"bits": 4}}, UsageError, "quantized"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, ModelError, "optimum"),
        ({"model_type": "nobody"}, DataError, "nobody"),
        (
            {"model_type": "bart", "architectures": ["BartForConditionalGeneration"]},
            UsageError,
            "BartForConditionalGeneration; of encoder-decoders those of t5",
        ),
        (
            {"model_type": "vit", "architectures": ["ViTForImageClassification"]},
            UsageError,
            "ViTForImageClassification",
        ),
        ({"num_hidden_layers": 3}, DataError, "lacks .* weights"),
        ({"hidden_size": 32}, DataError, "copy"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(
    changed: Change, values: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        load(settings(changed(**values)))
    assert "\n" not in str(caught.value)


def test_damaged_files_are_one_clear_line(changed: Change) -> None:
    for name, content in (
        ("config.json", b"{"),
        ("tokenizer.json", b"{}"),
        ("model.safetensors", b"short"),
        ("model.safetensors", None),
    ):
        folder = changed(f"{name}-{len(content or b'')}")
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            load(settings(folder))
        assert "\n" not in str(caught.value)


def test_precision_follows_the_checkpoint_and_the_wish(
    checkpoint: Path, changed: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from fastchat.model import placement

    assert load(settings(checkpoint, dtype="bfloat16")).dtype == torch.bfloat16
    half = changed(dtype="float16")
    for flags, wanted in (
        (frozenset({"avx512_bf16"}), torch.bfloat16),
        (frozenset(), torch.float32),
    ):
        there = placement.Machine(accelerators={}, cpu_flags=flags)
        monkeypatch.setattr(placement, "machine", lambda there=there: there)
        loaded = load(settings(half))
        assert loaded.dtype == wanted
        assert loaded.model.lm_head.weight.dtype == wanted


def test_eight_bits_stay_close_and_save_memory(checkpoint: Path) -> None:
    import torch

    from fastchat.model.compression import Linear8bit

    plain, small = load(settings(checkpoint)), load(settings(checkpoint, load_8bit=True))
    assert isinstance(small.model.lm_head, Linear8bit)
    assert small.vocab_size == 260
    ids = torch.tensor([plain.encode("The quick brown fox")])
    one, two = plain.model(ids).logits, small.model(ids).logits
    assert (one - two).abs().max() < 0.05 * one.std()


def test_cpu_offloading_warns_where_it_does_not_apply(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(settings(checkpoint, cpu_offloading=True))
    assert "needs --device cuda" in caplog.text
    assert "needs --load-8bit" in caplog.text


def test_an_encoder_is_loaded_for_embeddings(changed: Change, tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    folder = changed("encoder")
    (folder / "model.safetensors").unlink()
    config = BertConfig(
        vocab_size=260,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    loaded = load(settings(folder))
    assert not loaded.can_generate
    assert loaded.context_len == 64


def test_context_may_be_set(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load(settings(checkpoint, context_len=100)).context_len == 100
    assert load(settings(checkpoint, context_len=1000)).context_len == 1000
    assert "beyond the 512" in caplog.text
    with pytest.raises(UsageError, match="--context-len 0"):
        load(settings(checkpoint, context_len=0))


def test_threads_are_set(checkpoint: Path) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        load(settings(checkpoint, num_threads=3))
        assert torch.get_num_threads() == 3
        with pytest.raises(UsageError, match="--num-threads 0"):
            load(settings(checkpoint, num_threads=0))
    finally:
        torch.set_num_threads(before)


def test_loading_is_imported_without_torch() -> None:
    import subprocess

    code = "import sys, fastchat.model.load; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
