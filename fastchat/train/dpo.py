"""Learning from preferences: TRL's DPO over pairs that our templates write.

Imports torch and TRL at once: it is imported when training begins.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl.trainer.dpo_trainer import DPOTrainer

from fastchat.data.votes_to_pairs import (
    PreferencePair,
    Report,
    pairs_from_votes,
    read_lines,
)
from fastchat.errors import DataError, UsageError
from fastchat.message import Message
from fastchat.template import Template
from fastchat.train.arguments import Arguments
from fastchat.train.examples import IGNORED, Labeller
from fastchat.train.lora import adapter_settings, prepared_for_adapter
from fastchat.train.method_arguments import LoraArguments
from fastchat.train.trainer import ShardsAnywhere

logger = logging.getLogger(__name__)

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceData:
    """Tokenized pairs, as TRL reads them."""

    train: Dataset
    held_out: Dataset | None


class PairTrainer(ShardsAnywhere, DPOTrainer):  # pyright: ignore[reportIncompatibleMethodOverride]
    """TRL's trainer, which takes our ids as they are."""

    def __init__(
        self, arguments: Arguments, *, tokenizer: Any, data: PreferenceData, **given: Any
    ) -> None:
        training: Any = arguments.training
        training.max_length = arguments.fit.model_max_length
        if arguments.lora.lora:
            # TRL adapts the model itself: what the adapter is measured against is the model
            # without it, which costs no second one.
            _refuse_start(arguments.lora)
            given["model"] = prepared_for_adapter(given["model"], arguments)
            given["peft_config"] = adapter_settings(given["model"], arguments)
        super().__init__(
            args=training,
            train_dataset=data.train,
            eval_dataset=data.held_out,
            processing_class=tokenizer,
            **given,
        )

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        # The ids are those of our templates: TRL's would need a chat template for each.
        return dataset


def _refuse_start(lora: LoraArguments) -> None:
    """Raises UsageError for an adapter without which the model is not what it was."""
    if lora.lora_init not in ("default", "gaussian"):
        raise UsageError(
            f"--lora_init {lora.lora_init} changes the model below the adapter, against which "
            "preferences are measured; take default or gaussian."
        )
    if lora.lora_weight_path:
        raise UsageError(
            "--lora_weight_path: merge that adapter first with fastchat.model.apply_lora, so that "
            "preferences are measured against the merged model."
        )


def open_data(arguments: Arguments, tokenizer: Any, *, template: Template) -> PreferenceData:
    """The pairs of the files that the flags name."""
    data = arguments.data
    if not data.data_path:
        raise UsageError("--data_path is missing: the pairs or votes to learn from.")
    labeller = Labeller(tokenizer, template.render, max_length=1 << 30)
    window = arguments.fit.model_max_length
    quiet = arguments.training.process_index != 0
    return PreferenceData(
        train=_tokenized(data.data_path, labeller, window=window, quiet=quiet),
        held_out=_tokenized(data.eval_data_path, labeller, window=window, quiet=quiet)
        if data.eval_data_path
        else None,
    )


def read_pairs(path: str | Path, report: Report) -> Iterator[PreferencePair]:
    """The pairs of a file: of `prompt`, `chosen`, `rejected` a line, or of an arena's log.

    prompt: a text, or messages; chosen and rejected: a text, or one message.
    """
    lines = _values(path)
    first = next(lines, None)
    if isinstance(first, dict) and "prompt" not in first and "type" in first:
        yield from pairs_from_votes(_again(first, lines), report)
        return
    for i, value in enumerate(_again(first, lines)):
        report.read += 1
        pair = _pair(value, name=f"{Path(path).name}:{i + 1}")
        if isinstance(pair, str):
            report.drop(pair)
        else:
            report.kept += 1
            yield pair


def _values(path: str | Path) -> Iterator[Any]:
    """The JSON values of a file, an array or one a line."""
    import orjson

    try:
        with Path(path).open("rb") as file:
            is_array = file.read(64).lstrip()[:1] == b"["
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from None
    if not is_array:
        yield from read_lines(path)
        return
    try:
        yield from orjson.loads(Path(path).read_bytes())
    except orjson.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON: {error}.") from None


def _again(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    """An iterator with its first value put back."""
    if first is not None:
        yield first
    yield from rest


def _pair(value: Any, *, name: str) -> PreferencePair | str:
    """The pair of a line, or the reason why it is none."""
    if not isinstance(value, dict):
        return "not an object"
    prompt = _prompt(value.get("prompt"))
    if prompt is None:
        return "prompt is neither text nor messages that end with the user's"
    sides = [_answer(value.get(key)) for key in ("chosen", "rejected")]
    if not all(sides):
        return "chosen or rejected is not an answer"
    if sides[0] == sides[1]:
        return "equal answers"
    return PreferencePair(
        id=str(value.get("id", name)), prompt=prompt, chosen=str(sides[0]), rejected=str(sides[1])
    )


def _prompt(value: Any) -> tuple[Message, ...] | None:
    """What was said before the answers."""
    if isinstance(value, str):
        return (Message(role="user", text=value),) if value.strip() else None
    if not isinstance(value, list):
        return None
    messages: list[Message] = []
    for turn in value:
        if not isinstance(turn, dict):
            return None
        role = turn.get("role", turn.get("from"))
        text = turn.get("content", turn.get("value"))
        if not isinstance(text, str) or not isinstance(role, str):
            return None
        if role == "system":
            messages.append(Message(role="system", text=text))
        elif role in ROLES:
            is_user = ROLES[role] == "user"
            messages.append(Message(role="user" if is_user else "assistant", text=text))
        else:
            return None
    return tuple(messages) if messages and messages[-1].role == "user" else None


def _answer(value: Any) -> str | None:
    """The text of an answer."""
    if isinstance(value, list) and value:
        value = value[-1]
    if isinstance(value, dict):
        value = value.get("content", value.get("value"))
    return value if isinstance(value, str) and value.strip() else None


def _tokenized(paths: Sequence[str], labeller: Labeller, *, window: int, quiet: bool) -> Dataset:
    """The pairs of a file as ids: what was said, and the two answers with their end marks."""
    report = Report()
    rows: list[dict[str, list[int]]] = []
    for pair in (pair for path in paths for pair in read_pairs(path, report)):
        row = _ids(pair, labeller)
        if isinstance(row, str) or len(row["prompt_ids"]) >= window:
            report.kept -= 1
            report.drop(row if isinstance(row, str) else "no answer within the window")
        else:
            rows.append(row)
    reasons = ", ".join(f"{reason}: {n}" for reason, n in sorted(report.dropped.items()))
    if not rows:
        raise DataError(
            f"{', '.join(paths)} holds no pair to learn from, neither prompt, chosen and rejected "
            f"nor votes of battles: {report.read} read ({reasons or 'nothing'})."
        )
    if not quiet:
        logger.info(
            "read paths=%s pairs=%d dropped=%s", ",".join(paths), len(rows), reasons or "none"
        )
    return Dataset.from_list(rows)


def _ids(pair: PreferencePair, labeller: Labeller) -> dict[str, list[int]] | str:
    """A pair as TRL reads it, or the reason why it cannot be."""
    if any(message.role == "assistant" and not message.text for message in pair.prompt):
        return "empty message"
    talks = [
        [*pair.prompt, Message(role="assistant", text=answer)]
        for answer in (pair.chosen, pair.rejected)
    ]
    sides: list[tuple[list[int], list[int]]] = []
    for example in labeller.label(talks):
        ids, labels = example.input_ids.tolist(), example.labels.tolist()
        # The last reply begins after the last token that is not learned before the end.
        end = max((i for i, label in enumerate(labels) if label != IGNORED), default=-1) + 1
        start = end
        while start > 0 and labels[start - 1] != IGNORED:
            start -= 1
        if start == end:
            return "the template marks no reply"
        sides.append((ids[:start], ids[start:end]))
    (prompt, chosen), (its_prompt, rejected) = sides
    if prompt != its_prompt:
        return "the prompt's tokens depend on the answer"
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
