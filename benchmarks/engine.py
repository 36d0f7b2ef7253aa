"""The engine alone against static-batch `generate` of transformers, in one process.

    python benchmarks/engine.py
    python benchmarks/engine.py --model path/to/checkpoint --dtypes float32 --batches 8

Both get the same prompts of about 98 tokens, in the same dtype, on the same threads, turn by
turn, and are compared per CPU-second, so that other work on the machine weighs on both alike.
`generate` answers a whole batch greedily, 64 tokens each, all starting and ending together.
The engine always has as many requests in the air, which join and leave: 32 to 96 tokens each
(64 on average), sampled with different settings, as a server would see them; the clock stops
before they run out. Without --model a random Llama of 58.7 M parameters is made by the shared
tools.
"""

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

from processes import TOOLS, make_model, table

N_NEW = 64
SETTINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.7, "top_p": 0.95},
    {"temperature": 1.0, "top_k": 40, "repetition_penalty": 1.1},
    {"temperature": 0.8, "min_p": 0.05, "presence_penalty": 0.5, "frequency_penalty": 0.2},
)
WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world")


def prompts_of(tokenizer: Any, count: int, seed: int) -> list[list[int]]:
    """Rendered chats whose user says 32 random words."""
    draw, found = random.Random(seed), []
    for _ in range(count):
        said = " ".join(draw.choice(WORDS) for _ in range(32))
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": said}], tokenize=False, add_generation_prompt=True
        )
        found.append(tokenizer(text, add_special_tokens=False).input_ids)
    return found


def static_rate(model: Any, tokenizer: Any, prompts: list[list[int]]) -> float:
    """Tokens per CPU-second of `generate` over one padded batch."""
    import torch
    from transformers import GenerationConfig

    config = GenerationConfig(
        max_new_tokens=N_NEW, min_new_tokens=N_NEW, do_sample=False, pad_token_id=0
    )
    batch = tokenizer.pad({"input_ids": prompts}, return_tensors="pt", padding_side="left")
    started = time.process_time()
    with torch.inference_mode():
        out = model.generate(**batch, generation_config=config)
    n = (out.shape[1] - batch["input_ids"].shape[1]) * len(prompts)
    return n / (time.process_time() - started)


async def engine_rate(engine: Any, prompts: list[list[int]], batch: int) -> float:
    """Tokens per CPU-second of the engine with `batch` clients that ask one after another."""
    from fastchat.engine.base import GenerationRequest, SamplingParams

    numbers, draw = iter(range(len(prompts))), random.Random(len(prompts))
    wanted, made = len(prompts) * N_NEW * 3 // 4, 0

    async def ask() -> None:
        nonlocal made
        for i in numbers:
            request = GenerationRequest(
                request_id=str(i),
                prompt=tuple(prompts[i]),
                max_tokens=draw.choice((N_NEW // 2, N_NEW, N_NEW * 3 // 2)),
                ignore_eos=True,
                sampling=SamplingParams(seed=i, **SETTINGS[i % len(SETTINGS)]),
            )
            async with aclosing(engine.generate(request)) as chunks:
                async for chunk in chunks:
                    made += len(chunk.token_ids)
                    if made >= wanted:
                        return

    started = time.process_time()
    await asyncio.gather(*(ask() for _ in range(batch)))
    return made / (time.process_time() - started)


async def compare(args: argparse.Namespace, folder: Path, dtype: str) -> list[list[str]]:
    """A row per batch size."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from fastchat.engine.choose import EngineSettings, open_engine
    from fastchat.model.load import ModelSettings

    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation="sdpa"
    ).eval()
    rows = []
    for batch in args.batches:
        engine = await open_engine(
            ModelSettings(
                model_path=str(folder), dtype=dtype, device="cpu", num_threads=args.threads
            ),
            EngineSettings(max_running=batch, scheduler="slots"),
        )
        static, ours = [], []
        for turn in range(args.turns + 1):
            seed = 1000 * batch + turn
            one = static_rate(model, tokenizer, prompts_of(tokenizer, batch, seed))
            two = await engine_rate(engine, prompts_of(tokenizer, 4 * batch, seed), batch)
            if turn:  # the first warms up
                static.append(one)
                ours.append(two)
        await engine.stop()
        ratio = statistics.median(b / a for a, b in zip(static, ours, strict=True))
        middle = [f"{statistics.median(rates):.0f}" for rates in (static, ours)]
        rows.append([dtype, str(batch), *middle, f"{100 * ratio:.0f} %"])
        print(*rows[-1], file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, help="checkpoint folder")
    parser.add_argument("--tools", type=Path, default=TOOLS)
    parser.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()) / "models")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    folder = args.model or make_model(args.tools, args.models, "small")
    rows: list[list[str]] = []
    for dtype in args.dtypes:
        rows += asyncio.run(compare(args, folder, dtype))
    print(f"Model `{folder.name}`, {args.threads} compute thread(s), tokens per CPU-second\n")
    print(table(["dtype", "batch", "static generate", "engine", "engine / static"], rows))


if __name__ == "__main__":
    main()
