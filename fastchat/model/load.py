"""Path and settings -> a loaded model with its tokenizer, context length and family."""

from dataclasses import dataclass
from typing import Annotated, Literal

from fastchat.settings import Env, alias

Device = Literal["auto", "cpu", "cuda", "mps", "xpu", "npu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Which model, and how it is loaded."""

    model_path: Annotated[str, alias("--model")] = "vicuna-tiny"
    """Folder or hub id; `vicuna-tiny` is the model that ships in the package."""
    revision: str = "main"
    """Branch, tag or commit of a hub model."""
    device: Device = "auto"
    """Where it runs; `auto` takes the first that exists of cuda, npu, xpu, mps, cpu."""
    gpus: str | None = None
    """Ids of the accelerators to use, like `0,2`."""
    num_gpus: int = 1
    """Accelerators to spread one model over."""
    max_gpu_memory: str | None = None
    """Weights per accelerator at most, like `8GiB`."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Precision; `auto` follows the checkpoint and the device."""
    num_threads: int | None = None
    """Compute threads; the default is the cores this process may use."""
    load_8bit: bool = False
    """Keep the weights in 8 bits."""
    cpu_offloading: bool = False
    """With --load-8bit on cuda: weights that do not fit go to the CPU."""
    trust_remote_code: bool = False
    """Run Python code that comes with a checkpoint. Off unless you trust its author."""
    context_len: Annotated[int | None, alias("--max-model-len")] = None
    """Context length in tokens; the default is read from the model's config."""
    conv_template: str | None = None
    """Prompt template by name; it wins over the tokenizer's own and the family's."""
    chat_template: str | None = None
    """File with a Jinja chat template to use instead of the tokenizer's own."""
    use_modelscope: Annotated[bool, Env("FASTCHAT_USE_MODELSCOPE")] = False
    """Take models from ModelScope instead of the Hugging Face hub."""
    cpu_isa: Annotated[str | None, Env("CPU_ISA")] = None
    """`amx` or `avx512_bf16`: bfloat16 on the CPU."""
