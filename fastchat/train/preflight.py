"""What a training will be, told before its first step: data, batches, memory, time, money.

All of it is arithmetic on counts; nothing is run. Memory and hours are estimates, meant to tell
a run that cannot work from one that can.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fastchat.errors import DataError
from fastchat.train.arguments import Arguments
from fastchat.train.examples import IGNORED, Example
from fastchat.train.sources import Batches, TrainingData

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PEAK_TFLOPS: Mapping[str, float] = {
    "H200": 989,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10": 125,
    "V100": 125,
    "T4": 65,
    "4090": 165,
    "3090": 71,
}
"""Dense 16-bit peak by a part of the device's name, from the makers' data sheets."""

OPTIMIZER_BYTES: Mapping[str, float] = {"8bit": 2, "4bit": 1, "adafactor": 0.1, "sgd": 0}
"""Bytes of state a trained parameter, by a part of the optimizer's name; Adam keeps 8."""

SHOWN_LINES = 20
"""Of the conversation that is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A training in figures."""

    account: Mapping[str, Any]
    """The counts of the data."""
    said: Sequence[str]
    """The same in words."""
    is_counted: bool
    """Whether all the data was counted, or a part of it that was looked at."""
    is_packed: bool
    n_rows: int | None
    """Rows (or conversations, where nothing is packed) in an epoch."""
    n_processes: int
    batch: int
    """Rows a step of all processes together."""
    n_steps: int
    n_tokens: int | None
    """Tokens of the whole training."""
    padding_share: float | None
    n_parameters: int
    n_trained: int
    flops_per_token: float
    memory: Mapping[str, float]
    """Bytes on each device by what they are for."""
    tflops: float | None
    """Peak of one device."""
    mfu: float
    price_per_hour: float | None
    warnings: Sequence[str] = field(default_factory=tuple)

    @property
    def hours(self) -> float | None:
        """How long it takes at the assumed share of the peak."""
        if self.n_tokens is None or not self.tflops:
            return None
        peak = self.tflops * 1e12 * self.n_processes
        return self.n_tokens * self.flops_per_token / (peak * self.mfu) / 3600

    def actual_cost(self, *, n_tokens: int, seconds: float) -> dict[str, Any]:
        """What a training of so many tokens really took."""
        flops = n_tokens * self.flops_per_token
        cost: dict[str, Any] = {"flops": flops, "hours": round(seconds / 3600, 6)}
        if self.tflops:
            cost["mfu"] = round(flops / seconds / (self.tflops * 1e12 * self.n_processes), 4)
        if self.price_per_hour is not None:
            cost["price"] = round(seconds / 3600 * self.price_per_hour, 4)
        return cost

    def to_json(self) -> dict[str, Any]:
        """The plan under the names of the report."""
        values: dict[str, Any] = {
            "packed": self.is_packed,
            "rows": self.n_rows,
            "global_batch": self.batch,
            "steps": self.n_steps,
            "tokens": self.n_tokens,
            "padding_share": self.padding_share,
            "parameters": self.n_parameters,
            "trained_parameters": self.n_trained,
            "flops_per_token": self.flops_per_token,
            "flops": None if self.n_tokens is None else self.n_tokens * self.flops_per_token,
            "memory_bytes": dict(self.memory),
            "hours": self.hours,
        }
        if self.price_per_hour is not None and self.hours is not None:
            values["price"] = round(self.hours * self.price_per_hour, 4)
        return values

    def lines(self) -> list[str]:
        """The plan in words."""
        unit = "rows" if self.is_packed else "conversations"
        seen = "" if self.is_counted else " (of what was looked at; the rest is read on the way)"
        said = [f"data{seen}:", *(f"  {line}" for line in self.said)]
        rows = f"{self.n_rows:,} {unit} an epoch, " if self.n_rows is not None else ""
        said.append(f"batches: {rows}{self.batch} {unit} a step, {self.n_steps:,} steps")
        if self.padding_share is not None:
            said.append(f"padding: {self.padding_share:.1%} of all positions")
        trained = "" if self.n_trained == self.n_parameters else f", {self.n_trained:,} trained"
        said.append(f"model: {self.n_parameters:,} parameters{trained}")
        parts = ", ".join(f"{name} {_size(n)}" for name, n in self.memory.items())
        said.append(f"memory a device: about {_size(sum(self.memory.values()))} ({parts})")
        if self.n_tokens is not None:
            flops = self.n_tokens * self.flops_per_token
            said.append(f"work: {self.n_tokens:,} tokens, {flops:.3g} floating-point operations")
        if self.hours is not None:
            cost = ""
            if self.price_per_hour is not None:
                cost = (
                    f", {self.hours * self.price_per_hour:,.2f} at {self.price_per_hour:g} an hour"
                )
            said.append(
                f"time: about {_duration(self.hours)} at {self.mfu:.0%} of {self.tflops:,.3g} "
                f"TFLOPS x {self.n_processes}{cost}"
            )
        return [*said, *(f"note: {warning}" for warning in self.warnings)]


def plan_training(
    arguments: Arguments, data: TrainingData, batches: Batches, *, model: "PreTrainedModel"
) -> Plan:
    """The figures of a training that is about to begin.

    Raises:
        DataError: the first batch has nothing to learn.
    """
    training = arguments.training
    first = first_items(batches, training.per_device_train_batch_size)
    if not any(example.n_learned for item in first for example in _examples(item)):
        raise DataError("nothing in the first batch would be learned; see `preview` for why.")
    batch = (
        training.per_device_train_batch_size
        * training.gradient_accumulation_steps
        * training.world_size
    )
    n_rows = len(batches.train) if hasattr(batches.train, "__len__") else None
    if training.max_steps > 0:
        n_steps = training.max_steps
    else:
        assert n_rows is not None
        per_process = -(-n_rows // training.world_size)
        loader = -(-per_process // training.per_device_train_batch_size)
        a_epoch = max(1, -(-loader // training.gradient_accumulation_steps))
        n_steps = int(-(-training.num_train_epochs * a_epoch // 1))
    sizes = _sizes(data, batches, first)
    learned_share = data.account.n_learned / max(data.account.n_tokens, 1)
    n_epochs = None if training.max_steps > 0 else float(training.num_train_epochs)
    longest = int(max(sizes)) * training.per_device_train_batch_size
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    warnings: list[str] = []
    if batches.is_packed and n_rows is not None and n_steps < 10 * training.num_train_epochs:
        warnings.append(
            f"packed, the data is {n_rows} rows and the training {n_steps} steps; for more and "
            "smaller steps lower --per_device_train_batch_size or say --packing False"
        )
    if data.account.n_cut_learned > 0.1 * max(data.account.n_learned, 1):
        warnings.append(
            "the window cuts off more than a tenth of the replies; raise --model_max_length or say "
            "--overlong split"
        )
    return Plan(
        account=data.account.to_json(),
        said=data.account.lines(),
        is_counted=data.is_counted,
        is_packed=batches.is_packed,
        n_rows=n_rows,
        n_processes=training.world_size,
        batch=batch,
        n_steps=n_steps,
        n_tokens=_total_tokens(
            sizes, is_counted=data.is_counted, n_rows=batch * n_steps, n_epochs=n_epochs
        ),
        padding_share=_padding(sizes, batches, training.per_device_train_batch_size),
        n_parameters=sum(p.numel() for p in model.parameters()),
        n_trained=trained,
        flops_per_token=flops_per_token(model, context=_context(data, first)),
        memory=memory_bytes(
            model,
            n_tokens=longest,
            learned_share=learned_share if batches.collate.learned_only else 1.0,
            optimizer=str(training.optim),
            is_checkpointed=bool(getattr(training, "gradient_checkpointing", False)),
            share=1 / training.world_size if training.fsdp or training.deepspeed else 1.0,
        ),
        tflops=arguments.data.device_tflops or peak_tflops(str(training.device)),
        mfu=arguments.data.mfu,
        price_per_hour=arguments.data.price_per_hour,
        warnings=warnings,
    )


def announce(
    plan: Plan, batches: Batches, tokenizer: Any, *, say: Callable[[str], None], colour: bool
) -> None:
    """Says the plan line by line, and shows the beginning of what is learned first."""
    for line in plan.lines():
        say(line)
    [item] = first_items(batches, 1)
    shown = coloured(_examples(item)[0], tokenizer, with_colour=colour)
    say("the first conversation, what is learned " + ("in green:" if colour else "between ⟦ ⟧:"))
    lines = shown.splitlines()
    for line in lines[:SHOWN_LINES]:
        say(f"  {line}")
    if len(lines) > SHOWN_LINES:
        say(f"  … and {len(lines) - SHOWN_LINES} more lines")


def flops_per_token(model: "PreTrainedModel", *, context: float) -> float:
    """Floating-point operations of one step a token: forward, and backward through all of it.

    2 a parameter forward, 2 back to its input, 2 for the gradient of a trained one; attention,
    over the half of the tokens before, 6 x layers x width x context.
    Source: Kaplan et al. 2020, "Scaling laws for neural language models", table 1.
    """
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    is_tied = head is not None and getattr(head, "weight", None) is embedding
    looked_up = 0 if is_tied else int(np.prod(embedding.shape))  # pyright: ignore
    n = sum(p.numel() for p in model.parameters()) - looked_up
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    layers, width = _shape(model)
    return 4.0 * n + 2.0 * min(trained, n) + 6.0 * layers * width * context


def memory_bytes(
    model: "PreTrainedModel",
    *,
    n_tokens: int,
    learned_share: float,
    optimizer: str,
    is_checkpointed: bool,
    share: float = 1.0,
) -> dict[str, float]:
    """Bytes on one device for a batch of `n_tokens` positions, by what they are for.

    share: part of weights, gradients and optimizer state that this device holds.
    """
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = [p for p in model.parameters() if p.requires_grad]
    n_trained = sum(p.numel() for p in trained)
    state = next((n for name, n in OPTIMIZER_BYTES.items() if name in optimizer), 8.0)
    layers, width = _shape(model)
    config = model.config.get_text_config()
    inner = getattr(config, "intermediate_size", None) or 4 * width
    size = next((p.element_size() for p in trained), 4)
    # What backward needs of a layer: inputs of the norms and of the products, queries, keys,
    # values and the attention's result; gate, up and their product.
    a_layer = (10 * width + 4 * inner) * size
    kept = layers * width * size + a_layer if is_checkpointed else layers * a_layer
    vocabulary = getattr(config, "vocab_size", 0) or 0
    return {
        "weights": weights * share,
        "gradients": sum(p.numel() * p.element_size() for p in trained) * share,
        "optimizer": n_trained * state * share,
        "activations": float(n_tokens * kept),
        "logits": n_tokens * learned_share * vocabulary * 12.0,  # as given, in fp32, gradients
    }


def peak_tflops(device: str) -> float | None:
    """Peak of a device in 16 bits (a CPU's is measured), or None for one that is not known."""
    import torch

    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
        return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)
    return _measured_tflops() if device.startswith("cpu") else None


def _measured_tflops() -> float:
    """What a product of matrices reaches on this processor."""
    import time

    import torch

    a = torch.ones(512, 512)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        torch.matmul(a, a)
        best = min(best, time.perf_counter() - began)
    return 2 * 512**3 / best / 1e12


def first_items(batches: Batches, n: int) -> list[Any]:
    """The first rows or examples, as the trainer would take them."""
    if hasattr(batches.train, "__len__"):
        return [batches.train[i] for i in range(min(n, len(batches.train)))]
    items: list[Any] = []
    for item in batches.train:
        items.append(item)
        if len(items) == n:
            break
    return items


def _total_tokens(
    sizes: Any, *, is_counted: bool, n_rows: int, n_epochs: float | None
) -> int | None:
    """Tokens of so many epochs, or else of so many rows of the usual length."""
    if not len(sizes):
        return None
    if is_counted and n_epochs is not None:
        return round(float(np.sum(sizes)) * n_epochs)
    return round(float(np.mean(sizes)) * n_rows)


def _examples(item: Any) -> Sequence[Example]:
    return item if isinstance(item, tuple) else (item,)


def _sizes(data: TrainingData, batches: Batches, first: Sequence[Any]) -> Any:
    """Tokens of the rows: of all where that is known, else of the first."""
    if data.is_counted:
        return batches.train.lengths()
    return [sum(len(example.input_ids) for example in _examples(item)) for item in first]


def _padding(sizes: Any, batches: Batches, n: int) -> float | None:
    """The share of positions that hold no token, for batches in a random order."""
    if not len(sizes):
        return None
    if batches.collate.layout == "flat":
        return 0.0
    order = np.random.default_rng(0).permutation(len(sizes))
    shuffled = np.asarray(sizes)[order]
    groups = [shuffled[i : i + n] for i in range(0, len(shuffled), n)]
    return 1 - float(shuffled.sum()) / float(sum(group.max() * len(group) for group in groups))


def _context(data: TrainingData, first: Sequence[Any]) -> float:
    """Mean length of the conversation that a token stands in."""
    if data.is_counted:
        lengths = data.train.lengths()  # pyright: ignore[reportAttributeAccessIssue]
    else:
        lengths = np.array([len(e.input_ids) for item in first for e in _examples(item)])
    return float((lengths.astype(np.float64) ** 2).sum() / max(lengths.sum(), 1))


def _shape(model: "PreTrainedModel") -> tuple[int, int]:
    """Layers and width of a model."""
    config = model.config.get_text_config()
    layers = getattr(config, "num_hidden_layers", None) or getattr(config, "num_layers", 0)
    return int(layers or 0), int(getattr(config, "hidden_size", None) or 0)


def _size(n_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024 or unit == "GiB":
            return f"{n_bytes:,.0f} {unit}" if n_bytes >= 10 else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    raise AssertionError


def _duration(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} hours"
    return f"{hours * 60:.1f} minutes" if hours * 60 >= 1 else f"{hours * 3600:.1f} seconds"


def coloured(example: Example, tokenizer: Any, *, with_colour: bool) -> str:
    """The text of an example, what is learned in green, or between marks without colour."""
    start, end = ("\033[32m", "\033[0m") if with_colour else ("⟦", "⟧")
    pieces: list[str] = []
    bounds = np.flatnonzero(np.diff((example.labels != IGNORED).astype(np.int8))) + 1
    for ids, labels in zip(
        np.split(example.input_ids, bounds), np.split(example.labels, bounds), strict=True
    ):
        text = tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        pieces.append(f"{start}{text}{end}" if labels[0] != IGNORED else text)
    return "".join(pieces)
