"""transformers' Trainer over our examples, on any device, and what watches it.

Imports torch and transformers at once: it is imported when training begins.
"""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Sampler
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from fastchat.train.account import Account
from fastchat.train.arguments import Arguments
from fastchat.train.measuring import MeasuredTrainer, TrainingAccount
from fastchat.train.preflight import plan_training
from fastchat.train.sources import Batches, TrainingData
from fastchat.train.streaming import EndlessRows, StreamedExamples


class ShardsAnywhere(Trainer):
    """Shards on CPUs too, where accelerate leaves FSDP aside without a word."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if self.args.fsdp_plugin_args is not None and not self.is_fsdp_enabled:
            shard_without_accelerator(self)


class ExampleTrainer(MeasuredTrainer, ShardsAnywhere):
    """Knows the lengths of our examples without reading each.

    Args:
        data: TrainingData, or what is like it for pairs.
    """

    takes_plain_batches: ClassVar[bool] = False
    """Whether the loss needs padded conversations with logits at every position."""

    def __init__(self, arguments: Arguments, *, data: Any, **given: Any) -> None:
        self.arguments = arguments
        model = given["model"]
        train, held_out, plan = data.train, data.held_out, None
        self.batches: Batches | None = None
        if isinstance(data, TrainingData):
            batches = data.batches_for(model, plain=self.takes_plain_batches)
            train, held_out, collate = batches.train, batches.held_out, batches.collate
            plan = plan_training(arguments, data, batches, model=model)
            self.batches = batches
        else:
            collate = data.collate_for(model)
        arguments.training.remove_unused_columns = False
        super().__init__(
            args=arguments.training,
            train_dataset=train,
            eval_dataset=held_out,
            data_collator=collate,
            training_account=TrainingAccount(
                plan, (lambda: data.account.to_json()) if plan is not None else None
            ),
            **given,
        )

    def create_optimizer(self, model: Any = None) -> Any:
        rate = self.arguments.fit.muon_learning_rate
        whole = model or self.model
        if rate is None or whole is None or self.optimizer is not None:
            return super().create_optimizer(model)
        from fastchat.train.muon import Muon

        self.optimizer = Muon(
            whole.named_parameters(),
            lr=self.args.learning_rate,
            matrix_lr=rate,
            betas=(self.args.adam_beta1, self.args.adam_beta2),
            eps=self.args.adam_epsilon,
            weight_decay=self.args.weight_decay,
        )
        return self.optimizer

    def get_train_dataloader(self) -> DataLoader[Any]:
        if not isinstance(self.train_dataset, StreamedExamples):
            return super().get_train_dataloader()
        # Every process has a stream of its own: nothing is left for accelerate to share out.
        return DataLoader(
            EndlessRows(self.train_dataset),
            batch_size=self._train_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "train_runtime" in logs and isinstance(self.train_dataset, StreamedExamples):
            parts = gather_object([self.train_dataset.account.to_json()])
            total = Account()
            for part in parts:
                total.add(Account.from_json(part))
            self.training_account.data = total.to_json
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        return LengthGroupedSampler(
            self.args.train_batch_size * self.args.gradient_accumulation_steps,
            lengths=self.train_dataset.lengths(),  # pyright: ignore
        )


class FinishCheckpoints(TrainerCallback):
    """Makes every checkpoint a folder that can be served."""

    def __init__(self, finish: Callable[[Path], None]) -> None:
        self.finish = finish

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.is_world_process_zero:
            self.finish(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")


class BeforeFirstStep(TrainerCallback):
    """Calls a function once the model is spread over the processes, before it learns."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.act()


class StopOnSignal(TrainerCallback):
    """Ends a training after the step under way when SIGTERM comes, with a checkpoint.

    All processes agree on the step, since the signal does not reach them at the same moment.
    """

    def __init__(self) -> None:
        self.was_asked = False
        self.stopped = False
        self._before: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._on_signal)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if not self.stopped and self._anybody_was_asked(args):
            self.stopped = True
            control.should_save = True
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.was_asked = True
        # A second signal ends the process as it would without us.
        signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)

    def _anybody_was_asked(self, args: TrainingArguments) -> bool:
        if args.world_size == 1:
            return self.was_asked
        asked = torch.tensor(int(self.was_asked), device=args.device)
        torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX)
        return bool(asked)


def launch_note(trainer: Trainer) -> str:
    """How the training is really spread over processes."""
    accelerator = trainer.accelerator
    match accelerator.distributed_type.name:
        case "NO":
            way = "one process"
        case "FSDP":
            way = f"FSDP{getattr(accelerator.state.fsdp_plugin, 'fsdp_version', 1)}"
        case "DEEPSPEED":
            plugin: Any = accelerator.state.deepspeed_plugin
            way = f"DeepSpeed ZeRO-{plugin.zero_stage}"
        case _:
            way = "DDP, every process with the whole model"
    return f"training on device={accelerator.device} processes={accelerator.num_processes} by {way}"


def shard_without_accelerator(trainer: Trainer) -> None:
    """Makes FSDP2 of what accelerate set up as plain data parallelism.

    accelerate 1.15 turns to FSDP only for kinds of devices on its list, and leaves the plugin
    aside without a word on CPUs. torch shards over gloo just as well; what has to follow is the
    state that accelerate would have set.
    """
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    state = trainer.accelerator.state
    if state.distributed_type != DistributedType.MULTI_CPU:
        return
    settings: dict[str, Any] = dict(trainer.args.fsdp_plugin_args or {})
    plugin = FullyShardedDataParallelPlugin(**settings)
    if state.mixed_precision != "no":
        plugin.set_mixed_precision(state.mixed_precision)
    state.fsdp_plugin = plugin
    # Every new AcceleratorState copies what PartialState says.
    state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    trainer.is_fsdp_enabled = True
