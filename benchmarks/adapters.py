"""Three adapters and their base in one batch against the base alone, in one process.

    python benchmarks/adapters.py
    python benchmarks/adapters.py --batches 8 --rank 32

Two engines over the same model get the same prompts of about 98 tokens, turn by turn, and are
compared per CPU-second. One has no adapters. In the other every fourth request is the base's and
the rest belong to three adapters, so that each step mixes all four: adapters as peft makes them
for a Llama unless told otherwise (rank 8, queries and values), and adapters of all seven linear
layers. `--batches` clients ask one after another, 64 greedy tokens each, turn after turn for
--seconds; the ratio is the middle one of the turns. Without --model a random Llama of 58.7 M
parameters is made by the shared tools; the adapters are random too. On a model of this width
three adapters of all layers are 6 % of its weights, of a 7 B model 1 %.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from engine import prompts_of
from processes import TOOLS, make_model, table

N_NEW = 64
TARGET = "85 %"
MIN_TURNS = 2
MIN_PROMPTS = 16
"""A turn of fewer is too short to time."""
TARGETS = {
    "q, v": ("q_proj", "v_proj"),
    "all": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}


def make_adapter(
    base: Path, folder: Path, *, rank: int, seed: int, targets: Sequence[str] = TARGETS["all"]
) -> Path:
    """A random adapter in peft's files, of the layers named in every block."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Any] = {}
    with safe_open(base / "model.safetensors", "pt") as weights:
        for name in weights.keys():  # noqa: SIM118  # not a mapping
            if not name.endswith(tuple(f".{target}.weight" for target in targets)):
                continue
            n_out, n_in = weights.get_slice(name).get_shape()
            stem = "base_model.model." + name.removesuffix(".weight")
            tensors[f"{stem}.lora_A.weight"] = torch.randn(rank, n_in, generator=generator) / n_in
            tensors[f"{stem}.lora_B.weight"] = torch.randn(n_out, rank, generator=generator)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "base_model_name_or_path": str(base),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


async def rate(engines: list[Any], prompts: list[list[int]], batch: int) -> float:
    """Tokens per CPU-second with `batch` clients; the engines take the requests in turn."""
    from fastchat.engine.base import GenerationRequest, SamplingParams

    numbers, made = iter(range(len(prompts))), 0

    async def ask() -> None:
        nonlocal made
        for i in numbers:
            request = GenerationRequest(
                request_id=str(i),
                prompt=tuple(prompts[i]),
                max_tokens=N_NEW,
                ignore_eos=True,
                sampling=SamplingParams(temperature=0.0),
            )
            async with aclosing(engines[i % len(engines)].generate(request)) as chunks:
                async for chunk in chunks:
                    made += len(chunk.token_ids)

    started = time.process_time()
    await asyncio.gather(*(ask() for _ in range(batch)))
    return made / (time.process_time() - started)


async def compare(args: argparse.Namespace, base: Path, dtype: Any) -> list[list[str]]:
    """A row for each kind of adapter and batch size."""
    from transformers import AutoTokenizer

    from fastchat.engine.adapted import AdaptedEngine
    from fastchat.engine.choose import EngineSettings, open_engine
    from fastchat.model.load import ModelSettings

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = ModelSettings(model_path=str(base), dtype=dtype, device="cpu", num_threads=args.threads)
    settings = EngineSettings(
        max_running=max(args.batches), max_cached_tokens=6144, scheduler="slots"
    )
    rows = []
    for kind, targets in TARGETS.items():
        alone: Any = await open_engine(model, settings)
        mixed: Any = await open_engine(model, settings)
        views = [mixed]
        for i in range(3):
            with tempfile.TemporaryDirectory() as folder:
                make_adapter(base, Path(folder), rank=args.rank, seed=i, targets=targets)
                await mixed.load_adapter(f"adapter-{i}", folder)
            views.append(AdaptedEngine(mixed, f"adapter-{i}", path=f"adapter-{i}"))
        for batch in args.batches:
            found: list[tuple[float, float]] = []
            started = 0.0
            while len(found) < MIN_TURNS or time.monotonic() - started < args.seconds:
                n_prompts = max(batch, MIN_PROMPTS)
                prompts = prompts_of(tokenizer, n_prompts, 1000 * batch + len(found))
                one = await rate([alone], prompts, batch)
                both = one, await rate(views, prompts, batch)
                if started:
                    found.append(both)
                else:  # the first turn warms up
                    started = time.monotonic()
            ratio = statistics.median(b / a for a, b in found)
            middle = [f"{statistics.median(rates):.0f}" for rates in zip(*found, strict=True)]
            rows.append([dtype, kind, str(batch), *middle, f"{100 * ratio:.0f} %", TARGET])
            print(*rows[-1], file=sys.stderr, flush=True)
        await alone.stop()
        await mixed.stop()
        del alone, mixed, views
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, help="checkpoint folder")
    parser.add_argument("--tools", type=Path, default=TOOLS)
    parser.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()) / "models")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=12.0, help="for each row of the table")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    base = args.model or make_model(args.tools, args.models, "small")
    rows: list[list[str]] = []
    for dtype in args.dtypes:
        rows += asyncio.run(compare(args, base, dtype))
    print(
        f"Model `{base.name}`, three adapters of rank {args.rank}, "
        f"{args.threads} compute thread(s), tokens per CPU-second\n"
    )
    header = ["dtype", "layers", "batch", "base alone", "three adapters + base", "ratio", "target"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
