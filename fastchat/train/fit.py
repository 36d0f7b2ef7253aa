"""The one path from a model and conversations to a trained folder.

Load, prepare the examples, adapt, train with transformers' Trainer, save: in one process, under
DDP, FSDP and DeepSpeed alike, for every method. What comes out is a `--model-path`, or the folder
of an adapter: weights as safetensors, the config, the tokenizer's files as they were, and the
chat template that was trained on.
"""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastchat import logs
from fastchat.errors import FastChatError, UsageError
from fastchat.train.arguments import Arguments, parse
from fastchat.train.presets import TRAIN, Preset

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

    from fastchat.template import Template

logger = logging.getLogger(__name__)

STOPPED = 143
"""Exit status of a training that SIGTERM ended after its checkpoint."""


def main(argv: Sequence[str] | None = None, *, prog: str, preset: Preset = TRAIN) -> int:
    """A training command: reads the flags, trains, and gives the exit status."""
    logs.setup()
    status = _status(argv, prog=prog, preset=preset)
    if _leave_process_group():
        # Threads of gloo that sharded modules still hold abort a process that Python takes down.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _status(argv: Sequence[str] | None, *, prog: str, preset: Preset) -> int:
    """Trains, and gives the exit status."""
    try:
        folder = fit(parse(argv, prog=prog, preset=preset))
        return STOPPED if folder is None else 0
    except FastChatError as error:
        if _is_main_process():
            print(f"{prog.rpartition('.')[2]}: {error.message}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 130


def fit(arguments: Arguments) -> Path | None:
    """Trains as the arguments say.

    Returns the folder of the trained model, which a dry run leaves alone; None where SIGTERM ended
    the training, whose newest checkpoint the next run goes on from.
    """
    from transformers import set_seed

    from fastchat.model.placement import bound_kernel_caches
    from fastchat.train import lora
    from fastchat.train.checkpoints import checkpoint_to_resume
    from fastchat.train.folder import FolderFinisher, check_saving, save
    from fastchat.train.loading import add_tokens, fit_vocabulary, load_model, load_tokenizer
    from fastchat.train.samples import add_samples
    from fastchat.train.sources import TrainingData, drop_cache
    from fastchat.train.trainer import (
        BeforeFirstStep,
        FinishCheckpoints,
        StopOnSignal,
        launch_note,
    )

    bound_kernel_caches()
    training = arguments.training
    _quiet_libraries(training)
    say = logger.info if training.process_index == 0 else logger.debug
    _refuse_what_does_not_fit(arguments)
    for note in (*arguments.notes, *lora.check(arguments.lora, training)):
        say(note)
    set_seed(training.seed)
    _choose_loss(arguments)

    template = choose_template(arguments)
    tokenizer = load_tokenizer(arguments)
    n_new = add_tokens(tokenizer, arguments)
    data = open_data(arguments, tokenizer, template=template)

    model = load_model(arguments)
    fit_vocabulary(model, tokenizer, n_new=n_new, keeps_rows=arguments.lora.lora)
    if training.ddp_find_unused_parameters is None and not _has_experts(model):
        training.ddp_find_unused_parameters = False
    if arguments.lora.lora and arguments.preset.method != "dpo":
        model = lora.adapt(model, arguments, batches=lambda: _batches(arguments, model, data))
    say(global_batch_note(arguments))
    finish = FolderFinisher(
        arguments,
        tokenizer=tokenizer,
        template=template,
        has_new_tokens=n_new > 0,
        chat_template=chat_template_of(arguments, template) or getattr(data, "chat_template", None),
    )
    stop = StopOnSignal()
    trainer = make_trainer(
        arguments,
        model,
        tokenizer=tokenizer,
        data=data,
        callbacks=[FinishCheckpoints(finish), stop],
    )
    say(launch_note(trainer))
    show_plan(trainer, tokenizer, arguments)
    if isinstance(data, TrainingData):
        add_samples(trainer, tokenizer, arguments.data)
    if arguments.data.dry_run:
        drop_cache(arguments)
        return finish.folder
    if arguments.fit.check_save:
        trainer.add_callback(BeforeFirstStep(lambda: check_saving(trainer, finish)))
    checkpoint = checkpoint_to_resume(training.resume_from_checkpoint, finish.folder)
    if checkpoint:
        say("resuming from checkpoint=%s", checkpoint)
    if lora.moves_base(arguments.lora) and training.process_index == 0:
        lora.keep_start(model, finish.folder)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop.stopped:
        say("stopped by a signal checkpoint step=%d; run again to go on", trainer.state.global_step)
        return None
    trainer.save_state()
    save(trainer, finish)
    drop_cache(arguments)
    say("trained model saved folder=%s", finish.folder)
    return finish.folder


def show_plan(trainer: "Trainer", tokenizer: Any, arguments: Arguments) -> None:
    """Says what the training will be, where that can be counted."""
    from fastchat.train.preflight import announce
    from fastchat.train.trainer import ExampleTrainer

    if not isinstance(trainer, ExampleTrainer) or trainer.batches is None:
        return
    plan = trainer.training_account.plan
    if plan is not None and arguments.training.process_index == 0:
        stream = sys.stdout if arguments.data.dry_run else sys.stderr
        announce(
            plan,
            trainer.batches,
            tokenizer,
            say=print if arguments.data.dry_run else logger.info,
            colour=stream.isatty() and "NO_COLOR" not in os.environ,
        )


def _choose_loss(arguments: Arguments) -> None:
    """Lets Yuan 2's three flags say what of a conversation is learned."""
    ways = {
        "last_reply": arguments.yuan.last_response_loss,
        "each_reply": arguments.yuan.split_example_loss,
        "all_replies": arguments.yuan.efficient_loss,
    }
    chosen = [way for way, is_asked in ways.items() if is_asked]
    if len(chosen) > 1:
        raise UsageError(
            "of --last_response_loss, --split_example_loss and --efficient_loss one can be True."
        )
    for way in chosen:
        arguments.data.loss_on = way  # pyright: ignore[reportAttributeAccessIssue]


def choose_template(arguments: Arguments) -> "Template":
    """The template to write conversations in: by its name, or by the path of the model."""
    from fastchat.families.registry import registry

    name = arguments.model.conv_template
    if name != "auto":
        return registry().template(name)
    recognition = registry().recognise(arguments.model.model_name_or_path)
    name = recognition.serving_template
    if arguments.training.process_index == 0:
        logger.info("template=%s (%s)", name, recognition.reason)
    return registry().template(name)


def open_data(arguments: Arguments, tokenizer: Any, *, template: "Template") -> Any:
    """The examples that the method learns from: TrainingData, or what is like it for pairs."""
    match arguments.preset.method:
        case "seq2seq":
            from fastchat.train import seq2seq

            return seq2seq.open_data(arguments, tokenizer, template=template)
        case "dpo":
            from fastchat.train import dpo

            return dpo.open_data(arguments, tokenizer, template=template)
        case "causal":
            from fastchat.train import sources

            return sources.open_data(arguments, tokenizer, template=template)


def chat_template_of(arguments: Arguments, template: "Template") -> str | None:
    """The Jinja of a method that writes conversations its own way."""
    if arguments.preset.method != "seq2seq":
        return None
    from fastchat.train import seq2seq

    return seq2seq.chat_template(template)


def make_trainer(
    arguments: Arguments,
    model: "PreTrainedModel",
    *,
    tokenizer: Any,
    data: Any,
    callbacks: "Sequence[TrainerCallback]",
) -> "Trainer":
    """The trainer of the method."""
    given: dict[str, Any] = {"model": model, "data": data, "callbacks": list(callbacks)}
    if arguments.preset.method == "dpo":
        from fastchat.train.dpo import PairTrainer

        return PairTrainer(arguments, tokenizer=tokenizer, **given)
    if arguments.distill.teacher_model_name_or_path is not None:
        from fastchat.train.distill import DistillTrainer, load_teacher

        teacher = load_teacher(arguments, student=model, tokenizer=tokenizer)
        return DistillTrainer(arguments, teacher=teacher, **given)
    from fastchat.train.trainer import ExampleTrainer

    if arguments.preset.method == "seq2seq":
        from fastchat.train.seq2seq import reply_loss

        given["compute_loss_func"] = reply_loss
    return ExampleTrainer(arguments, **given)


def _has_experts(model: "PreTrainedModel") -> bool:
    """Whether a step may leave some of the weights out."""
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    config = model.config.get_text_config()
    return any(getattr(config, name, None) for name in names)


def _batches(arguments: Arguments, model: "PreTrainedModel", data: Any) -> Any:
    """The data as the model will see it, padded and in order; tensors alone."""
    import torch
    from torch.utils.data import DataLoader

    collate = data.collate_for(model)
    return DataLoader(
        data.train,
        batch_size=arguments.training.per_device_train_batch_size,
        collate_fn=lambda examples: {
            name: x for name, x in collate(examples).items() if isinstance(x, torch.Tensor)
        },
    )


def _quiet_libraries(training: "TrainingArguments") -> None:
    """Keeps out of the log what the caller can do nothing about."""
    from transformers.utils import logging as theirs

    if training.disable_tqdm:
        theirs.disable_progress_bar()
    # An adapter brings embeddings that have grown; peft and TRL use an old name.
    warnings.filterwarnings("ignore", "Setting `save_embedding_layers` to `True`", UserWarning)
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)


def _refuse_what_does_not_fit(arguments: Arguments) -> None:
    """Raises UsageError for flags that exclude each other or this machine."""
    training = arguments.training
    is_sharded = bool(training.fsdp or training.deepspeed)
    if arguments.fit.muon_learning_rate is not None and is_sharded:
        raise UsageError("--muon_learning_rate needs whole matrices; use it without sharding.")
    if training.use_liger_kernel and training.device.type == "cpu":
        raise UsageError("--use_liger_kernel needs a GPU; leave it out on the CPU.")
    distill = arguments.distill
    if distill.teacher_model_name_or_path is None and arguments.preset.needs_teacher:
        raise UsageError("--teacher_model_name_or_path is missing: the model to learn from.")


def global_batch_note(arguments: Arguments) -> str:
    """How many conversations one step learns from, and whether that was meant."""
    training = arguments.training
    size = (
        training.per_device_train_batch_size
        * training.gradient_accumulation_steps
        * training.world_size
    )
    note = f"global batch size {size}"
    meant = arguments.fit.global_batch_size
    if meant and meant != size:
        note += (
            f", not the {meant} of --global_batch_size: {training.world_size} processes x "
            f"{training.per_device_train_batch_size} a device x "
            f"{training.gradient_accumulation_steps} accumulated"
        )
    return note


def _is_main_process() -> bool:
    """Whether this process speaks for all of them."""
    return os.environ.get("RANK", "0") == "0"


def _leave_process_group() -> bool:
    """Ends the exchange between processes, if there was one, and says whether there was."""
    torch = sys.modules.get("torch")
    if (
        torch is None
        or not torch.distributed.is_available()
        or not torch.distributed.is_initialized()
    ):
        return False
    torch.distributed.destroy_process_group()
    return True
