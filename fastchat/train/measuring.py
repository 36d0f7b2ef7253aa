"""What a training did with its tokens, as it goes on and when it is over.

Speed, padding and learned tokens stand in every log line; the losses of held-out data are means
over tokens, whatever the batches were. Imports torch and transformers at once.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from fastchat.train.packing import COUNTS
from fastchat.train.preflight import Plan

REPORT_NAME = "training_report.json"


class Spent(NamedTuple):
    """Tokens that went through the model."""

    n_tokens: int = 0
    n_positions: int = 0
    """Tokens and padding."""
    n_learned: int = 0

    def plus(self, other: "Spent") -> "Spent":
        """The sum."""
        return Spent(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: "Spent") -> "Spent":
        """The difference."""
        return Spent(*(a - b for a, b in zip(self, other, strict=True)))

    @property
    def padding_share(self) -> float:
        """Share of the positions that hold no token."""
        return 1 - self.n_tokens / max(self.n_positions, 1)


class TrainingAccount(TrainerCallback, ExportableState):
    """Keeps the plan beside what really happened: in `trainer_state.json` and in a report."""

    def __init__(
        self, plan: Plan | None = None, data: Callable[[], dict[str, Any]] | None = None
    ) -> None:
        self.plan = plan
        self.data = data
        """Gives the counts of the data, which of lazy data grow with the training."""
        self.spent = Spent()
        self.busy_s = 0.0
        """Seconds of training, evaluation and saving aside."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint remembers."""
        return {"args": {}, "attributes": self.to_json()}

    def to_json(self) -> dict[str, Any]:
        """The plan and what happened."""
        seconds = max(self.busy_s, 1e-9)
        done: dict[str, Any] = {
            "tokens": self.spent.n_tokens,
            "supervised_tokens": self.spent.n_learned,
            "padding_share": round(self.spent.padding_share, 4),
            "seconds": round(self.busy_s, 3),
            "tokens_per_second": round(self.spent.n_tokens / seconds, 1),
            "supervised_tokens_per_second": round(self.spent.n_learned / seconds, 1),
        }
        if self.plan is None:
            return {"done": done}
        return {
            "data": self.data() if self.data else self.plan.account,
            "plan": self.plan.to_json(),
            "done": done | self.plan.actual_cost(n_tokens=self.spent.n_tokens, seconds=seconds),
        }

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        remembered: Any = state.stateful_callbacks
        remembered[type(self).__name__] = self.state()
        if state.is_world_process_zero:
            path = Path(str(args.output_dir)) / REPORT_NAME
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.to_json(), indent=2) + "\n", "utf-8")


class MeasuredTrainer(Trainer):
    """Counts tokens while it trains, and correct ones while it evaluates."""

    def __init__(self, *args: Any, training_account: TrainingAccount, **given: Any) -> None:
        self.training_account = training_account
        self._logged = Spent()
        self._mine = Spent()
        self._logged_at: float | None = None
        self._idle_s = 0.0
        self._held_out = torch.zeros(3, dtype=torch.float64)
        callbacks = [*(given.pop("callbacks", None) or ()), training_account]
        super().__init__(*args, callbacks=callbacks, **given)

    def _prepare_inputs(self, inputs: Any) -> Any:
        if isinstance(inputs, dict) and COUNTS in inputs:
            counts = Spent(*inputs[COUNTS])
            inputs = {name: value for name, value in inputs.items() if name != COUNTS}
            if self.model is not None and self.model.training:
                self._logged_at = self._logged_at or time.perf_counter()
                self._mine = self._mine.plus(counts)
        return super()._prepare_inputs(inputs)

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        if model.training or not return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels, shifted = inputs.get("labels"), inputs.get("shift_labels")
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        logits = getattr(outputs, "logits", None)
        if labels is not None and logits is not None:
            if shifted is None and self._loss_shifts_labels:
                logits, shifted = logits[:, :-1], labels[:, 1:]
            targets = labels if shifted is None else shifted
            real = targets != -100
            n = real.sum()
            right = (logits.argmax(dim=-1)[real] == targets[real]).sum()
            if num_items_in_batch is not None and self.model_accepts_loss_kwargs:
                # What comes back is scaled by all processes' tokens, and by their number.
                scale = torch.as_tensor(num_items_in_batch, device=loss.device).sum()
                total = loss.detach() * scale / self.args.world_size
                if not self.args.average_tokens_across_devices:
                    total = loss.detach() * scale
            else:
                total = loss.detach() * n
            found = torch.stack([total.double(), right.double(), n.double()])
            self._held_out = self._held_out.to(found.device) + found
        return loss, outputs

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        began = time.perf_counter()
        self._held_out = torch.zeros(3, dtype=torch.float64)
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        loss, right, n = self._sum(self._held_out)
        if n and output.metrics is not None:
            output.metrics[f"{metric_key_prefix}_loss"] = loss / n
            output.metrics[f"{metric_key_prefix}_token_accuracy"] = right / n
        self._idle_s += time.perf_counter() - began
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        account = self.training_account
        if "loss" in logs or "train_runtime" in logs:
            self._settle()
        if "loss" in logs and self._logged_at is not None:
            since = account.spent.minus(self._logged)
            now = time.perf_counter()
            seconds = max(now - self._logged_at - self._idle_s, 1e-9)
            logs["tokens_per_second"] = round(since.n_tokens / seconds, 1)
            logs["supervised_tokens"] = account.spent.n_learned
            logs["padding_share"] = round(since.padding_share, 4)
            account.busy_s += seconds
            self._logged, self._logged_at, self._idle_s = account.spent, now, 0.0
        elif "train_runtime" in logs and self._logged_at is not None:
            now = time.perf_counter()
            account.busy_s += max(now - self._logged_at - self._idle_s, 0.0)
            self._logged_at, self._idle_s = now, 0.0
        super().log(logs, start_time)

    def _settle(self) -> None:
        """Adds what all processes spent since the last time to the account."""
        counts = self._sum(torch.tensor(self._mine, dtype=torch.float64))
        self.training_account.spent = self.training_account.spent.plus(Spent(*map(int, counts)))
        self._mine = Spent()

    def _sum(self, values: torch.Tensor) -> list[float]:
        """The values added over all processes."""
        if self.args.world_size > 1:
            values = self.accelerator.reduce(values.to(self.args.device), "sum")  # pyright: ignore[reportAssignmentType]
        return values.tolist()
