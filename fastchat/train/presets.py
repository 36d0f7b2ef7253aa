"""The training commands as data: in what each of them differs from `train`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from fastchat.train.method_arguments import (
    DistillArguments,
    LoraArguments,
    Seq2SeqArguments,
    YuanArguments,
)

Method = Literal["causal", "seq2seq", "dpo"]
Attention = Literal["default", "memory_saving", "xformers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """What a command brings along; every one of its defaults can be overridden by the flag."""

    method: Method = "causal"
    """Next tokens, an encoder's input and a decoder's reply, or pairs of a better and a worse."""
    attention: Attention = "default"
    """What computes attention where no flag says so; `default` is transformers' choice."""
    groups: tuple[type, ...] = (LoraArguments, DistillArguments)
    """Flags of methods that the command takes."""
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Flag -> default, where it differs."""
    tokens_of: str | None = None
    """Family whose special tokens the tokenizer has to know."""
    needs_teacher: bool = False


TRAIN = Preset()
TRAIN_MEM = Preset(attention="memory_saving")
TRAIN_XFORMERS = Preset(attention="xformers")
TRAIN_WITH_TEMPLATE = Preset(defaults={"conv_template": "auto", "eval_split": 0.02})
TRAIN_BAICHUAN = Preset(defaults={"eval_split": 0.02})
TRAIN_YUAN2 = Preset(
    groups=(LoraArguments, DistillArguments, YuanArguments),
    defaults={"conv_template": "yuan2", "loss_on": "all_tokens"},
    tokens_of="yuan2",
)
TRAIN_LORA = Preset(defaults={"lora": True})
T5_DEFAULTS: dict[str, Any] = {
    "model_max_length": 2048,
    "lora_target_modules": ["q", "v"],
    "conv_template": "one_shot",
}
TRAIN_FLANT5 = Preset(
    method="seq2seq",
    groups=(LoraArguments, Seq2SeqArguments),
    defaults=T5_DEFAULTS,
)
TRAIN_LORA_T5 = Preset(
    method="seq2seq",
    groups=(LoraArguments, Seq2SeqArguments),
    defaults=T5_DEFAULTS | {"lora": True},
)
TRAIN_DISTILL = Preset(needs_teacher=True)
TRAIN_DPO = Preset(
    method="dpo",
    groups=(LoraArguments,),
    # TRL would compute in bfloat16 and recompute activations unasked.
    defaults={"bf16": False, "gradient_checkpointing": None},
)
