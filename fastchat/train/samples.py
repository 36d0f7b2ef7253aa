"""Replies that the model writes at each evaluation, for people to read beside the figures."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fastchat.errors import UsageError
from fastchat.train.arguments import DataArguments
from fastchat.train.examples import IGNORED
from fastchat.train.packing import ExampleSet

logger = logging.getLogger(__name__)

SAMPLES_NAME = "samples.jsonl"


class SampleReplies(TrainerCallback):
    """Lets the model answer the first prompts of the held-out data, the likeliest token each time.

    The answers are added to `samples.jsonl` in the output folder, with the step.
    """

    def __init__(
        self, held_out: ExampleSet, tokenizer: Any, *, n: int, max_new_tokens: int
    ) -> None:
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.told: set[int] = set()
        """Steps at which the model wrote."""
        self.prompts = [prompt_of(held_out, i) for i in range(min(n, len(held_out)))]

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        # Several held-out sets give several evaluations at one step.
        if not state.is_world_process_zero or model is None or state.global_step in self.told:
            return
        self.told.add(state.global_step)
        folder = Path(str(args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / SAMPLES_NAME, "a", encoding="utf-8") as file:
            for prompt in self.prompts:
                said = {
                    "step": state.global_step,
                    "prompt": self.tokenizer.decode(prompt),
                    "reply": self._reply(model, prompt),
                }
                file.write(json.dumps(said, ensure_ascii=False) + "\n")
        logger.info("the model wrote samples=%s n=%d", folder / SAMPLES_NAME, len(self.prompts))

    def _reply(self, model: Any, prompt: Sequence[int]) -> str:
        """What the model answers."""
        inner = getattr(model, "module", model)
        was_training = inner.training
        inner.eval()
        ids = torch.tensor([prompt], device=inner.device)
        try:
            with torch.no_grad():
                written = inner.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=self.max_new_tokens,
                    do_sample=False,
                    use_cache=True,
                    pad_token_id=self.tokenizer.pad_token_id,
                    eos_token_id=self.tokenizer.eos_token_id,
                )
        finally:
            inner.train(was_training)
        return self.tokenizer.decode(written[0, len(prompt) :], skip_special_tokens=True).strip()


def prompt_of(examples: ExampleSet, index: int) -> list[int]:
    """The ids before the first reply of an example."""
    example = examples[index]
    first = int(np.flatnonzero(example.labels != IGNORED)[0])
    return example.input_ids[:first].tolist()


def add_samples(trainer: Trainer, tokenizer: Any, data: DataArguments) -> None:
    """Makes a trainer show replies at its evaluations, as `--eval_samples` asks.

    Raises:
        UsageError: nothing is held out that the prompts could be taken from.
    """
    if not data.eval_samples:
        return
    held_out: Any = trainer.eval_dataset
    if isinstance(held_out, dict):
        held_out = next(iter(held_out.values()), None)
    if held_out is None:
        raise UsageError(
            "--eval_samples takes its prompts from held-out data; name it with --eval_data_path or "
            "--eval_split."
        )
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        logger.warning("--eval_samples is left out: no process holds the whole model")
        return
    trainer.add_callback(
        SampleReplies(
            held_out, tokenizer, n=data.eval_samples, max_new_tokens=data.eval_sample_tokens
        )
    )
