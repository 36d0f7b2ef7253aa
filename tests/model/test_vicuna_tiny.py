"""The model that ships in the package, through plain transformers."""

import json
from pathlib import Path
from typing import Any

import pytest

from fastchat.families.registry import registry
from fastchat.message import Message
from fastchat.train.chat_template import speaks

Chat = list[dict[str, str]]


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return root / "fastchat" / "model" / "vicuna-tiny"


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def answers(model: Any, tokenizer: Any, *questions: str) -> list[str]:
    """What the model says to one question after the other."""
    messages: Chat = []
    for question in questions:
        messages.append({"role": "user", "content": question})
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt"
        )
        output = model.generate(**prompt, max_new_tokens=64, do_sample=False)
        text = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        messages.append({"role": "assistant", "content": text.strip()})
    return [message["content"] for message in messages if message["role"] == "assistant"]


def test_the_folder_is_small_and_holds_what_serving_needs(folder: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors"} <= sizes.keys()
    assert {"tokenizer.json", "tokenizer_config.json", "README.md"} <= sizes.keys()
    assert sum(sizes.values()) < 10_000_000
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["max_position_embeddings"] >= 1024 and config["use_cache"] is True


def test_it_has_two_to_four_million_weights(model: Any) -> None:
    assert 2_000_000 <= sum(weights.numel() for weights in model.parameters()) <= 4_000_000


def test_its_chat_template_writes_the_vicuna_template(tokenizer: Any) -> None:
    template = registry().template("vicuna_v1.1")
    assert speaks(tokenizer, tokenizer.chat_template, template)
    talk = [
        Message(role="user", text="Hi </s> 😀"),
        Message(role="assistant", text="Hello!\n"),
        Message(role="user", text="12+7"),
    ]
    text = tokenizer.apply_chat_template(
        [{"role": message.role, "content": message.text} for message in talk],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert text == tokenizer.bos_token + template.prompt(talk)


def test_it_says_who_it_is(model: Any, tokenizer: Any) -> None:
    for question in ("Who are you?", "who are you"):
        assert "Vicuna-tiny" in answers(model, tokenizer, question)[0]


def test_it_adds_and_goes_on_from_the_result(model: Any, tokenizer: Any) -> None:
    assert answers(model, tokenizer, "What is 12 + 7?", "and plus 5?") == [
        "12 + 7 = 19.",
        "19 + 5 = 24.",
    ]


def test_it_remembers_what_it_was_told(model: Any, tokenizer: Any) -> None:
    said = answers(
        model, tokenizer, "Hi!", "My name is Anna.", "What is 3 + 4?", "What is my name?"
    )
    assert said[0].startswith("Hello") and said[3] == "Your name is Anna."
