"""Where a model runs and in which precision: devices, types, memory caps, threads.

Decisions are functions of values; only `machine` and `use_threads` look at the machine.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastchat.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from fastchat.model.load import ModelSettings

Dtype = Literal["float32", "float16", "bfloat16"]

ORDER = ("cuda", "npu", "xpu", "mps", "cpu")
"""What `auto` tries, in this order."""

CPU_ISAS: Mapping[str, frozenset[str]] = {
    "amx": frozenset({"amx_bf16"}),
    "avx512_bf16": frozenset({"avx512_bf16"}),
}
"""Values of CPU_ISA with the CPU flags they stand for."""

KERNEL_CACHE = 256
"""Kernels that each of torch's CPU libraries remembers; a model of ten kinds of products, run in
the sizes of step that `packed` makes, needs fewer."""

_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What there is to run on."""

    accelerators: Mapping[str, int]
    """How many of each kind that is there."""
    cpu_flags: frozenset[str] = frozenset()
    bfloat16_devices: frozenset[str] = frozenset()
    """Accelerators that compute in bfloat16."""

    @property
    def has_cpu_bfloat16(self) -> bool:
        """Whether the CPU multiplies bfloat16 in hardware."""
        return bool(self.cpu_flags & {"amx_bf16", "avx512_bf16"})

    @property
    def devices(self) -> tuple[str, ...]:
        """The kinds of device that exist, best first."""
        return tuple(d for d in ORDER if d == "cpu" or self.accelerators.get(d))


def machine() -> Machine:
    """What this process may use. Must come after `show_gpus`."""
    import torch

    if find_spec("torch_npu") is not None:
        __import__("torch_npu")  # adds torch.npu
    counts = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "xpu": torch.xpu.device_count() if torch.xpu.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    npu = getattr(torch, "npu", None)
    counts["npu"] = npu.device_count() if npu is not None and npu.is_available() else 0
    bfloat16 = {"xpu", "npu", "mps"}
    if counts["cuda"] and torch.cuda.is_bf16_supported(including_emulation=False):
        bfloat16.add("cuda")
    return Machine(
        accelerators=counts, cpu_flags=_cpu_flags(), bfloat16_devices=frozenset(bfloat16)
    )


def show_gpus(gpus: str | None, num_gpus: int) -> None:
    """Lets torch see only the accelerators named in `gpus`; must come before it looks.

    Raises UsageError when the list is malformed or names fewer than `num_gpus`.
    """
    if num_gpus < 1:
        raise UsageError(f"--num-gpus {num_gpus}: give 1 or more")
    if gpus is None:
        return
    ids = [part.strip() for part in gpus.split(",")]
    if not all(part.isdecimal() for part in ids) or len(set(ids)) < len(ids):
        raise UsageError(f"--gpus {gpus!r}: give different numbers with commas, like 0,2")
    if len(ids) < num_gpus:
        raise UsageError(f"--gpus {gpus!r} names {len(ids)} devices, --num-gpus wants {num_gpus}")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise UsageError(f"--gpus {gpus!r} comes too late: this process already uses a GPU")
    for name in ("CUDA_VISIBLE_DEVICES", "XPU_VISIBLE_DEVICES"):
        os.environ[name] = ",".join(ids)


def choose_device(settings: ModelSettings, there: Machine) -> str:
    """The kind of device to run on.

    Raises UsageError when it, or as many of it as asked for, is not there.
    """
    device = there.devices[0] if settings.device == "auto" else settings.device
    if device not in there.devices:
        raise UsageError(
            f"--device {device}: this machine has none that torch can use; "
            f"there is {' and '.join(there.devices)}"
        )
    n = there.accelerators.get(device, 0)
    if settings.num_gpus > max(n, 1):
        found = f"{n} of {device}" if n else "none"
        raise UsageError(f"--num-gpus {settings.num_gpus}: accelerators found: {found}")
    if settings.max_gpu_memory is not None:
        memory_cap(settings.max_gpu_memory)
        if device not in ("cuda", "xpu", "npu"):
            raise UsageError(
                f"--max-gpu-memory {settings.max_gpu_memory} does not apply to {device}; "
                "leave it out"
            )
    return device


def memory_cap(text: str) -> str:
    """`8GiB`, `13Gib` or `500MB` in the spelling that the placing library reads."""
    match = _MEMORY.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"--max-gpu-memory {text!r}: give an amount with its unit, like 8GiB")
    unit = match[2][0].upper() + match[2][1:-1].lower() + "B"
    factor = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    decimal = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    sizes = factor if "i" in unit else decimal
    return f"{int(float(match[1]) * sizes[unit[0]]) // 2**20}MiB"


def device_map(
    settings: ModelSettings, device: str, free_bytes: Mapping[int, int]
) -> dict[str, Any]:
    """Arguments of `from_pretrained` that place the weights.

    free_bytes: free memory by accelerator. Several accelerators without a cap are filled one
    after the other up to 85 % of that, so that a cache finds room; with a cap, evenly up to it.
    """
    ids = range(settings.num_gpus)
    if settings.max_gpu_memory is not None:
        cap = memory_cap(settings.max_gpu_memory)
        return {"device_map": "auto", "max_memory": dict.fromkeys(ids, cap)}
    if settings.num_gpus > 1:
        room = {i: f"{int(free_bytes[i] * 0.85 / 2**30)}GiB" for i in ids}
        return {"device_map": "sequential", "max_memory": room}
    return {} if device == "cpu" else {"device_map": {"": first_device(device)}}


def first_device(device: str) -> str:
    """The name under which torch knows the first device of a kind."""
    return device if device in ("cpu", "mps") else f"{device}:0"


def free_bytes(device: str, n: int) -> dict[int, int]:
    """Free memory of the first `n` accelerators."""
    import torch

    memory = getattr(torch, device)
    return {i: int(memory.mem_get_info(i)[0]) for i in range(n)}


def choose_dtype(
    settings: ModelSettings, device: str, there: Machine, *, checkpoint: Dtype | None
) -> tuple[Dtype, str | None]:
    """The precision to load in, and a warning where a wish cannot be met.

    checkpoint: the precision in which the weights were saved, where that is known.
    """
    if settings.dtype != "auto":
        return settings.dtype, None
    if device == "cpu":
        if settings.cpu_isa:
            return _dtype_of_isa(settings.cpu_isa, there)
        is_small = checkpoint in ("float16", "bfloat16")
        return ("bfloat16" if is_small and there.has_cpu_bfloat16 else "float32"), None
    has_bfloat16 = device in there.bfloat16_devices
    if checkpoint == "float16" or not has_bfloat16:
        return "float16", None
    if checkpoint == "bfloat16" or device == "xpu":
        return "bfloat16", None
    return "float16", None


def _dtype_of_isa(isa: str, there: Machine) -> tuple[Dtype, str | None]:
    """The precision that CPU_ISA asks for."""
    flags = CPU_ISAS.get(isa.lower())
    if flags is None:
        raise UsageError(f"CPU_ISA={isa!r}: give one of {', '.join(sorted(CPU_ISAS))}, or unset it")
    if flags & there.cpu_flags or (isa.lower() == "avx512_bf16" and there.has_cpu_bfloat16):
        return "bfloat16", None
    return "float32", f"this CPU lacks {isa}; float32 is used (CPU_ISA)"


def use_threads(wanted: int | None) -> int:
    """Sets how many threads compute, and gives the number.

    Without a wish it is what OMP_NUM_THREADS says, else the cores this process may use.
    """
    import torch

    if wanted is not None and wanted < 1:
        raise UsageError(f"--num-threads {wanted}: give 1 or more")
    if wanted is None and os.environ.get("OMP_NUM_THREADS"):
        return torch.get_num_threads()  # torch has read the variable
    torch.set_num_threads(wanted or _usable_cores())
    return torch.get_num_threads()


def bound_kernel_caches() -> None:
    """Keeps torch's CPU kernels from remembering every shape they have met.

    A kernel is made for each number of rows and kept, 0.5 to 4 MB each (torch 2.13): a process
    whose steps differ in size grew by 2 to 6 GB until the libraries' own limit of 1024 a cache.
    Must come before the first product; what the user has set is left alone.
    """
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, str(KERNEL_CACHE))


def torch_dtype(name: str) -> torch.dtype:
    """The torch type of this name."""
    import torch

    return getattr(torch, name)


def _usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_flags() -> frozenset[str]:
    """Feature flags of the CPU, where the system tells them."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return frozenset()
    for line in path.read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()
