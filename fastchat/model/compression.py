"""Weights kept in 8 bits, by groups of neighbours along the input: the scheme of `--load-8bit`.

Every plain linear layer keeps its weight as integers with one step (and, if not symmetric, one
offset) per group, and restores it each time it computes. That saves memory, not time. Weights
are quantized one by one as they are read, so the model is never whole in full precision. A
head that shares its weight with the embeddings stays as it is.

The step is kept in float32: in float16 the reciprocal of a small one would be infinite.
Importing this module imports torch and transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

METHOD = "fastchat_8bit"
"""Name under which transformers knows the scheme."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """How a weight becomes integers."""

    bits: int = 8
    """8 at most."""
    group_size: int = 256
    """Neighbours along the input that share a step."""
    is_symmetric: bool = True
    """Whether zero stays zero; otherwise the range of a group is used whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """A weight of `[out, in]` as integers."""

    values: Tensor
    """`[out, groups, group_size]`, int8, or uint8 if not symmetric; the last group is padded."""
    step: Tensor
    """`[out, groups, 1]` float32: what one unit is worth."""
    offset: Tensor | None
    """`[out, groups, 1]` float32: what zero is worth, if not symmetric."""


def quantize(weight: Tensor, scheme: Scheme = Scheme()) -> Groups:
    """The weight `[out, in]` as integers; no value moves by more than half a step."""
    n_out, n_in = weight.shape
    padding = -n_in % scheme.group_size
    padded = nn.functional.pad(weight.float(), (0, padding))
    groups = padded.view(n_out, -1, scheme.group_size)
    if scheme.is_symmetric:
        most = 2 ** (scheme.bits - 1) - 1
        step = groups.abs().amax(-1, keepdim=True) / most
        values = (groups / _divisor(step)).round_().clamp_(-most, most)
        return Groups(values=values.to(torch.int8), step=step, offset=None)
    most = 2**scheme.bits - 1
    offset = groups.amin(-1, keepdim=True)
    step = (groups.amax(-1, keepdim=True) - offset) / most
    values = ((groups - offset) / _divisor(step)).round_().clamp_(0, most)
    return Groups(values=values.to(torch.uint8), step=step, offset=offset)


def restore(groups: Groups, n_in: int, dtype: torch.dtype) -> Tensor:
    """The weight `[out, n_in]` that the integers stand for."""
    weight = groups.values * groups.step
    if groups.offset is not None:
        weight += groups.offset
    return weight.flatten(1)[:, :n_in].to(dtype)


class Linear8bit(nn.Module):
    """A linear layer whose weight is kept in groups of 8-bit integers."""

    def __init__(self, linear: nn.Linear, scheme: Scheme = Scheme()) -> None:
        """Takes the shape of `linear`; the weight comes by `from_linear` or by loading."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        n_groups = -(-linear.in_features // scheme.group_size)
        shape = (linear.out_features, n_groups)
        device = linear.weight.device
        values = torch.empty(*shape, scheme.group_size, dtype=torch.int8, device=device)
        step = torch.empty(*shape, 1, dtype=torch.float32, device=device)
        self.weight = nn.Parameter(values, requires_grad=False)
        self.weight_step = nn.Parameter(step, requires_grad=False)
        self.bias = linear.bias

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> Linear8bit:
        """The layer with its weight quantized."""
        layer = cls(linear)
        groups = quantize(linear.weight.detach())
        layer.weight.data, layer.weight_step.data = groups.values, groups.step
        return layer

    def forward(self, inputs: Tensor) -> Tensor:
        groups = Groups(values=self.weight, step=self.weight_step, offset=None)
        weight = restore(groups, self.in_features, inputs.dtype)
        return nn.functional.linear(inputs, weight, self.bias)


def loading_arguments() -> dict[str, Any]:
    """Arguments of `from_pretrained` that quantize each linear weight as it is read."""
    return {"quantization_config": Config8bit()}  # pyright: ignore[reportCallIssue]  # transformers' decorator hides the signature


def offloading_arguments() -> dict[str, Any]:
    """Arguments of `from_pretrained` for 8-bit weights of which some stay on the CPU.

    By bitsandbytes, on CUDA; not run in our tests, which have no GPU.
    """
    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_enable_fp32_cpu_offload=True)
    return {"quantization_config": config, "device_map": "auto"}


@register_quantization_config(METHOD)
class Config8bit(QuantizationConfigMixin):
    """Tells transformers to quantize by this scheme."""

    def __init__(self) -> None:
        self.quant_method: Any = METHOD


@register_quantizer(METHOD)
class Quantizer8bit(HfQuantizer):
    """Transformers' view of the scheme: which weights, and by which operation."""

    @property
    def is_trainable(self) -> bool:
        return False

    def is_serializable(self) -> bool:
        return False

    def param_needs_quantization(
        self, model: PreTrainedModel, param_name: str, **kwargs: Any
    ) -> bool:
        module_name, _, tensor_name = param_name.rpartition(".")
        return tensor_name == "weight" and isinstance(model.get_submodule(module_name), Linear8bit)

    def get_quantize_ops(self) -> ConversionOps:
        return _QuantizeWeight()

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        tied = model.all_tied_weights_keys
        shared = {*tied.keys(), *tied.values()}
        for name, module in list(model.named_modules()):
            # Exactly this class: what is derived from it has its own way to compute.
            if type(module) is nn.Linear and f"{name}.weight" not in shared:
                model.set_submodule(name, Linear8bit(module))


class _QuantizeWeight(ConversionOps):
    """A weight as read -> its integers and steps."""

    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str] | None = None,
        target_patterns: list[str] | None = None,
        *,
        full_layer_name: str = "",
        **kwargs: Any,
    ) -> dict[str, Any]:
        (value,) = input_dict.values()
        groups = quantize(value[0] if isinstance(value, list) else value)
        return {full_layer_name: groups.values, f"{full_layer_name}_step": groups.step}

    @property
    def reverse_op(self) -> ConversionOps:
        raise NotImplementedError("8-bit weights are not saved; save the model they came from")


def _divisor(step: Tensor) -> Tensor:
    """The steps, with 1 for a group that is all the same: its values come out as 0."""
    return torch.where(step > 0, step, 1.0)
