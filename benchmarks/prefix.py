"""The time to the first token of a second turn, against that of the same text computed cold.

    python benchmarks/prefix.py

A conversation of about `--tokens` tokens is answered; then a second question follows the same
history and the answer. The second turn is timed as it is, and again as a conversation that nobody
has seen: with other words in front, so that nothing can be reused. One request at a time, greedy;
CPU-seconds of the process up to the first piece of text. Without --model a random Llama of 58.7 M
parameters is made by the shared tools.
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

from engine import WORDS
from processes import TOOLS, make_model, table

N_NEW = 32


async def first_token(engine: Any, messages: tuple[Any, ...]) -> tuple[float, str, int, int]:
    """CPU-seconds to the first token, the answer, tokens of the prompt and those reused."""
    from fastchat.engine.base import GenerationRequest, SamplingParams

    request = GenerationRequest(
        request_id="turn",
        messages=messages,
        max_tokens=N_NEW,
        ignore_eos=True,
        sampling=SamplingParams(temperature=0.0),
    )
    began, spent, text, usage = time.process_time(), 0.0, "", None
    async with aclosing(engine.generate(request)) as chunks:
        async for chunk in chunks:
            if chunk.token_ids and not spent:
                spent = time.process_time() - began
            text += chunk.text
            usage = chunk.usage or usage
    assert usage is not None
    return spent, text, usage.prompt_tokens, usage.cached_tokens


def history(engine: Any, n_tokens: int, seed: int) -> tuple[Any, ...]:
    """A first turn of about so many tokens, unlike those of other seeds from its first word on."""
    from fastchat.message import Message

    draw = random.Random(seed)
    words = [f"{seed}"]
    while len(engine.tokenize(" ".join(words))) < n_tokens:
        words += [draw.choice(WORDS) for _ in range(16)]
    return (Message(role="user", text=" ".join(words)),)


async def measure(args: argparse.Namespace, folder: Path, dtype: Any) -> list[str]:
    from fastchat.engine.choose import EngineSettings, open_engine
    from fastchat.message import Message
    from fastchat.model.load import ModelSettings

    engine = await open_engine(
        ModelSettings(model_path=str(folder), dtype=dtype, device="cpu", num_threads=args.threads),
        EngineSettings(scheduler="slots"),
    )
    found: list[tuple[float, float]] = []
    n_prompt = n_cached = 0
    for turn in range(args.turns + 1):
        said = history(engine, args.tokens, turn)
        _, answer, _, _ = await first_token(engine, said)
        question = (Message(role="assistant", text=answer), Message(role="user", text="And now?"))
        warm, _, n_prompt, n_cached = await first_token(engine, (*said, *question))
        foreign = Message(role="user", text=f"unseen {said[0].text}")
        cold, _, _, reused = await first_token(engine, (foreign, *question))
        assert reused < 64, "the cold turn was not cold"
        if turn:  # the first warms up
            found.append((cold, warm))
    await engine.stop()
    ratio = statistics.median(warm / cold for cold, warm in found)
    middle = [f"{1000 * statistics.median(times):.1f}" for times in zip(*found, strict=True)]
    row = [dtype, str(n_prompt), str(n_cached), *middle, f"{100 * ratio:.1f} %"]
    print(*row, file=sys.stderr, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, help="checkpoint folder")
    parser.add_argument("--tools", type=Path, default=TOOLS)
    parser.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()) / "models")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    folder = args.model or make_model(args.tools, args.models, "small")
    rows = [asyncio.run(measure(args, folder, dtype)) for dtype in args.dtypes]
    print(
        f"Model `{folder.name}`, {args.threads} compute thread(s), "
        "CPU milliseconds to the first token of a second turn\n"
    )
    header = ["dtype", "prompt tokens", "reused", "cold", "with the history reused", "ratio"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
