"""Answers held to JSON schemas: whether each is valid, and what it costs.

    python benchmarks/constrained.py
    python benchmarks/constrained.py --model path/to/checkpoint --outputs 1000

Validity: each of ten schemas is asked for many times of a model with random weights, sampled at
temperature 1; every answer must end by itself and be what the schema's own reader accepts. Cost:
eight clients ask one after another for 64 tokens each, free or held to a list without end of
one of the ten schemas; both kinds run turn by turn in one process and are compared per
CPU-second. Grammars are compiled in the turn that warms up.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

from engine import prompts_of
from processes import ROOT, TOOLS, make_model, table

sys.path.insert(0, str(ROOT / "tests"))

N_NEW = 64
SETTINGS: dict[str, dict[str, Any]] = {
    "greedily": {"temperature": 0.0},
    "at temperature 1": {"temperature": 1.0},
    "at 0.8, top-p 0.95": {"temperature": 0.8, "top_p": 0.95},
}
CLIENTS = 8


def grammar_of(schema: dict[str, Any]) -> Any:
    from fastchat.engine.base import Grammar

    return Grammar(kind="json_schema", source=json.dumps(schema), param="response_format")


def endless(schema: dict[str, Any]) -> dict[str, Any]:
    """A list of more of these than the tokens of an answer can write."""
    inner = dict(schema)
    shared = {"$defs": inner.pop("$defs")} if "$defs" in inner else {}
    return {"type": "array", "items": inner, "minItems": N_NEW, **shared}


async def text_of(engine: Any, request: Any) -> tuple[str, str, int]:
    """Text, finish reason and tokens of an answer."""
    parts, reason, n = [], "", 0
    async with aclosing(engine.generate(request)) as chunks:
        async for chunk in chunks:
            parts.append(chunk.text)
            n += len(chunk.token_ids)
            reason = chunk.finish_reason or reason
    return "".join(parts), reason, n


async def count_valid(
    engine: Any, prompt: list[int], model: Any, count: int
) -> tuple[int, int, int]:
    """How many of `count` answers are valid, how many ended by the limit, and their tokens."""
    from pydantic import ValidationError

    from fastchat.engine.base import GenerationRequest, SamplingParams

    requests = [
        GenerationRequest(
            request_id=str(i),
            prompt=tuple(prompt),
            max_tokens=800,
            sampling=SamplingParams(seed=i),
            grammar=grammar_of(model.model_json_schema()),
        )
        for i in range(count)
    ]
    answers = await asyncio.gather(*(text_of(engine, r) for r in requests))
    n_valid = 0
    for text, reason, _ in answers:
        try:
            model.model_validate_json(text)
        except ValidationError as error:
            print(model.__name__, reason, text, error, file=sys.stderr)
            continue
        n_valid += reason == "stop"
    n_cut = sum(reason == "length" for _, reason, _ in answers)
    return n_valid, n_cut, sum(n for _, _, n in answers)


async def rate(
    engine: Any,
    prompts: list[list[int]],
    schemas: list[Any] | None,
    *,
    settings: dict[str, Any],
) -> float:
    """Tokens per CPU-second of eight clients that ask one after another."""
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
                sampling=SamplingParams(seed=i, **settings),
                grammar=schemas[i % len(schemas)] if schemas else None,
            )
            _, reason, n = await text_of(engine, request)
            assert (reason, n) == ("length", N_NEW)
            made += n

    started = time.process_time()
    await asyncio.gather(*(ask() for _ in range(CLIENTS)))
    return made / (time.process_time() - started)


async def measure(args: argparse.Namespace, folder: Path) -> None:
    from schemas import SCHEMAS
    from transformers import AutoTokenizer

    from fastchat.engine.choose import EngineSettings, open_engine
    from fastchat.model.load import ModelSettings

    tokenizer = AutoTokenizer.from_pretrained(folder)
    engine = await open_engine(
        ModelSettings(model_path=str(folder), device="cpu", num_threads=args.threads),
        EngineSettings(max_running=32),
    )
    prompt = prompts_of(tokenizer, 1, 0)[0]
    rows, n_valid = [], 0
    each = args.outputs // len(SCHEMAS)
    for model in SCHEMAS:
        valid, cut, n = await count_valid(engine, prompt, model, each)
        n_valid += valid
        rows.append([model.__name__, f"{valid} of {each}", str(cut), f"{n / each:.0f}"])
    total = each * len(SCHEMAS)
    print(f"Model `{folder.name}`: {n_valid} of {total} answers valid\n")
    print(table(["schema", "valid", "cut by the limit", "tokens each"], rows))
    held = [grammar_of(endless(model.model_json_schema())) for model in SCHEMAS]
    costs = [await cost(engine, tokenizer, held, name, turns=args.turns) for name in SETTINGS]
    await engine.stop()
    print(f"\n{CLIENTS} concurrent, {N_NEW} tokens each, {args.threads} compute thread(s)\n")
    head = ["drawn", "tokens per CPU-second, free", "held to a schema", "more time per token"]
    print(table(head, costs))


async def cost(engine: Any, tokenizer: Any, held: list[Any], name: str, *, turns: int) -> list[str]:
    """A row of the table: free and held answers, turn by turn."""
    settings = SETTINGS[name]
    free_rates, held_rates = [], []
    for turn in range(turns + 1):
        # Prompts of their own, so that neither finds the other's in the prefix cache.
        both = [
            prompts_of(tokenizer, 4 * CLIENTS, 1000 * i + 100 * list(SETTINGS).index(name) + turn)
            for i in range(2)
        ]
        free = await rate(engine, both[0], None, settings=settings)
        constrained = await rate(engine, both[1], held, settings=settings)
        if turn:  # the first warms up
            free_rates.append(free)
            held_rates.append(constrained)
    slower = statistics.median(f / h - 1 for f, h in zip(free_rates, held_rates, strict=True))
    middle = [f"{statistics.median(rates):.0f}" for rates in (free_rates, held_rates)]
    return [name, *middle, f"{100 * slower:.1f} %"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, help="checkpoint folder")
    parser.add_argument("--tools", type=Path, default=TOOLS)
    parser.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()) / "models")
    parser.add_argument("--outputs", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    asyncio.run(measure(args, args.model or make_model(args.tools, args.models, "small")))


if __name__ == "__main__":
    main()
