"""Path and settings -> a loaded model with its tokenizer, context length and prompt format.

Where it runs is decided in `placement`, how it is prompted in `prompting`, what a checkpoint
is in `fastchat.families`. Nothing that comes with a checkpoint is executed unless the operator
says so: pickled weights are read as tensors only, Python files not at all.
"""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastchat.errors import DataError, ModelError, UsageError
from fastchat.families.registry import Family, Recognition, registry
from fastchat.message import ChatOptions, Message
from fastchat.model import hub, placement, prompting
from fastchat.model.kind import Kind, context_length, inspect
from fastchat.model.merged_adapter import merged, pair_adapter
from fastchat.model.processors import Processor, load_processor
from fastchat.settings import Env, alias

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda", "mps", "xpu", "npu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Which model, and how it is loaded."""

    model_path: Annotated[str, alias("--model")] = "vicuna-tiny"
    """Folder or hub id; `vicuna-tiny` is the model that ships in the package."""
    revision: str = "main"
    """Branch, tag or commit of a hub model."""
    device: Device = "auto"
    """Where it runs; `auto` takes the first that exists of cuda, npu, xpu, mps, cpu."""
    gpus: str | None = None
    """Ids of the accelerators to use, like `0,2`."""
    num_gpus: int = 1
    """Accelerators to spread one model over."""
    max_gpu_memory: str | None = None
    """Weights per accelerator at most, like `8GiB`."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Precision; `auto` follows the checkpoint and the device."""
    num_threads: int | None = None
    """Compute threads; the default is the cores this process may use."""
    load_8bit: bool = False
    """Keep the weights in 8 bits."""
    cpu_offloading: bool = False
    """With --load-8bit on cuda: weights that do not fit go to the CPU."""
    trust_remote_code: bool = False
    """Run Python code that comes with a checkpoint. Off unless you trust its author."""
    context_len: Annotated[int | None, alias("--max-model-len")] = None
    """Context length in tokens; the default is read from the model's config."""
    conv_template: str | None = None
    """Prompt template by name; it wins over the tokenizer's own and the family's."""
    chat_template: str | None = None
    """File with a Jinja chat template to use instead of the tokenizer's own."""
    use_modelscope: Annotated[bool, Env("FASTCHAT_USE_MODELSCOPE")] = False
    """Take models from ModelScope instead of the Hugging Face hub."""
    cpu_isa: Annotated[str | None, Env("CPU_ISA")] = None
    """`amx` or `avx512_bf16`: bfloat16 on the CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model ready to compute, and everything that belongs to it."""

    model: Any
    """Of transformers, in evaluation mode."""
    tokenizer: Any
    context_len: int
    vocab_size: int
    """Width of the logits; ids from here on do not exist."""
    family: Family
    prompting: prompting.Prompting
    device: torch.device
    """Of the input embeddings."""
    dtype: torch.dtype
    eos_token_ids: frozenset[int]
    """Each of them ends an answer."""
    stop: tuple[str, ...]
    """Strings that end an answer in this prompt format."""
    can_generate: bool = True
    """False for an encoder, which gives embeddings only."""
    processor: Processor | None = None
    """What reads pictures, where the model sees."""
    is_encoder_decoder: bool = False
    """An encoder reads the prompt, a decoder writes the answer from it (T5)."""
    can_score: bool = False
    """A cross-encoder, whose head gives one number for a pair of texts."""

    @property
    def template_name(self) -> str:
        """The prompt format's name; `tokenizer` for the tokenizer's own."""
        return self.prompting.name

    def render(self, messages: Sequence[Message], options: ChatOptions = ChatOptions()) -> str:
        """The text of a conversation, with the slot for the answer open."""
        return self.prompting.render(messages, options)

    def render_pictures(
        self, messages: Sequence[Message], options: ChatOptions = ChatOptions()
    ) -> str:
        """The text of a conversation with the processor's mark for each picture.

        A format that knows nothing of pictures gets the marks as text.
        """
        assert self.processor is not None
        mark = self.processor.mark
        if not self._knows_pictures(mark):
            messages = [_marked(message, mark) for message in messages]
        return self.render(messages, options)

    def _knows_pictures(self, mark: str) -> bool:
        """Whether the prompt format writes pictures by itself."""
        sample = Message(role="user", text="Hello!", images=("",), parts=(0, "Hello!"))
        try:
            text = self.render([sample])
        except UsageError:
            return False
        # A template that knows nothing of parts may write out the list.
        return text.count(mark) == 1 and "'type'" not in text

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of a prompt text, with exactly one BOS where the tokenizer wants one."""
        ids = prompting.encode(self.tokenizer, text, add_special_tokens=add_special_tokens)
        return self._closed(ids) if add_special_tokens else ids

    def encode_messages(
        self, messages: Sequence[Message], options: ChatOptions = ChatOptions()
    ) -> list[int]:
        """The ids of a conversation, with the slot for the answer open."""
        is_complete = self.prompting.writes_special_tokens
        text = self.render(messages, options)
        return self._closed(self.encode(text, add_special_tokens=not is_complete))

    def _closed(self, ids: list[int]) -> list[int]:
        """The ids of a prompt; what an encoder reads ends with the tokenizer's end token."""
        end = self.tokenizer.eos_token_id
        if not self.is_encoder_decoder or end is None or ids[-1:] == [end]:
            return ids
        return [*ids, int(end)]


def _marked(message: Message, mark: str) -> Message:
    """A message that has its pictures' marks in its text."""
    if not message.images:
        return message
    parts = [mark if isinstance(part, int) else part for part in message.content]
    return replace(message, text="\n".join(parts), images=(), parts=())


def load(settings: ModelSettings) -> LoadedModel:
    """Loads a causal language model, one of encoder and decoder, or an encoder for embeddings.

    Raises:
        UsageError: the settings do not fit the machine, or name no model that can be served.
        UnavailableError: the hub cannot be reached.
        DataError: the checkpoint is damaged.
        ModelError: a library that this checkpoint needs is missing, or it failed.
    """
    placement.show_gpus(settings.gpus, settings.num_gpus)
    there = placement.machine()
    device = placement.choose_device(settings, there)
    _quiet_libraries()
    placement.use_threads(settings.num_threads)
    placement.bound_kernel_caches()
    recognition = registry().recognise(settings.model_path)
    if recognition.adapter is not None:
        wishes = {"revision": settings.revision, "dtype": settings.dtype}
        with hub.plain_errors(settings.model_path, "model"):
            model, tokenizer = recognition.adapter.load_model(settings.model_path, wishes)
        model.to(placement.first_device(device)).eval().requires_grad_(False)
        return _assembled(settings, model, tokenizer, recognition=recognition)
    adapter = pair_adapter(settings.model_path)
    source = hub.locate(
        adapter.base if adapter else settings.model_path,
        revision=settings.revision,
        use_modelscope=settings.use_modelscope,
    )
    recognition = registry().recognise(source.path)
    if recognition.family.loader != "external":
        _refuse_by_family(settings.model_path, recognition.family)
    kind = inspect(source, settings.model_path, trust_remote_code=settings.trust_remote_code)
    if not kind.has_vision:  # some families have checkpoints in the library's form as well
        _refuse_by_family(settings.model_path, recognition.family)
    for name, value in recognition.family.config.items():
        setattr(kind.config, name, value)
    dtype, warning = placement.choose_dtype(
        settings, device, there, checkpoint=kind.dtype or recognition.family.dtype
    )
    if warning:
        logger.warning("%s", warning)
    quantizes = _should_quantize(settings, device, kind)
    if adapter and quantizes:
        raise UsageError(
            f"--load-8bit: {settings.model_path!r} is an adapter; merge it into its base with "
            "fastchat.model.apply_lora first, or leave the flag out"
        )
    is_adapters = adapter is not None and adapter.has_tokenizer
    tokenizer_source = hub.locate(settings.model_path) if is_adapters else source
    tokenizer = _load_tokenizer(tokenizer_source, settings, recognition.family)
    processor = load_processor(source, kind.config) if kind.has_vision else None
    if processor is not None and not tokenizer.chat_template:
        tokenizer.chat_template = processor.chat_template
    model = _load_weights(source, settings, kind, device=device, dtype=dtype, quantizes=quantizes)
    if adapter:
        n_tokens = len(tokenizer) if is_adapters else None
        model = merged(model, n_tokens, lora_path=adapter.path, base_path=adapter.base)
        model.eval().requires_grad_(False)
    loaded = _assembled(settings, model, tokenizer, recognition=recognition, kind=kind)
    return loaded if processor is None else replace(loaded, processor=processor)


def _assembled(
    settings: ModelSettings,
    model: Any,
    tokenizer: Any,
    *,
    recognition: Recognition,
    kind: Kind | None = None,
) -> LoadedModel:
    """The model with all that belongs to it, and one line in the log about it."""
    chosen = prompting.choose_prompting(settings, tokenizer, recognition, registry())
    loaded = LoadedModel(
        model=model,
        tokenizer=tokenizer,
        context_len=_context_len(settings, model.config, recognition),
        vocab_size=_vocab_size(model),
        family=recognition.family,
        prompting=chosen,
        device=model.get_input_embeddings().weight.device,
        dtype=model.get_input_embeddings().weight.dtype,
        eos_token_ids=_eos_token_ids(model, tokenizer, recognition.family, chosen),
        stop=chosen.template.stop if chosen.template else (),
        can_generate=kind is None or kind.is_causal or kind.is_encoder_decoder,
        is_encoder_decoder=kind is not None and kind.is_encoder_decoder,
        can_score=kind is not None and kind.is_classifier and model.config.num_labels == 1,
    )
    logger.info(
        "loaded model=%s device=%s dtype=%s%s context=%d template=%s family=%s (%s)",
        settings.model_path,
        loaded.device,
        str(loaded.dtype).removeprefix("torch."),
        " (weights in 8 bits)" if settings.load_8bit else "",
        loaded.context_len,
        chosen.name,
        recognition.family.name,
        recognition.reason,
    )
    return loaded


def _refuse_by_family(name: str, family: Family) -> None:
    """Refuses what is recognised as something that has no weights to load here."""
    match family.loader:
        case "peft":
            reason = "holds a PEFT adapter; merge it into its base model first"
        case "remote":
            reason = "is a service, not a checkpoint; register it as an endpoint of a gateway"
        case "external":
            reason = "needs an engine server of its own; start that and register it"
        case _:
            return
    raise UsageError(f"{name!r} {reason} (family {family.name})")


def _context_len(settings: ModelSettings, config: Any, recognition: Recognition) -> int:
    """The context length to serve."""
    own = context_length(config) or recognition.family.context_for(settings.model_path)
    wanted = settings.context_len
    if wanted is None:
        return own or 2048
    if wanted < 1:
        raise UsageError(f"--context-len {wanted}: give 1 or more")
    if own is not None and wanted > own:
        if not getattr(config.get_text_config(), "rope_parameters", None):
            raise UsageError(f"--context-len {wanted}: this model has {own} positions")
        logger.warning("context of %d is beyond the %d the model was made for", wanted, own)
    return wanted


def _should_quantize(settings: ModelSettings, device: str, kind: Kind) -> bool:
    """Whether the weights are to be kept in 8 bits, with a warning for what does not apply."""
    if settings.cpu_offloading:
        for need in _unmet_for_offloading(settings, device):
            logger.warning("--cpu-offloading is ignored: it needs %s", need)
    if settings.load_8bit and kind.quantization:
        raise UsageError(
            f"--load-8bit: {settings.model_path!r} is already quantized ({kind.quantization}); "
            "leave the flag out"
        )
    return settings.load_8bit


def _unmet_for_offloading(settings: ModelSettings, device: str) -> list[str]:
    """What `--cpu-offloading` needs and does not have."""
    needs = {
        "--load-8bit": settings.load_8bit,
        "Linux": platform.system() == "Linux",
        "--device cuda": device == "cuda",
        "the package bitsandbytes": find_spec("bitsandbytes") is not None,
    }
    return [need for need, is_met in needs.items() if not is_met]


def _load_tokenizer(source: hub.Source, settings: ModelSettings, family: Family) -> Any:
    """The tokenizer, with what the family knows better than its files."""
    from transformers import AutoTokenizer

    with hub.plain_errors(settings.model_path, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            source.path,
            **source.arguments,
            **source.gguf,
            trust_remote_code=settings.trust_remote_code,
            **family.tokenizer,
        )
    if family.extra_tokens:
        known = tokenizer.get_vocab()
        tokenizer.add_tokens([t for t in family.extra_tokens if t in known], special_tokens=True)
    return tokenizer


def _load_weights(
    source: hub.Source,
    settings: ModelSettings,
    kind: Kind,
    *,
    device: str,
    dtype: placement.Dtype,
    quantizes: bool,
) -> Any:
    """The model on its device, every weight of it from the checkpoint."""
    from transformers import (
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoModelForSeq2SeqLM,
        AutoModelForSequenceClassification,
    )

    free = placement.free_bytes(device, settings.num_gpus) if settings.num_gpus > 1 else {}
    arguments = placement.device_map(settings, device, free)
    if quantizes:
        from fastchat.model import compression

        offloads = settings.cpu_offloading and not _unmet_for_offloading(settings, device)
        arguments |= (
            compression.offloading_arguments() if offloads else compression.loading_arguments()
        )
    auto: Any = AutoModelForCausalLM if kind.is_causal else AutoModel
    if kind.has_vision:
        auto = AutoModelForImageTextToText
    elif kind.is_encoder_decoder:
        auto = AutoModelForSeq2SeqLM
    elif kind.is_classifier:
        auto = AutoModelForSequenceClassification
    with hub.plain_errors(settings.model_path, "weights"):
        loaded: Any = auto.from_pretrained(
            source.path,
            config=kind.config,
            dtype=placement.torch_dtype(dtype),
            weights_only=True,
            output_loading_info=True,
            trust_remote_code=settings.trust_remote_code,
            **source.arguments,
            **source.gguf,
            **arguments,
        )
    model, report = loaded
    if auto is not AutoModel and (missing := sorted(report["missing_keys"])):
        raise DataError(
            f"the checkpoint {settings.model_path!r} lacks {len(missing)} weights of a "
            f"{type(model).__name__}, such as {missing[0]}; it is incomplete or of another kind"
        )
    return model.eval().requires_grad_(False)


def _vocab_size(model: Any) -> int:
    """Width of the logits."""
    head = model.get_output_embeddings()
    embeddings = model.get_input_embeddings() if head is None else head
    return int(getattr(embeddings, "out_features", None) or embeddings.weight.shape[0])


def _eos_token_ids(
    model: Any, tokenizer: Any, family: Family, chosen: prompting.Prompting
) -> frozenset[int]:
    """Every id that ends an answer.

    Generation config, config, tokenizer, family and template are asked; where the family knows
    that config or tokenizer names a wrong one, that is left out.
    """
    config_ids = getattr(model.config.get_text_config(), "eos_token_id", None)
    generation_ids = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if family.ids_from == "tokenizer":
        # A generation config that was not written for this model repeats its config.
        generation_ids = None if generation_ids == config_ids else generation_ids
        config_ids = None
    named: list[int | Iterable[int] | None] = [
        generation_ids,
        config_ids,
        None if family.ids_from == "config" else tokenizer.eos_token_id,
        family.eos_token_id,
        chosen.template.stop_token_ids if chosen.template else None,
    ]
    found: set[int] = set()
    for value in named:
        found.update(value if isinstance(value, Iterable) else () if value is None else (value,))
    size = _vocab_size(model)
    return frozenset(i for i in found if 0 <= i < size)


def _quiet_libraries() -> None:
    """Keeps progress bars and advice of the libraries out of the log; errors stay."""
    from transformers.utils import logging as theirs

    theirs.disable_progress_bar()
    theirs.set_verbosity_error()
    logger.debug("transformers %s", importlib.metadata.version("transformers"))
    if find_spec("huggingface_hub") is None:
        raise ModelError("huggingface_hub is not installed; install fschat[model_worker]")
