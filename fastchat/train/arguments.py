"""The flags of the training commands: our own and the libraries'.

`published_flags` rewrites old names of them first. The flags of the methods stand in
`method_arguments`, what each command sets otherwise in `presets`.
"""

import difflib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from fastchat.errors import UsageError
from fastchat.train.flag_help import TRANSFORMERS, TRL_DPO, help_text
from fastchat.train.method_arguments import (
    DistillArguments,
    LoraArguments,
    Seq2SeqArguments,
    YuanArguments,
)
from fastchat.train.presets import TRAIN, Preset
from fastchat.train.published_flags import refuse_missing_packages, this_machine, translate

if TYPE_CHECKING:
    from transformers import TrainingArguments


@dataclass(kw_only=True)
class ModelArguments:
    """Which model is trained."""

    model_name_or_path: str = field(
        default="facebook/opt-125m", metadata={"help": "Folder or hub id of the model to train."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run Python code that comes with the checkpoint."}
    )
    padding_side: Literal["right", "left"] = field(
        default="right", metadata={"help": "Side on which shorter examples of a batch are padded."}
    )
    conv_template: str = field(
        default="vicuna_v1.1",
        metadata={
            "help": "Template that conversations are written in; auto recognises it by the path."
        },
    )
    model_dtype: Literal["float32", "bfloat16", "float16"] = field(
        default="float32",
        metadata={"help": "Precision of the trained weights; --bf16 only changes the arithmetic."},
    )
    rope_scaling: Literal["linear", "dynamic", "yarn", "none"] = field(
        default="linear",
        metadata={"help": "How positions are stretched when --model_max_length exceeds the model."},
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={
            "help": "Attention: eager, sdpa, flash_attention_2, xformers; the default is chosen."
        },
    )
    flash_attn: bool = field(
        default=False, metadata={"help": "FlashAttention 2 where it is usable, else sdpa."}
    )


@dataclass(kw_only=True)
class DataArguments:
    """What it is trained on."""

    data_path: list[str] | None = field(
        default=None,
        metadata={
            "help": "Conversations to learn from: files (JSON, JSON Lines, Parquet, compressed or "
            "not), patterns, or - for standard input; several are several sources."
        },
    )
    data_mix: str | None = field(
        default=None,
        metadata={
            "help": "Proportions of the sources, such as 0.7,0.3; without it all of each is used."
        },
    )
    mix_until: Literal["first_exhausted", "all_exhausted"] = field(
        default="first_exhausted",
        metadata={"help": "A mixture ends with its first source, or repeats until the last."},
    )
    eval_data_path: list[str] | None = field(
        default=None, metadata={"help": "Conversations to measure the loss on, a figure for each."}
    )
    eval_split: float = field(
        default=0.0,
        metadata={"help": "Share of each source that is held out to measure the loss on."},
    )
    eval_samples: int = field(
        default=0,
        metadata={"help": "Replies that the model writes at each evaluation, for people to read."},
    )
    eval_sample_tokens: int = field(
        default=64, metadata={"help": "Longest of these replies in tokens."}
    )
    lazy_preprocess: bool = field(
        default=False, metadata={"help": "Tokenize a conversation when it is needed."}
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "Read the data as training goes on; needs --max_steps."},
    )
    shuffle_buffer: int = field(
        default=10_000, metadata={"help": "Examples that a stream shuffles and packs together."}
    )
    packing: bool | None = field(
        default=None,
        metadata={
            "help": "Put conversations side by side into rows of --model_max_length; the default "
            "is to do so where the model keeps them apart. A batch then counts rows."
        },
    )
    chat_template: str | None = field(
        default=None,
        metadata={
            "help": "Write conversations with the tokenizer's own chat template (auto) or one from "
            "a file, in place of --conv_template."
        },
    )
    loss_on: Literal["all_replies", "last_reply", "each_reply", "all_tokens"] = field(
        default="all_replies",
        metadata={
            "help": "What is learned: every reply, the last one, every reply as an example of its "
            "own, or every token."
        },
    )
    overlong: Literal["truncate", "drop", "split"] = field(
        default="truncate",
        metadata={
            "help": "What becomes of a conversation longer than --model_max_length: cut at the "
            "end, left out, or made into several of whole rounds."
        },
    )
    max_masked_share: float = field(
        default=0.05,
        metadata={"help": "Stop when more than this share of the records has nothing to learn."},
    )
    data_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder that keeps tokenized data; the default is in --output_dir, and is "
            "removed after the training."
        },
    )
    preprocessing_workers: int | None = field(
        default=None, metadata={"help": "Processes that tokenize; the default is the cores, to 8."}
    )
    dry_run: bool = field(
        default=False,
        metadata={"help": "Show what would be trained, how long and at what cost, and stop."},
    )
    price_per_hour: float | None = field(
        default=None, metadata={"help": "Price of all devices for an hour, to estimate the cost."}
    )
    mfu: float = field(
        default=0.4,
        metadata={"help": "Share of the devices' peak that the estimate of hours assumes."},
    )
    device_tflops: float | None = field(
        default=None,
        metadata={"help": "Peak of one device in TFLOPS, for the estimate; known GPUs need none."},
    )


@dataclass(kw_only=True)
class FitArguments:
    """How it is trained, besides transformers' own TrainingArguments."""

    cache_dir: str | None = field(
        default=None, metadata={"help": "Where downloaded models are kept."}
    )
    model_max_length: int = field(
        default=512, metadata={"help": "Longest conversation in tokens; the rest is cut."}
    )
    muon_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Train the weight matrices with Muon at this rate, the rest with AdamW."},
    )
    global_batch_size: int | None = field(
        default=None, metadata={"help": "Conversations a step that are meant; warns when not so."}
    )
    check_save: bool = field(
        default=False,
        metadata={"help": "Save the untrained model first, and stop if that does not work."},
    )


OWN_DEFAULTS: dict[str, Any] = {"optim": "adamw_torch"}
"""Defaults of TrainingArguments that the published commands set otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """All that a training command was told."""

    model: ModelArguments
    data: DataArguments
    fit: FitArguments
    training: "TrainingArguments"
    lora: LoraArguments = field(default_factory=LoraArguments)
    distill: DistillArguments = field(default_factory=DistillArguments)
    seq2seq: Seq2SeqArguments = field(default_factory=Seq2SeqArguments)
    yuan: YuanArguments = field(default_factory=YuanArguments)
    preset: Preset = TRAIN
    notes: tuple[str, ...] = ()
    """What was understood otherwise than written."""


def parse(argv: Sequence[str] | None = None, *, prog: str, preset: Preset = TRAIN) -> Arguments:
    """Reads the flags; `--help` prints them all and ends the process.

    Raises:
        UsageError: a flag or value that is not known, or a package that a value needs is missing.
        SystemExit: after `--help` (0) or when a value does not fit its flag (2).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    groups = (ModelArguments, DataArguments, FitArguments, *preset.groups)
    defaults = {**OWN_DEFAULTS, **preset.defaults}
    if {"-h", "--help"} & set(words):
        library = [TRANSFORMERS, TRL_DPO] if preset.method == "dpo" else [TRANSFORMERS]
        print(help_text(prog, groups, library=library, defaults=defaults))
        raise SystemExit(0)
    words, notes = translate(words, this_machine())
    refuse_missing_packages(words)

    own = _parser(groups, defaults, prog=prog)
    theirs = _parser((_training_class(preset),), defaults, prog=prog)
    known = {flag for a in (*own._actions, *theirs._actions) for flag in a.option_strings}
    _refuse_unknown(words, sorted(known))
    try:
        parsed = own.parse_args_into_dataclasses(_words_for(own, words), look_for_args_file=False)
        [training] = theirs.parse_args_into_dataclasses(
            _words_for(theirs, words), look_for_args_file=False
        )
    except (ValueError, ImportError, OSError) as error:
        raise UsageError(f"the training arguments cannot be used: {error}") from error
    names = {cls: item.name for item in fields(Arguments) if (cls := GROUPS.get(item.name))}
    given: dict[str, Any] = {names[type(group)]: group for group in parsed}
    return Arguments(training=training, preset=preset, notes=tuple(notes), **given)


GROUPS: dict[str, type] = {
    "model": ModelArguments,
    "data": DataArguments,
    "fit": FitArguments,
    "lora": LoraArguments,
    "distill": DistillArguments,
    "seq2seq": Seq2SeqArguments,
    "yuan": YuanArguments,
}
"""Field of `Arguments` -> the flags in it."""


def _training_class(preset: Preset) -> type:
    """The library's dataclass of the flags of training."""
    if preset.method == "dpo":
        if importlib.util.find_spec("trl") is None:
            raise UsageError("train_dpo needs the package trl: pip install fschat[rlhf].")
        from trl.trainer.dpo_config import DPOConfig

        return DPOConfig
    from transformers import TrainingArguments

    return TrainingArguments


def _parser(groups: Sequence[type], defaults: Mapping[str, Any], *, prog: str) -> Any:
    """A parser of these groups of flags."""
    from transformers import HfArgumentParser

    parser = HfArgumentParser(
        groups,  # pyright: ignore[reportArgumentType]
        prog=prog,
        allow_abbrev=False,
        add_help=False,
    )
    names = {item.name for cls in groups for item in fields(cls)}
    parser.set_defaults(**{name: x for name, x in defaults.items() if name in names})
    return parser


def _words_for(parser: Any, words: Sequence[str]) -> list[str]:
    """The part of a command line that a parser reads."""
    known = {flag for action in parser._actions for flag in action.option_strings}
    taken: list[str] = []
    is_known = False
    for word in words:
        if word.startswith("--"):
            is_known = word in known
        if is_known:
            taken.append(word)
    return taken


def _refuse_unknown(words: Sequence[str], known: Sequence[str]) -> None:
    """Raises UsageError for the first flag that nobody reads, with the nearest that is read."""
    for word in words:
        if word.startswith("--") and word not in known:
            near = difflib.get_close_matches(word, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; --help lists all flags."
            raise UsageError(f"unknown flag {word}{hint}")
