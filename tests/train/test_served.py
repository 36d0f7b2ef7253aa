"""What the training commands wrote is served: distilled students, T5 and its adapters."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from in_process import serving

from fastchat.engine.choose import EngineSettings
from fastchat.model.load import ModelSettings
from fastchat.serve import huggingface_api
from fastchat.serve.model_worker import open_model
from fastchat.serve.worker import Worker
from fastchat.serve.worker_settings import WorkerSettings
from fastchat.train import fit
from fastchat.train.presets import TRAIN_DISTILL, TRAIN_FLANT5, TRAIN_LORA_T5, Preset

Argv = Callable[..., list[str]]

QUESTION = "What is the name of the river?"


def train(argv: list[str], preset: Preset) -> list[float]:
    """Runs a training; the losses of its steps."""
    assert fit.main(argv, prog="train", preset=preset) == 0
    out = Path(argv[argv.index("--output_dir") + 1])
    state = json.loads((out / "trainer_state.json").read_text("utf-8"))
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


async def ask(folder: Path) -> tuple[str, str]:
    """What a worker over the folder answers greedily: at once, and piece by piece."""
    model = ModelSettings(model_path=str(folder), device="cpu", num_threads=1)
    engine = await open_model(model, EngineSettings(max_running=4))
    asked: dict[str, Any] = {
        "model": "student",
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": 20,
    }
    try:
        worker = Worker({"student": engine}, WorkerSettings())
        async with (
            serving(worker.app) as url,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        ):
            whole: Any = await client.chat.completions.create(**asked)
            stream: Any = await client.chat.completions.create(**asked, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    finally:
        await engine.stop(drain_s=0.0)
    assert whole.usage.completion_tokens > 0
    return whole.choices[0].message.content, "".join(pieces)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [{"kd_alpha": 0.7}, {"kd_alpha": 0.0, "kd_beta": 0.5}],
    ids=["output", "hidden states"],
)
def test_a_distilled_student_answers_at_a_worker(
    flags: dict[str, object], tiny_teacher: Path, argv_for: Argv, tmp_path: Path
) -> None:
    common: dict[str, object] = {"learning_rate": 1e-2, "max_steps": 40, "logging_steps": 1}
    argv = argv_for(teacher_model_name_or_path=tiny_teacher, **common, **flags)
    losses = train(argv, TRAIN_DISTILL)
    assert losses[-1] < 0.8 * losses[0]
    whole, streamed = asyncio.run(ask(tmp_path / "out"))
    assert whole and streamed == whole


def generated(folder: Path, base: Path | None) -> str:
    """What transformers' own generation makes of the question; of base and adapter by peft."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model: Any = AutoModelForSeq2SeqLM.from_pretrained(base or folder)
    if base:
        model = PeftModel.from_pretrained(model, folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, tokenize=False
    )
    ids = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    made = model.eval().generate(input_ids=torch.tensor([ids]), max_new_tokens=20, do_sample=False)
    return tokenizer.decode(made[0], skip_special_tokens=True)


@pytest.mark.slow
@pytest.mark.parametrize("preset", [TRAIN_FLANT5, TRAIN_LORA_T5], ids=["all weights", "adapter"])
def test_a_trained_t5_answers_at_a_worker_and_in_the_terminal(
    preset: Preset,
    tiny_t5: Path,
    argv_for: Argv,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags: dict[str, object] = {"learning_rate": 3e-2, "max_steps": 80, "logging_steps": 1}
    argv = argv_for(model_name_or_path=tiny_t5, **flags)
    if preset is TRAIN_LORA_T5:
        argv += ["--lora_r", "32", "--lora_target_modules", "q", "k", "v", "o", "wi", "wo"]
    losses = train(argv, preset)
    assert losses[-1] < 0.8 * losses[0]
    out = tmp_path / "out"
    whole, streamed = asyncio.run(ask(out))
    assert whole and streamed == whole
    assert whole == generated(out, base=tiny_t5 if preset is TRAIN_LORA_T5 else None)
    capsys.readouterr()
    words = ["--model-path", str(out), "--message", QUESTION, "--temperature", "0"]
    words += ["--max-new-tokens", "20", "--repetition_penalty", "1", "--device", "cpu"]
    assert huggingface_api.main(words) == 0
    assert f": {QUESTION}\n" in (said := capsys.readouterr().out)
    assert whole.strip() in said
