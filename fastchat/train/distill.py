"""A teacher's answers as the target: divergence of the outputs, distance of the hidden states.

Both losses are functions of tensors and know no trainer. Only supervised positions count: those
whose next token carries loss.

Imports torch and transformers at once: it is imported when training begins.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastchat.errors import DataError, ModelError, UsageError
from fastchat.train.arguments import Arguments
from fastchat.train.examples import IGNORED
from fastchat.train.loading import quantization
from fastchat.train.method_arguments import DistillArguments
from fastchat.train.teacher_cache import Best, TeacherCache
from fastchat.train.trainer import ExampleTrainer

logger = logging.getLogger(__name__)

Divergence = Literal["forward", "reverse", "jsd"]
PROJECTIONS = "distill_projections"
"""Name of the projections among the student's modules while it is trained."""


def output_loss(
    student: Tensor, teacher: Tensor, *, temperature: float, divergence: Divergence
) -> Tensor:
    """T² times the divergence of the softened distributions, summed over the positions.

    student, teacher: (n, vocabulary) logits.
    Source: Hinton et al. 2015, "Distilling the knowledge in a neural network"; T² keeps the
    gradients as large as without softening.
    """
    log_q = F.log_softmax(student.float() / temperature, dim=-1)
    log_p = F.log_softmax(teacher.float() / temperature, dim=-1)
    match divergence:
        case "forward":
            loss = _kl(log_p, log_q)
        case "reverse":
            loss = _kl(log_q, log_p)
        case "jsd":
            middle = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0))
            loss = (_kl(log_p, middle) + _kl(log_q, middle)) / 2
    return temperature**2 * loss


def kept_output_loss(student: Tensor, best: Best, *, temperature: float) -> Tensor:
    """The forward `output_loss` against a teacher of whom only the best logits are kept.

    All other tokens count as one, with what is left of both distributions; it equals the full
    divergence when everything is kept, and is never more.
    """
    log_q = F.log_softmax(student.float() / temperature, dim=-1)
    log_q_kept = log_q.gather(1, best.ids)
    log_p_kept = best.log_probs
    kept = _kl(log_p_kept, log_q_kept)
    rest_p, rest_q = _log_rest(log_p_kept), _log_rest(log_q_kept)
    return temperature**2 * (kept + _kl(rest_p, rest_q))


def activation_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], projections: Sequence[nn.Module | None]
) -> Tensor:
    """Squared distance of projected hidden states: mean of layers and channels, sum of positions.

    student, teacher: a layer each, (n, channels of its model); a projection of None is identity.
    """
    losses = [
        ((project(x) if project is not None else x).float() - y.float()).pow(2).mean(dim=-1).sum()
        for x, y, project in zip(student, teacher, projections, strict=True)
    ]
    return torch.stack(losses).mean()


def layer_map(asked: str | None, *, n_student: int, n_teacher: int) -> list[tuple[int, int]]:
    """Which layer of the student learns from which of the teacher, both counted from 0.

    Raises:
        UsageError: what was asked for is no list of pairs, or names a layer that is not there.
    """
    if asked is None:
        return [(i, round((i + 1) * n_teacher / n_student) - 1) for i in range(n_student)]
    try:
        pairs = [tuple(int(x) for x in pair.split(":")) for pair in asked.split(",")]
        result = [(i, j) for i, j in pairs]
    except ValueError:
        raise UsageError(
            f"--kd_layer_map {asked} is no list of student:teacher pairs like 0:1,1:3."
        ) from None
    for i, j in result:
        if not (0 <= i < n_student and 0 <= j < n_teacher):
            raise UsageError(
                f"--kd_layer_map {i}:{j}: the student has layers 0 to {n_student - 1}, the teacher "
                f"0 to {n_teacher - 1}."
            )
    return result


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Divergence of q from p, summed over rows."""
    return F.kl_div(log_q, log_p, reduction="sum", log_target=True)


def _log_rest(log_probs: Tensor) -> Tensor:
    """Logarithm of what the probabilities of a row leave to 1, (n, 1)."""
    rest = 1 - log_probs.exp().sum(dim=-1, keepdim=True)
    return rest.clamp_min(torch.finfo(rest.dtype).tiny).log()


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSays:
    """What the teacher says at the supervised positions."""

    logits: Tensor | None
    best: Best | None
    hidden: Sequence[Tensor]
    """A layer each of the map, (n, channels)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A frozen model, which layers are learned from, and what it said before."""

    model: Any
    layers: Sequence[tuple[int, int]]
    cache: TeacherCache | None = None

    @torch.no_grad()
    def says(self, inputs: Mapping[str, Tensor], supervised: Tensor) -> TeacherSays:
        """The teacher at the supervised positions, (rows, length - 1) of true and false."""
        if self.cache is not None:
            if (best := self.cache.read(inputs, supervised)) is None:
                logits = self.model(**inputs, use_cache=False).logits[:, :-1][supervised]
                best = self.cache.write(inputs, supervised, logits=logits)
            return TeacherSays(logits=None, best=best, hidden=())
        outputs = self.model(**inputs, use_cache=False, output_hidden_states=bool(self.layers))
        return TeacherSays(
            logits=outputs.logits[:, :-1][supervised],
            best=None,
            hidden=hidden_at(outputs, [j for _, j in self.layers], supervised),
        )


def hidden_at(outputs: Any, layers: Sequence[int], supervised: Tensor) -> list[Tensor]:
    """The states that layers, counted from 0, give at the supervised positions."""
    return [outputs.hidden_states[i + 1][:, :-1][supervised] for i in layers]


def load_teacher(arguments: Arguments, *, student: Any, tokenizer: Any) -> Teacher:
    """The teacher, frozen, on the device of the training; projections join the student.

    Raises:
        UsageError: shares or temperature are out of range, or flags exclude each other.
        ModelError: it cannot be loaded.
        DataError: its vocabulary is another.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    distill, training = arguments.distill, arguments.training
    _check(distill, training)
    path = str(distill.teacher_model_name_or_path)
    common = {
        "cache_dir": arguments.fit.cache_dir,
        "trust_remote_code": arguments.model.trust_remote_code,
    }
    dtype = distill.teacher_dtype
    how: dict[str, Any] = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype)}
    if (attention := getattr(student.config, "_attn_implementation", None)) is not None:
        how["attn_implementation"] = attention
    match distill.teacher_bits:
        case "16":
            pass
        case "8" | "4" as bits:
            how["quantization_config"] = quantization(bits, training)
            how["device_map"] = {"": training.device}
    try:
        teacher_tokenizer = AutoTokenizer.from_pretrained(path, **common)
        model: Any = AutoModelForCausalLM.from_pretrained(path, **how, **common)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"the teacher {path} cannot be loaded: {error}") from error
    _check_vocabulary(path, teacher_tokenizer.get_vocab(), tokenizer.get_vocab())
    if distill.teacher_bits == "16":
        model.to(training.device)
    model.eval().requires_grad_(False)
    layers: list[tuple[int, int]] = []
    if distill.kd_beta > 0:
        own, its = student.config.get_text_config(), model.config.get_text_config()
        layers = layer_map(
            distill.kd_layer_map, n_student=own.num_hidden_layers, n_teacher=its.num_hidden_layers
        )
        if own.hidden_size != its.hidden_size:
            _add_projections(student, layers, own.hidden_size, its.hidden_size, training=training)
    cache = None
    if distill.kd_cache is not None:
        cache = TeacherCache(
            Path(distill.kd_cache),
            teacher=path,
            top_k=distill.kd_top_k,
            temperature=distill.kd_temperature,
        )
    if training.process_index == 0:
        logger.info("teacher=%s layers=%s", path, " ".join(f"{i}:{j}" for i, j in layers) or "none")
    return Teacher(model=model, layers=layers, cache=cache)


def _check(distill: DistillArguments, training: Any) -> None:
    """Raises UsageError for what cannot be distilled as asked."""
    alpha, beta = distill.kd_alpha, distill.kd_beta
    if alpha < 0 or beta < 0 or alpha + beta > 1:
        raise UsageError(
            f"--kd_alpha {alpha:g} and --kd_beta {beta:g} are shares of the loss: none below 0, "
            "together at most 1."
        )
    if distill.kd_temperature <= 0:
        raise UsageError(f"--kd_temperature {distill.kd_temperature:g} must be above 0.")
    if distill.kd_cache is not None and (beta > 0 or distill.kd_divergence != "forward"):
        raise UsageError(
            "--kd_cache keeps the teacher's best logits, which serve --kd_divergence forward with "
            "--kd_beta 0 only."
        )
    if distill.kd_top_k < 1:
        raise UsageError(f"--kd_top_k {distill.kd_top_k} must be at least 1.")
    if training.deepspeed:
        raise UsageError("distillation has not been built for DeepSpeed; use DDP or FSDP.")


def _check_vocabulary(path: str, teacher: Mapping[str, int], student: Mapping[str, int]) -> None:
    """Raises DataError when the same id means another token to teacher and student."""
    other = [text for text, number in student.items() if teacher.get(text) != number]
    if other or len(teacher) != len(student):
        example = f", such as {other[0]!r}" if other else ""
        raise DataError(
            f"the teacher {path} has another vocabulary than the student: {len(teacher)} against "
            f"{len(student)} tokens, {len(other)} of them differ{example}. Choose models with the "
            "same tokenizer."
        )


def _add_projections(
    student: Any, layers: Sequence[tuple[int, int]], width: int, wanted: int, *, training: Any
) -> None:
    """Gives the student a linear map a layer to the teacher's width, which is trained with it."""
    if training.fsdp:
        raise UsageError(
            f"--kd_beta: hidden states of {width} and {wanted} channels need a projection, which "
            "is not sharded; train without --fsdp."
        )
    maps = nn.ModuleList(nn.Linear(width, wanted, bias=False) for _ in layers)
    student.add_module(PROJECTIONS, maps.to(student.device))


class DistillTrainer(ExampleTrainer):
    """Loss: (1 - alpha - beta) of the data's, alpha of the outputs', beta of the hidden states'."""

    takes_plain_batches = True
    loss_is_scaled_for_ga = True

    def __init__(self, arguments: Arguments, *, teacher: Teacher, **given: Any) -> None:
        self.teacher = teacher
        self.parts: dict[str, Tensor] = {}
        self.n_steps_of_parts = 0
        super().__init__(arguments, **given)
        # So that the number of supervised tokens of the whole batch arrives in compute_loss.
        self.model_accepts_loss_kwargs = True

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        distill = self.arguments.distill
        labels = inputs["labels"]
        rest = {name: value for name, value in inputs.items() if name != "labels"}
        supervised = labels[:, 1:] != IGNORED
        outputs = model(**rest, use_cache=False, output_hidden_states=bool(self.teacher.layers))
        logits = outputs.logits[:, :-1][supervised]
        parts = {
            "data": F.cross_entropy(logits.float(), labels[:, 1:][supervised], reduction="sum")
        }
        shares = {"data": 1 - distill.kd_alpha - distill.kd_beta}
        if distill.kd_alpha > 0 or distill.kd_beta > 0:
            says = self.teacher.says(rest, supervised)
            if distill.kd_alpha > 0:
                parts["output"] = self._output_loss(logits, says)
                shares["output"] = distill.kd_alpha
            if distill.kd_beta > 0:
                own = hidden_at(outputs, [i for i, _ in self.teacher.layers], supervised)
                parts["activation"] = activation_loss(own, says.hidden, self._projections(model))
                shares["activation"] = distill.kd_beta
        n = num_items_in_batch if num_items_in_batch is not None else supervised.sum()
        loss = torch.stack([shares[name] * part for name, part in parts.items()]).sum() / n
        if num_items_in_batch is not None:
            if self.args.average_tokens_across_devices:
                loss = loss * self.accelerator.num_processes
            self._remember({name: part.detach() / n for name, part in parts.items()})
        return (loss, outputs) if return_outputs else loss

    def _output_loss(self, logits: Tensor, says: TeacherSays) -> Tensor:
        """The divergence of the outputs from what the teacher says."""
        temperature = self.arguments.distill.kd_temperature
        if says.best is not None:
            return kept_output_loss(logits, says.best, temperature=temperature)
        assert says.logits is not None
        width = min(logits.shape[-1], says.logits.shape[-1])  # tables may be padded differently
        return output_loss(
            logits[:, :width],
            says.logits[:, :width],
            temperature=temperature,
            divergence=self.arguments.distill.kd_divergence,
        )

    def _projections(self, model: nn.Module) -> Sequence[nn.Module | None]:
        """What brings the student's states to the teacher's width, a layer each."""
        maps = getattr(self.accelerator.unwrap_model(model), PROJECTIONS, None)
        return list(maps) if maps is not None else [None] * len(self.teacher.layers)

    def _remember(self, parts: Mapping[str, Tensor]) -> None:
        """Adds up the parts of the loss until they are logged."""
        for name, part in parts.items():
            self.parts[name] = self.parts.get(name, torch.zeros_like(part)) + part

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self.parts:
            n_steps = max(1, self.state.global_step - self.n_steps_of_parts)
            for name, part in self.parts.items():
                # n counted the tokens of all processes, or of this one alone.
                how = "sum" if self.args.average_tokens_across_devices else "mean"
                total = self.accelerator.reduce(part.clone(), reduction=how)
                logs[f"{name}_loss"] = float(total) / n_steps  # pyright: ignore[reportArgumentType]
            self.parts = {}
            self.n_steps_of_parts = self.state.global_step
        super().log(logs, start_time)

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        """Saves the student; projections go to a file beside it, and only in checkpoints."""
        whole: dict[str, Any] = self.model.state_dict() if state_dict is None else state_dict  # pyright: ignore[reportOptionalMemberAccess]
        own = {name: x for name, x in whole.items() if PROJECTIONS not in name}
        super()._save(output_dir, state_dict=own)
        folder = Path(str(output_dir or self.args.output_dir))
        if len(own) < len(whole) and folder.name.startswith("checkpoint-"):
            maps = {name: x.cpu() for name, x in whole.items() if PROJECTIONS in name}
            torch.save(maps, folder / f"{PROJECTIONS}.bin")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        path = Path(resume_from_checkpoint) / f"{PROJECTIONS}.bin"
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if path.is_file():
            maps = torch.load(path, map_location="cpu", weights_only=True)
            student: Any = model or self.model
            student.load_state_dict(maps, strict=False)
