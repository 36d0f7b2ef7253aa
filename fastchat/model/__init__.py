"""The published Python calls about models. Importing them loads no library.

A family of models is normally a TOML file in `fastchat/families`. Where that does not reach,
a program subclasses `BaseModelAdapter` and registers it.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from fastchat.conversation import Conversation
    from fastchat.families.registry import Recognition

__all__ = [
    "BaseModelAdapter",
    "ModelInfo",
    "add_model_args",
    "get_conversation_template",
    "get_model_adapter",
    "get_model_info",
    "load_model",
    "register_model_adapter",
    "register_model_info",
]


class ModelInfo(NamedTuple):
    """How a model is introduced to its users."""

    simple_name: str
    link: str
    description: str


class BaseModelAdapter:
    """A family of models in code: which paths are its own, how they are loaded and prompted."""

    use_fast_tokenizer = True

    def match(self, model_path: str) -> bool:
        """Whether a model belongs to this family."""
        return True

    def load_model(
        self, model_path: str, from_pretrained_kwargs: dict[str, Any]
    ) -> tuple[Any, Any]:
        """The model and its tokenizer."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        revision = from_pretrained_kwargs.get("revision", "main")
        tokenizer = AutoTokenizer.from_pretrained(
            model_path, use_fast=self.use_fast_tokenizer, revision=revision
        )
        model = AutoModelForCausalLM.from_pretrained(model_path, **from_pretrained_kwargs)
        return model, tokenizer

    def get_default_conv_template(self, model_path: str) -> "Conversation":
        """An empty conversation in the family's format."""
        from fastchat.conversation import get_conv_template
        from fastchat.families.registry import NEUTRAL_TEMPLATE

        return get_conv_template(NEUTRAL_TEMPLATE)


class _FamilyAdapter(BaseModelAdapter):
    """A family of the TOML files, seen as an adapter."""

    def __init__(self, recognition: "Recognition") -> None:
        self.recognition = recognition

    def match(self, model_path: str) -> bool:
        from fastchat.families.registry import registry

        return registry().recognise(model_path).family is self.recognition.family

    def load_model(
        self, model_path: str, from_pretrained_kwargs: dict[str, Any]
    ) -> tuple[Any, Any]:
        known = {"revision", "dtype"}
        if unknown := from_pretrained_kwargs.keys() - known:
            from fastchat.errors import UsageError

            raise UsageError(f"load_model takes {sorted(known)}, not {sorted(unknown)}")
        return load_model(model_path, **from_pretrained_kwargs)

    def get_default_conv_template(self, model_path: str) -> "Conversation":
        return get_conversation_template(model_path)


def register_model_adapter(cls: type[BaseModelAdapter]) -> None:
    """Makes a family in code known. The one registered first is asked first."""
    from fastchat.families.registry import registry

    registry().add_adapter(cls())


def get_model_adapter(model_path: str) -> BaseModelAdapter:
    """The adapter that is responsible for a model."""
    from fastchat.families.registry import registry

    recognition = registry().recognise(model_path)
    adapter = recognition.adapter
    return adapter if isinstance(adapter, BaseModelAdapter) else _FamilyAdapter(recognition)


def get_conversation_template(model_path: str) -> "Conversation":
    """An empty conversation in the format of a model's family, told by its folder or name."""
    from fastchat.conversation import get_conv_template
    from fastchat.families.registry import NEUTRAL_TEMPLATE, registry

    recognition = registry().recognise(model_path)
    if recognition.adapter:
        return recognition.adapter.get_default_conv_template(model_path)
    return get_conv_template(recognition.template or NEUTRAL_TEMPLATE)


def load_model(
    model_path: str,
    device: str = "auto",
    num_gpus: int = 1,
    max_gpu_memory: str | None = None,
    dtype: Any = None,
    load_8bit: bool = False,
    cpu_offloading: bool = False,
    revision: str = "main",
    debug: bool = False,
) -> tuple[Any, Any]:
    """The model, in evaluation mode on its device, and its tokenizer.

    dtype: a torch type or its name; None follows the checkpoint and the device.
    debug: prints the model's layers.
    Raises UsageError, DataError or ModelError when it cannot be loaded.
    """
    from fastchat.families.registry import registry
    from fastchat.model.load import ModelSettings, load

    precision: Any = str(dtype or "auto").removeprefix("torch.")
    adapter = registry().recognise(model_path).adapter
    if adapter:
        kwargs: dict[str, Any] = {"revision": revision, "dtype": precision}
        model, tokenizer = adapter.load_model(model_path, kwargs)
    else:
        where: Any = device
        loaded = load(
            ModelSettings(
                model_path=model_path,
                revision=revision,
                device=where,
                num_gpus=num_gpus,
                max_gpu_memory=max_gpu_memory,
                dtype=precision,
                load_8bit=load_8bit,
                cpu_offloading=cpu_offloading,
            )
        )
        model, tokenizer = loaded.model, loaded.tokenizer
    if debug:
        print(model)
    return model, tokenizer


def add_model_args(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say which model is loaded and how to a program's own parser."""
    from fastchat.model.load import ModelSettings

    default = ModelSettings()
    add = parser.add_argument
    add("--model-path", default=default.model_path, help="folder, or hub id")
    add("--revision", default=default.revision, help="branch, tag or commit of a hub model")
    add(
        "--device",
        choices=["auto", "cpu", "cuda", "mps", "xpu", "npu"],
        default=default.device,
        help="where the model runs",
    )
    add("--gpus", default=default.gpus, help="ids of the accelerators to use, like 0,2")
    add("--num-gpus", type=int, default=default.num_gpus, help="accelerators for one model")
    add("--max-gpu-memory", default=default.max_gpu_memory, help="per accelerator, like 8GiB")
    add(
        "--dtype",
        choices=["auto", "float32", "float16", "bfloat16"],
        default=default.dtype,
        help="precision; auto follows the checkpoint and the device",
    )
    add("--load-8bit", action="store_true", help="keep the weights in 8 bits")
    add("--cpu-offloading", action="store_true", help="with --load-8bit: overflow to the CPU")


def register_model_info(
    full_names: Sequence[str], simple_name: str, link: str, description: str
) -> None:
    """Makes the description of some models known to the pages."""
    from fastchat.families.registry import Card, registry

    registry().add_card(full_names, Card(name=simple_name, link=link, description=description))


def get_model_info(name: str) -> ModelInfo:
    """The description of a model; a plain one, with a hint, for a model without."""
    from fastchat.families.registry import registry

    card = registry().card(name)
    return ModelInfo(card.name, card.link, card.description)
