"""The one path from a model and conversations to a trained folder.

Load, prepare the examples, train with transformers' Trainer, save: in one process, under
DDP and under FSDP alike. What comes out is a `--model-path`: weights as safetensors, the
config, the tokenizer's files as they were, and the chat template that was trained on.
"""

import json
import logging
import math
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastchat import logs
from fastchat.errors import DataError, FastChatError, ModelError, UsageError
from fastchat.train.arguments import Arguments, parse

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer

    from fastchat.template import Template
    from fastchat.train.sources import TrainingData

logger = logging.getLogger(__name__)

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def main(
    argv: Sequence[str] | None = None, *, prog: str, attention: Callable[[], str] | None = None
) -> int:
    """A training command: reads the flags, trains, and gives the exit status.

    attention: the implementation to use where no flag asks for one; None leaves the choice
    to transformers.
    """
    logs.setup()
    try:
        arguments = parse(argv, prog=prog)
        fit(arguments, attention=attention)
    except FastChatError as error:
        if _is_main_process():
            print(f"{prog.rpartition('.')[2]}: {error.message}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 130
    finally:
        _leave_process_group()
    return 0


def fit(arguments: Arguments, *, attention: Callable[[], str] | None = None) -> Path:
    """Trains as the arguments say; returns the folder of the trained model."""
    from transformers import set_seed

    from fastchat.families.registry import registry
    from fastchat.model.placement import bound_kernel_caches
    from fastchat.train.sources import open_data

    bound_kernel_caches()
    training = arguments.training
    say = logger.info if training.process_index == 0 else logger.debug
    for note in arguments.notes:
        say(note)
    if arguments.fit.muon_learning_rate is not None and (training.fsdp or training.deepspeed):
        raise UsageError("--muon_learning_rate needs whole matrices; use it without sharding.")
    set_seed(training.seed)

    template = registry().template(arguments.model.conv_template)
    tokenizer = load_tokenizer(arguments)
    output_dir = Path(str(training.output_dir))
    data = open_data(arguments, tokenizer, template=template)

    model = load_model(arguments, attention=attention)
    fit_vocabulary(model, tokenizer)
    say(global_batch_note(arguments))
    finish = FolderFinisher(arguments, tokenizer=tokenizer, template=template)
    trainer = make_trainer(arguments, model, data=data, finish=finish)
    checkpoint = checkpoint_to_resume(training.resume_from_checkpoint, output_dir)
    if checkpoint:
        say("resuming from checkpoint=%s", checkpoint)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_state()
    save(trainer, finish)
    say("trained model saved folder=%s", output_dir)
    return output_dir


def load_tokenizer(arguments: Arguments) -> Any:
    """The tokenizer of the model, with a padding token even where it came without one.

    Padding is masked by position, so any token serves: the end mark if there is one.
    """
    from transformers import AutoTokenizer

    path = arguments.model.model_name_or_path
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path,
            cache_dir=arguments.fit.cache_dir,
            trust_remote_code=arguments.model.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"no tokenizer can be loaded from {path}: {error}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    return tokenizer


def load_model(arguments: Arguments, *, attention: Callable[[], str] | None) -> "PreTrainedModel":
    """The model to train, its context as long as the examples may be."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    path = arguments.model.model_name_or_path
    common: dict[str, Any] = {
        "cache_dir": arguments.fit.cache_dir,
        "trust_remote_code": arguments.model.trust_remote_code,
    }
    try:
        config = AutoConfig.from_pretrained(path, **common)
        extend_context(config, arguments.fit.model_max_length, kind=arguments.model.rope_scaling)
        chosen = arguments.model.attn_implementation or (attention and attention())
        return AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=getattr(torch, arguments.model.model_dtype),
            **({"attn_implementation": chosen} if chosen else {}),
            **common,
        )
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"the model {path} cannot be loaded: {error}") from error


def extend_context(config: Any, length: int, *, kind: str) -> None:
    """Makes a config with rotary positions reach `length` tokens.

    The factor is the published one, the length over the model's own, rounded up; a scaling
    that is already there is multiplied. The base frequency stays.
    """
    own = getattr(config, "max_position_embeddings", None)
    if not own or length <= own:
        return
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict) or "rope_type" not in rope:
        raise UsageError(
            f"--model_max_length {length} exceeds the {own} positions of this model, and its "
            f"kind of positions cannot be stretched; use at most {own}."
        )
    if kind != "none":
        factor = float(math.ceil(length / own)) * float(rope.get("factor") or 1.0)
        config.rope_parameters = {
            **rope,
            "rope_type": kind if rope["rope_type"] == "default" else rope["rope_type"],
            "factor": factor,
        }
        if config.rope_parameters["rope_type"] in ("yarn", "dynamic", "llama3", "longrope"):
            config.rope_parameters.setdefault("original_max_position_embeddings", own)
    config.max_position_embeddings = length


def fit_vocabulary(model: "PreTrainedModel", tokenizer: Any) -> None:
    """Gives every token of the tokenizer a row of its own in the embeddings."""
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:  # pyright: ignore[reportOperatorIssue]
        model.resize_token_embeddings(len(tokenizer))


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


def make_trainer(
    arguments: Arguments,
    model: "PreTrainedModel",
    *,
    data: "TrainingData",
    finish: "FolderFinisher",
) -> "Trainer":
    """transformers' Trainer over our examples."""
    from torch.utils.data import Sampler
    from transformers import Trainer, TrainerCallback
    from transformers.trainer_pt_utils import LengthGroupedSampler

    class FinishCheckpoints(TrainerCallback):
        """Makes every checkpoint a folder that can be served."""

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                finish(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    class ExampleTrainer(Trainer):
        """Knows the lengths of our examples without reading each, and shards on CPUs too."""

        def create_accelerator_and_postprocess(self) -> None:
            super().create_accelerator_and_postprocess()
            if self.args.fsdp_plugin_args is not None and not self.is_fsdp_enabled:
                shard_without_accelerator(self)

        def create_optimizer(self, model: Any = None) -> Any:
            rate = arguments.fit.muon_learning_rate
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

        def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
            if self.args.train_sampling_strategy != "group_by_length":
                return super()._get_train_sampler(train_dataset)
            return LengthGroupedSampler(
                self.args.train_batch_size * self.args.gradient_accumulation_steps,
                lengths=data.train.lengths(),
            )

    arguments.training.remove_unused_columns = False
    return ExampleTrainer(
        model=model,
        args=arguments.training,
        train_dataset=data.train,  # pyright: ignore[reportArgumentType]
        eval_dataset=data.held_out,  # pyright: ignore[reportArgumentType]
        data_collator=data.collate_for(model),  # pyright: ignore[reportArgumentType]
        callbacks=[FinishCheckpoints()],
    )


def shard_without_accelerator(trainer: "Trainer") -> None:
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


def save(trainer: "Trainer", finish: "FolderFinisher") -> None:
    """Writes the trained model once, whole, from however many processes hold it."""
    trainer.save_model()
    if trainer.args.should_save:
        finish(Path(str(trainer.args.output_dir)))


class FolderFinisher:
    """Adds to saved weights what makes their folder a model to serve."""

    def __init__(self, arguments: Arguments, *, tokenizer: Any, template: "Template") -> None:
        from fastchat.train.chat_template import chat_template_for, speaks

        self.arguments = arguments
        self.tokenizer = tokenizer
        self.chat_template: str | None = None
        if speaks(tokenizer, tokenizer.chat_template, template):
            return
        self.chat_template = chat_template_for(tokenizer, template)
        if self.chat_template is None and arguments.training.process_index == 0:
            logger.warning(
                "no chat template gives the ids that were trained on; serve the folder with "
                "--conv-template %s",
                arguments.model.conv_template,
            )

    def __call__(self, folder: Path) -> None:
        """Completes `folder`: config for serving, tokenizer, chat template."""
        config_path = folder / "config.json"
        config = json.loads(config_path.read_text("utf-8"))
        config["use_cache"] = True
        config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
        for path in folder.glob("*.safetensors"):
            # Written through a temporary file that only its owner may read.
            shutil.copymode(config_path, path)
        self._write_tokenizer(folder)
        if self.chat_template is not None:
            (folder / "chat_template.jinja").write_text(self.chat_template, "utf-8")

    def _write_tokenizer(self, folder: Path) -> None:
        """Copies the tokenizer's files: written anew, some tokenize differently.

        transformers 5 forgets the `legacy` flag of a Llama tokenizer when it saves one.
        """
        from transformers.utils.hub import cached_file

        copied = False
        for name in TOKENIZER_FILES:
            path = cached_file(
                self.arguments.model.model_name_or_path,
                name,
                cache_dir=self.arguments.fit.cache_dir,
                _raise_exceptions_for_missing_entries=False,
            )
            if path is not None and Path(path).resolve() != (folder / name).resolve():
                shutil.copyfile(path, folder / name)
                copied = True
        if not copied and not (folder / "tokenizer_config.json").is_file():
            self.tokenizer.save_pretrained(folder)


def checkpoint_to_resume(asked: str | None, folder: Path) -> Path | None:
    """The checkpoint to go on from: the one asked for, else the newest that is whole.

    asked: a path, `auto` (as None) for the newest in `folder`, `none` to begin anew.
    """
    if asked and asked.lower() in ("none", "false"):
        return None
    if asked and asked.lower() not in ("auto", "true"):
        if not is_whole(Path(asked)):
            raise DataError(f"the checkpoint {asked} is missing or damaged; name another one.")
        return Path(asked)
    found = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdigit()]
    for path in sorted(found, key=lambda path: int(path.name[11:]), reverse=True):
        if is_whole(path):
            return path
        logger.warning("skipping a damaged checkpoint=%s", path)
    return None


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end.

    The trainer's state is written last; every weights file must be as long as its header says.
    """
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
        weights = list(checkpoint.glob("*.safetensors"))
        index = checkpoint / "model.safetensors.index.json"
        if index.is_file():
            named = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
            weights += [checkpoint / name for name in named]
        others = list(checkpoint.glob("pytorch_model*")) + list(checkpoint.glob("global_step*"))
        return (
            "global_step" in state
            and bool(weights or others)
            and all(_safetensors_is_whole(path) for path in weights)
        )
    except (OSError, ValueError, KeyError):
        return False


def _safetensors_is_whole(path: Path) -> bool:
    """Whether the file holds all the bytes that its header promises."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length < path.stat().st_size:
            return False
        header = json.loads(file.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return path.stat().st_size == 8 + length + max(ends, default=0)


def _is_main_process() -> bool:
    """Whether this process speaks for all of them."""
    import os

    return os.environ.get("RANK", "0") == "0"


def _leave_process_group() -> None:
    """Ends the exchange between processes, which torch wants done before they exit."""
    torch = sys.modules.get("torch")
    if (
        torch is not None
        and torch.distributed.is_available()
        and torch.distributed.is_initialized()
    ):
        torch.distributed.destroy_process_group()
