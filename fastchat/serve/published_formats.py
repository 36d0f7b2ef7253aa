"""Published flags of weight formats that had loaders of their own, and what to do today."""

from dataclasses import dataclass, fields

from fastchat.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatFlags:
    """Flags of older weight formats: they are known, and say what to use instead."""

    gptq_ckpt: str | None = None
    """GPTQ: give the quantized folder as --model-path."""
    gptq_wbits: int = 16
    """GPTQ: read from the folder's own configuration."""
    gptq_groupsize: int = -1
    """GPTQ: read from the folder's own configuration."""
    gptq_act_order: bool = False
    """GPTQ: read from the folder's own configuration."""
    awq_ckpt: str | None = None
    """AWQ: give the quantized folder as --model-path."""
    awq_wbits: int = 16
    """AWQ: read from the folder's own configuration."""
    awq_groupsize: int = -1
    """AWQ: read from the folder's own configuration."""
    enable_exllama: bool = False
    """ExLlama: run a server that reads this format and register it."""
    exllama_max_seq_len: int = 4096
    """ExLlama: an option of that server."""
    exllama_gpu_split: str | None = None
    """ExLlama: an option of that server."""
    exllama_cache_8bit: bool = False
    """ExLlama: an option of that server."""
    enable_xft: bool = False
    """xFasterTransformer: use --device cpu --dtype bfloat16."""
    xft_max_seq_len: int = 4096
    """xFasterTransformer: use --context-len."""
    xft_dtype: str | None = None
    """xFasterTransformer: use --dtype."""

    def refuse(self) -> None:
        """Does nothing if none of the flags was given.

        Raises:
            UsageError: what to use instead of the first one that was.
        """
        for field in fields(self):
            if getattr(self, field.name) != field.default:
                flag = "--" + field.name.replace("_", "-")
                remedy = _REMEDIES[field.name.removeprefix("enable_").split("_")[0]]
                raise UsageError(f"{flag} is no longer needed: {remedy}")


_OWN_CONFIG = (
    "a quantized checkpoint loads through its own configuration; "
    "give its folder as --model-path and leave this flag out."
)
_REMEDIES = {
    "gptq": _OWN_CONFIG,
    "awq": _OWN_CONFIG,
    "exllama": (
        "run a server that reads ExLlama weights and register it with "
        "python3 -m fastchat.serve.register_worker --worker-name URL."
    ),
    "xft": "use --device cpu --dtype bfloat16, and --context-len for the length.",
}
