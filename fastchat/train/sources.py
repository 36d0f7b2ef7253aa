"""From the data flags to what the trainer draws from: training and held-out examples.

`fit` calls `open_data` before the model is loaded, so that bad data costs nobody the wait; in
which form a model learns best from them is decided once it is there (`batches_for`).
"""

import inspect
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastchat.data.files import expand
from fastchat.data.records import read_records
from fastchat.errors import UsageError
from fastchat.train.account import Account, Rules, check_enough_to_learn
from fastchat.train.arguments import Arguments, DataArguments
from fastchat.train.examples import Labeller
from fastchat.train.lazy_examples import LazyExamples
from fastchat.train.mixing import Mixture, joined, mixed, parse_weights, some_of
from fastchat.train.packing import Collator, ExampleSet, Layout, PackedRows
from fastchat.train.token_store import TokenStore, open_store, store_key
from fastchat.train.tokenizer_template import TokenizerTemplate, read_chat_template

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from fastchat.template import Template
    from fastchat.train.streaming import StreamedExamples

logger = logging.getLogger(__name__)

STANDARD_INPUT = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """The data in the form that a model learns from."""

    train: Any
    """Examples or rows of them, by number or as a stream."""
    held_out: Any
    """A set of examples, several by their names, or None."""
    collate: Collator
    is_packed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """All that the trainer needs to know of the data."""

    train: "ExampleSet | StreamedExamples"
    held_out: ExampleSet | dict[str, ExampleSet] | None
    labeller: Labeller
    accounts: Sequence[Account]
    """What became of the training data, a source each; of lazy data what was looked at so far."""
    is_counted: bool
    """Whether the accounts cover all the data before training begins."""
    chat_template: str | None
    """The Jinja text that conversations are written with, where it is no template of ours."""
    collate: Collator
    arguments: Arguments

    @property
    def account(self) -> Account:
        """The accounts of all sources as one."""
        total = Account()
        for account in self.accounts:
            total.add(account)
        return total

    def collate_for(self, model: "PreTrainedModel") -> Collator:
        """What makes a plain batch: padded, with a label at every position."""
        return self.collate

    def batches_for(self, model: "PreTrainedModel", *, plain: bool = False) -> Batches:
        """The form that is quickest for this model and exact.

        plain: padded conversations with logits at every position, for losses of their own.
        """
        layout: Layout = "padded" if plain else self._layout(model)
        collate = Collator(
            pad_id=self.collate.pad_id,
            padding_side=self.collate.padding_side,
            layout=layout,
            learned_only=not plain and _asks_for_logits(model, self.arguments),
        )
        is_packed = layout != "padded"
        train: Any = self.train
        window = self.arguments.fit.model_max_length
        if is_packed and self.is_counted:
            assert isinstance(train, Mixture)
            train = PackedRows(train, window=window)
        elif is_packed and not isinstance(train, Mixture):
            train.window = window
        return Batches(train=train, held_out=self.held_out, collate=collate, is_packed=is_packed)

    def _layout(self, model: "PreTrainedModel") -> Layout:
        """The layout of batches, packed unless it was forbidden or cannot be exact."""
        training = self.arguments.training
        if self.arguments.data.packing is False:
            return "padded"
        if training.n_gpu > 1:
            layout, why = None, "one process trains on several GPUs; torchrun would allow it"
        elif training.deepspeed and 'stage": 3' in str(training.deepspeed):
            layout, why = None, "the model is spread before it can be asked"
        else:
            from fastchat.train.packing_probe import packed_layout

            layout = packed_layout(model)
            why = f"{type(model).__name__} does not keep packed conversations apart"
        if training.process_index == 0:
            if layout is None:
                logger.info("packing is off: %s", why)
            else:
                how = {"flat": "each attends to itself alone", "rows": "kept apart by a mask"}
                logger.info("packing conversations into rows (%s)", how[layout])
        return layout or "padded"


def open_data(arguments: Arguments, tokenizer: Any, *, template: "Template") -> TrainingData:
    """The data that the flags name, once it is clear that there is enough to learn in it."""
    data = arguments.data
    if not data.data_path:
        raise UsageError("--data_path is missing: the conversations to learn from.")
    rules = Rules(loss_on=data.loss_on, overlong=data.overlong)
    chat_template = None
    render, template_text = template.render, repr(template)
    if data.chat_template is not None:
        chat_template = template_text = read_chat_template(data.chat_template, tokenizer)
        last_only = data.loss_on in ("last_reply", "each_reply")
        render = TokenizerTemplate(tokenizer, chat_template, last_only=last_only).render
    labeller = Labeller(tokenizer, render, max_length=arguments.fit.model_max_length)
    reader = Reader(arguments, labeller, rules=rules, template=template_text)
    groups = [expand([path]) for path in data.data_path]
    weights = parse_weights(data.data_mix, len(groups)) if data.data_mix else None
    held_out: dict[str, ExampleSet] = {}
    train: ExampleSet | StreamedExamples
    if data.streaming:
        train = reader.stream(groups, weights=weights)
        accounts, is_counted = [train.account], False
    else:
        names = _names(groups)
        sets = [reader.read(group) for group in groups]
        accounts = [examples.account for examples in sets]
        is_counted = all(isinstance(examples, TokenStore) for examples in sets)
        parts: list[ExampleSet] = list(sets)
        if data.eval_split:
            split = [split_off(x, data.eval_split, seed=arguments.training.seed) for x in sets]
            parts = [kept for kept, _ in split]
            held_out |= {name: off for name, (_, off) in zip(names, split, strict=True)}
        train = (
            mixed(parts, weights, until=data.mix_until, seed=arguments.training.seed)
            if weights
            else joined(parts)
        )
    eval_groups = [expand([path]) for path in data.eval_data_path or ()]
    for name, group in zip(_names(eval_groups), eval_groups, strict=True):
        held_out[name if name not in held_out else f"{name}_eval"] = reader.read(group)
    return TrainingData(
        train=train,
        held_out=next(iter(held_out.values())) if len(held_out) == 1 else (held_out or None),
        labeller=labeller,
        accounts=accounts,
        is_counted=is_counted,
        chat_template=chat_template,
        collate=Collator(pad_id=tokenizer.pad_token_id, padding_side=arguments.model.padding_side),
        arguments=arguments,
    )


class Reader:
    """Reads sets of examples the way the flags ask for."""

    def __init__(
        self, arguments: Arguments, labeller: Labeller, *, rules: Rules, template: str
    ) -> None:
        self.arguments = arguments
        self.data: DataArguments = arguments.data
        self.labeller = labeller
        self.rules = rules
        self.template = template

    def read(self, paths: Sequence[str]) -> "TokenStore | LazyExamples":
        """The examples of some files.

        Raises:
            DataError: they hold nothing to learn from, or too little of what they promise.
        """
        if self.data.lazy_preprocess and self._is_one_to_one() and STANDARD_INPUT not in paths:
            examples: TokenStore | LazyExamples = LazyExamples(
                paths, self.labeller, rules=self.rules
            )
        else:
            examples = self._store(paths)
        self._check(examples.account, paths)
        return examples

    def stream(
        self, groups: Sequence[Sequence[str]], *, weights: Sequence[float] | None
    ) -> "StreamedExamples":
        """The examples of the files as a stream, once its beginning was looked at."""
        from fastchat.train.streaming import CHUNK, Share, Stream, StreamedExamples

        if any(STANDARD_INPUT in group for group in groups):
            raise UsageError("--streaming reads files more than once; standard input ends.")
        if self.data.eval_split:
            raise UsageError(
                "--eval_split needs to know how much data there is, which --streaming does not; "
                "name held-out data with --eval_data_path."
            )
        if self.arguments.training.max_steps <= 0:
            raise UsageError(
                "--streaming does not know how long the data is: say with --max_steps how many "
                "steps to train."
            )
        training = self.arguments.training
        for name in ("eval_strategy", "save_strategy", "logging_strategy"):
            if getattr(training, name) == "epoch":
                raise UsageError(
                    f"--{name} epoch: a stream is read over and over and has no epochs; "
                    f"give --{name} steps."
                )
        stream = Stream(
            sources=[partial(_records, group) for group in groups],
            weights=weights,
            until=self.data.mix_until,
            n_buffered=max(1, self.data.shuffle_buffer),
            seed=training.seed,
        )
        share = Share(number=training.process_index, of=training.world_size)
        examples = StreamedExamples(stream, self.labeller, rules=self.rules, share=share)
        beginning = examples.examples(examples.account)
        for _ in zip(range(CHUNK), beginning, strict=False):
            pass
        self._check(examples.account, list(chain.from_iterable(groups)))
        return examples

    def _is_one_to_one(self) -> bool:
        """Whether every record is one example, so that an index of records is one of examples."""
        if self.rules.loss_on == "each_reply" or self.rules.overlong == "split":
            logger.info("not lazy: one record may give several examples")
            return False
        return True

    def _store(self, paths: Sequence[str]) -> TokenStore:
        training = self.arguments.training
        root = Path(self.data.data_cache or Path(str(training.output_dir)) / "tokenized")
        if STANDARD_INPUT in paths:
            if training.world_size > 1:
                raise UsageError("standard input reaches one process only; name a file.")
            shutil.rmtree(root / "standard-input", ignore_errors=True)
        n_workers = self.data.preprocessing_workers
        if n_workers is None:
            local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            n_workers = max(1, min(8, (os.cpu_count() or 1) // local))
        with training.main_process_first(desc="tokenizing"):
            name = (
                "standard-input"
                if STANDARD_INPUT in paths
                else store_key(paths, self.labeller, rules=self.rules, template=self.template)
            )
            return open_store(
                root / name, _records(paths), self.labeller, rules=self.rules, n_workers=n_workers
            )

    def _check(self, account: Account, paths: Sequence[str]) -> None:
        name = ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
        check_enough_to_learn(account, name=name, max_share=self.data.max_masked_share)


def split_off(
    examples: "TokenStore | LazyExamples", share: float, *, seed: int
) -> tuple[Mixture, Mixture]:
    """What stays for training, and a share held out; parts of one conversation stay together.

    Raises:
        UsageError: the share leaves one of the two empty.
    """
    n = len(examples)
    wanted = round(share * n)
    rng = np.random.default_rng(seed)
    if isinstance(examples, TokenStore):
        families, family_of = np.unique(examples.families, return_inverse=True)
        # A name that a quarter of all begin with is a way of counting, as in dummy_1, dummy_2.
        is_count = np.bincount(family_of)[family_of] > max(1, n // 4)
        family_of[is_count] = len(families) + np.arange(is_count.sum())
        place = rng.permutation(len(families) + is_count.sum())[family_of]
    else:
        place = rng.permutation(n)
    order = np.argsort(place, kind="stable")
    # The conversation that crosses the border is held out as a whole.
    border = place[order[max(0, min(wanted, n) - 1)]] if wanted else -1
    is_off = place <= border
    if not 0 < is_off.sum() < n:
        raise UsageError(
            f"--eval_split {share:g} of {n} examples leaves nothing on one side; choose another "
            "share."
        )
    return (
        some_of(examples, np.flatnonzero(~is_off)),
        some_of(examples, np.flatnonzero(is_off)),
    )


def drop_cache(arguments: Arguments) -> None:
    """Removes tokenized data that nobody asked to keep, once the training is over."""
    if arguments.data.data_cache is None and arguments.training.process_index == 0:
        shutil.rmtree(Path(str(arguments.training.output_dir)) / "tokenized", ignore_errors=True)


def _records(paths: Sequence[str]) -> Any:
    """The records of files, one after the other."""
    return chain.from_iterable(read_records(path) for path in paths)


def _names(groups: Sequence[Sequence[str]]) -> list[str]:
    """A name for each group of files, by which its figures are told."""
    names: list[str] = []
    for group in groups:
        name = Path(group[0]).name.split(".")[0] or "data"
        names.append(name if name not in names else f"{name}_{len(names) + 1}")
    return names


def _asks_for_logits(model: "PreTrainedModel", arguments: Arguments) -> bool:
    """Whether the model can be asked for the logits of some positions and a loss of those."""
    from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

    training = arguments.training
    adapted: Any = model
    base = adapted.get_base_model() if hasattr(model, "get_base_model") else adapted
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(base.forward).parameters
    return (
        "logits_to_keep" in parameters
        and any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        and LOSS_MAPPING.get(getattr(base, "loss_type", "")) is ForCausalLMLoss
        and not training.label_smoothing_factor
        and not training.use_liger_kernel
        and training.n_gpu <= 1
    )
