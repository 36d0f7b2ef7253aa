import argparse
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from fastchat import model as published
from fastchat.conversation import Conversation, get_conv_template
from fastchat.errors import UsageError
from fastchat.families.registry import registry


@pytest.fixture(autouse=True)
def fresh_registry() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    registry.cache_clear()
    yield
    registry.cache_clear()


class OwlAdapter(published.BaseModelAdapter):
    """A family as a program would add it."""

    def match(self, model_path: str) -> bool:
        return "owl" in model_path

    def load_model(
        self, model_path: str, from_pretrained_kwargs: dict[str, Any]
    ) -> tuple[Any, Any]:
        return f"weights of {model_path}", from_pretrained_kwargs

    def get_default_conv_template(self, model_path: str) -> Conversation:
        return get_conv_template("phoenix")


def test_importing_the_calls_loads_no_library() -> None:
    code = (
        "import sys, fastchat.model, fastchat.conversation; "
        "fastchat.model.get_conversation_template('vicuna-7b'); "
        "print([x for x in ('torch', 'transformers', 'pydantic') if x in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    assert done.stdout == "[]\n"


def test_a_models_format_is_told_by_its_name() -> None:
    assert published.get_conversation_template("lmsys/vicuna-7b-v1.5").name == "vicuna_v1.1"
    assert published.get_conversation_template("facebook/opt-1.3b").name == "one_shot"
    assert published.get_conversation_template("x/llama-7b-peft").name == "zero_shot"


def test_a_registered_adapter_is_asked_first() -> None:
    published.register_model_adapter(OwlAdapter)
    assert published.get_conversation_template("org/owl-vicuna").name == "phoenix"
    assert isinstance(published.get_model_adapter("org/owl-vicuna"), OwlAdapter)
    weights, kwargs = published.load_model("org/owl-vicuna", revision="v2", dtype="bfloat16")
    assert weights == "weights of org/owl-vicuna"
    assert kwargs == {"revision": "v2", "dtype": "bfloat16"}
    assert published.get_conversation_template("lmsys/vicuna-7b").name == "vicuna_v1.1"
    recognition = registry().recognise("org/owl-vicuna")
    assert (recognition.serving_template, recognition.is_known) == ("phoenix", True)


def test_a_family_of_the_files_is_an_adapter_too() -> None:
    adapter = published.get_model_adapter("lmsys/vicuna-7b")
    assert adapter.match("lmsys/vicuna-13b")
    assert not adapter.match("google/gemma-2b-it")
    assert adapter.get_default_conv_template("lmsys/vicuna-7b").name == "vicuna_v1.1"
    with pytest.raises(UsageError, match="not \\['torch'\\]"):
        adapter.load_model("lmsys/vicuna-7b", {"torch": 1})


def test_a_model_is_introduced_by_what_was_registered() -> None:
    assert published.get_model_info("vicuna-13b").simple_name == "Vicuna"
    unknown = published.get_model_info("owl-7b")
    assert (unknown.simple_name, unknown.link) == ("owl-7b", "")
    assert "register_model_info" in unknown.description
    published.register_model_info(["owl-7b", "owl-13b"], "Owl", "https://example.org", "A bird")
    assert published.get_model_info("owl-13b") == ("Owl", "https://example.org", "A bird")


def test_a_programs_own_parser_takes_the_model_flags() -> None:
    parser = argparse.ArgumentParser()
    published.add_model_args(parser)
    arguments = parser.parse_args(
        ["--model-path", "m", "--device", "cpu", "--num-gpus", "2", "--load-8bit"]
    )
    assert (arguments.model_path, arguments.device) == ("m", "cpu")
    assert (arguments.num_gpus, arguments.load_8bit) == (2, True)
    assert (arguments.revision, arguments.dtype) == ("main", "auto")
