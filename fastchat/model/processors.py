"""What turns pictures into a model's input: the processor that comes with a checkpoint.

The libraries' processors read videos too, and some need torchvision for that alone; here they
are put together without that part, which nothing asks for.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastchat.errors import ModelError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from fastchat.model.hub import Source

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One picture as a model reads it."""

    text: str
    """What stands for it in the prompt, the mark as often as it has embeddings."""
    n_tokens: int
    """Its embeddings."""
    inputs: Mapping[str, Tensor]
    """For the model's `get_image_features`, and for its positions."""


class Processor:
    """A checkpoint's processor, for one picture at a time."""

    def __init__(self, library: Any, *, image_token_id: int) -> None:
        """
        Args:
            library: of transformers.
            image_token_id: the token whose places take the embeddings.
        """
        self._library = library
        merged = library._merge_kwargs(
            tokenizer_init_kwargs=library.tokenizer.init_kwargs, return_tensors="pt"
        )
        self._options: dict[str, Any] = merged["images_kwargs"]
        self.image_token_id = image_token_id
        self.mark: str = library.image_token
        """Stands once for each picture in a rendered prompt."""
        self.is_seen_whole = False
        """In the text part, each token of a picture sees all of it, as in Gemma 3; found out by
        `check.check_pictures`."""

    @property
    def chat_template(self) -> Any:
        return getattr(self._library, "chat_template", None)

    def prepare(self, image: Image) -> Prepared:
        """A picture's pixels, resized and cut as the model wants them.

        Raises UsageError when the model cannot take a picture of this shape.
        """
        try:
            # What the library's own call does with pictures, before it tokenizes.
            inputs, (text,) = self._library._process_images([image], **self._options)
        except (ValueError, TypeError, ZeroDivisionError, IndexError) as error:
            raise UsageError(
                f"An `image_url` of {image.width} x {image.height} cannot be read by this model.",
                param="messages",
            ) from error
        ids = self._library.tokenizer(text, add_special_tokens=False)["input_ids"]
        tensors = {k: v for k, v in inputs.items() if hasattr(v, "dtype")}
        return Prepared(text=str(text), n_tokens=ids.count(self.image_token_id), inputs=tensors)

    def expand(self, text: str, prepared: Sequence[Prepared]) -> str:
        """A rendered prompt with every mark replaced by what stands for its picture.

        Raises UsageError when there are not as many marks as pictures.
        """
        pieces = text.split(self.mark)
        if len(pieces) != len(prepared) + 1:
            raise UsageError(
                f"The text holds {self.mark!r}, which stands for pictures; leave it out.",
                param="messages",
            )
        out = pieces[0]
        for one, rest in zip(prepared, pieces[1:], strict=True):
            out += one.text + rest
        return out

    def whole(self, text: str, images: Sequence[Image]) -> dict[str, Any]:
        """The library's own inputs for a text and its pictures, for comparison."""
        return dict(self._library(text=[text], images=list(images), return_tensors="pt"))


def load_processor(source: Source, config: Any) -> Processor | None:
    """The processor in a checkpoint; None, with a line in the log, where it cannot be used."""
    try:
        return Processor(_library(source, config), image_token_id=_image_token_id(config))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        reason = str(error).strip().splitlines()
        logger.warning("pictures are refused: no usable processor (%s)", reason[:1])
        return None


def _library(source: Source, config: Any) -> Any:
    """transformers' processor without its part for videos."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    whole: Any = PROCESSOR_MAPPING[type(config)]
    parts = [name for name in whole.get_attributes() if name != "video_processor"]
    still = type(whole.__name__, (whole,), {"get_attributes": classmethod(lambda cls: parts)})
    processor = still.from_pretrained(source.path, **source.arguments)
    for needed in ("image_processor", "tokenizer", "image_token", "_process_images"):
        if not hasattr(processor, needed):
            raise ValueError(f"{whole.__name__} has no {needed}")
    return processor


def _image_token_id(config: Any) -> int:
    for name in ("image_token_id", "image_token_index"):
        if isinstance(value := getattr(config, name, None), int):
            return value
    raise ValueError("the config names no image token")


def image_features(model: Any, prepared: Prepared) -> Tensor:
    """The embeddings of a picture, from the model's vision tower: (tokens, width).

    Raises ModelError when they are not as many as the places for them.
    """
    import torch

    embeddings = model.get_input_embeddings().weight
    taken = inspect.signature(model.get_image_features).parameters
    inputs = {
        k: v.to(embeddings.device, embeddings.dtype if v.is_floating_point() else None)
        for k, v in prepared.inputs.items()
        if k in taken
    }
    with torch.inference_mode():
        found = model.get_image_features(**inputs).pooler_output
    parts = [found] if isinstance(found, torch.Tensor) else list(found)
    rows = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
    if len(rows) != prepared.n_tokens:
        raise ModelError("the model made another number of embeddings than the picture has places")
    return rows.to(embeddings.device, embeddings.dtype)


def rope_positions(
    model: Any, ids: Sequence[int], prepared: Sequence[Prepared], *, image_token_id: int
) -> tuple[Tensor, int] | None:
    """Positions (3, tokens) of a prompt with pictures, and what later ones are shifted by.

    None for models whose positions are plain numbers.
    """
    import torch

    find = getattr(model.base_model, "get_rope_index", None)
    if find is None:
        return None
    tokens = torch.tensor([list(ids)])
    names = {name for one in prepared for name in one.inputs} - {"pixel_values"}
    arguments = {
        "input_ids": tokens,
        "mm_token_type_ids": (tokens == image_token_id).int(),
        "attention_mask": torch.ones_like(tokens),
        **{name: torch.cat([one.inputs[name] for one in prepared]) for name in sorted(names)},
    }
    taken = inspect.signature(find).parameters
    positions, delta = find(**{k: v for k, v in arguments.items() if k in taken})
    return positions[:, 0], int(delta.flatten()[0])
