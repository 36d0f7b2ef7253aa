"""Prompts with pictures: which tokens stand for which picture, and the embeddings in their place.

A picture's tokens all have one id, so two pictures would be one to the prefix cache. What is
kept as the text of such a prompt has negative numbers in their place, made of the picture's
digest and the token's place in it: equal numbers mean equal embeddings, whatever the request.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastchat.engine.images import MAX_IMAGES, read_picture
from fastchat.errors import ModelError, UsageError
from fastchat.message import ChatOptions, Message
from fastchat.model.processors import Prepared, Processor, image_features, rope_positions

if TYPE_CHECKING:
    from fastchat.model.load import LoadedModel

KEPT_TOKENS = 16384
"""Embeddings of pictures that are kept for later requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PicturePrompt:
    """A prompt with pictures, before the vision tower has seen them."""

    ids: list[int]
    digests: tuple[bytes, ...]
    pictures: tuple[Prepared, ...]
    places: list[int]
    """Of the tokens that stand for pictures, in order."""
    positions: Tensor | None
    """(3, tokens), for models that count in three directions."""
    shift: int
    """What is added to the place of a later token to get its position."""

    @property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """Places from the first to behind the last of tokens in a row that stand for pictures."""
        cuts = [i for i in range(1, len(self.places)) if self.places[i] > self.places[i - 1] + 1]
        rows = zip([0, *cuts], [*cuts, len(self.places)], strict=True)
        return tuple((self.places[i], self.places[k - 1] + 1) for i, k in rows if k > i)

    @property
    def text_keys(self) -> list[int]:
        """The prompt as the prefix cache is to know it."""
        keys = list(self.ids)
        places = iter(self.places)
        for digest, picture in zip(self.digests, self.pictures, strict=True):
            first = int.from_bytes(digest[:16], "big")
            for k in range(picture.n_tokens):
                keys[next(places)] = -1 - first - k
        return keys


@dataclass(frozen=True, slots=True)
class SeenPrompt:
    """A prompt with its pictures' embeddings."""

    prompt: PicturePrompt
    embeddings: Tensor
    """(tokens that stand for pictures, width)"""
    blocks: tuple[tuple[int, int], ...] = ()
    """The prompt's, where the tokens of one picture see each other."""

    def blocks_within(self, start: int, end: int) -> list[tuple[int, int]]:
        """The blocks from `start` to `end`, which cuts none, counted from `start`."""
        return [(a - start, b - start) for a, b in self.blocks if start <= a and b <= end]

    def part(self, start: int, end: int) -> tuple[list[int], Tensor]:
        """Places of pictures' tokens from `start` to `end`, counted from `start`; embeddings."""
        places = self.prompt.places
        low, high = bisect_left(places, start), bisect_left(places, end)
        return [place - start for place in places[low:high]], self.embeddings[low:high]

    def positions(self, start: int, end: int) -> Tensor | None:
        """(3, end - start), or None where positions are plain places."""
        known = self.prompt.positions
        if known is None:
            return None
        if end <= known.shape[1]:
            return known[:, start:end]
        later = torch.arange(max(start, known.shape[1]), end) + self.prompt.shift
        return torch.cat([known[:, start:], later.expand(3, -1)], dim=1)


def read_prompt(
    loaded: LoadedModel, messages: Sequence[Message], options: ChatOptions
) -> PicturePrompt:
    """A conversation with pictures as a prompt; takes a while, and needs no model.

    Raises UsageError for what is no picture, or cannot be placed.
    """
    urls = [url for message in messages for url in message.images]
    if len(urls) > MAX_IMAGES:
        raise UsageError(f"{len(urls)} pictures; send {MAX_IMAGES} at most", param="messages")
    processor = _processor(loaded)
    text = loaded.render_pictures(messages, options)
    # One after the other, so that only one at a time is there in full size.
    read: list[tuple[bytes, Prepared]] = []
    for url in urls:
        picture = read_picture(url)
        read.append((picture.digest, processor.prepare(picture.image)))
    return placed(loaded, text, read, is_complete=loaded.prompting.writes_special_tokens)


def placed(
    loaded: LoadedModel, text: str, read: Sequence[tuple[bytes, Prepared]], *, is_complete: bool
) -> PicturePrompt:
    """The prompt of a rendered text with a mark for each picture.

    read: their digests and what the processor made of them; is_complete: the text holds all
    special tokens but those of pictures.
    """
    processor = _processor(loaded)
    prepared = tuple(one for _, one in read)
    ids = loaded.encode(processor.expand(text, prepared), not is_complete)
    token_id = processor.image_token_id
    places = [i for i, token in enumerate(ids) if token == token_id]
    if len(places) != sum(one.n_tokens for one in prepared):
        raise ModelError("the processor and the tokenizer of this model do not fit together")
    found = rope_positions(loaded.model, ids, prepared, image_token_id=token_id)
    positions, shift = (None, 0) if found is None else found
    return PicturePrompt(
        ids=ids,
        digests=tuple(digest for digest, _ in read),
        pictures=prepared,
        places=places,
        positions=positions,
        shift=shift,
    )


def _processor(loaded: LoadedModel) -> Processor:
    assert loaded.processor is not None
    return loaded.processor


class VisionTower:
    """The part of a model that sees. Belongs to the thread that runs the model."""

    def __init__(self, model: Any, *, sees_whole: bool) -> None:
        """
        Args:
            model: with a vision tower.
            sees_whole: in its text part, each token of a picture sees all of it.
        """
        self._model = model
        self._sees_whole = sees_whole
        self._kept: dict[bytes, Tensor] = {}
        """By digest, least recently used first."""

    def see(self, prompt: PicturePrompt) -> SeenPrompt:
        """The embeddings of all pictures; each is computed once, while it is kept."""
        rows = [self._rows(d, p) for d, p in zip(prompt.digests, prompt.pictures, strict=True)]
        while len(self._kept) > 1 and sum(map(len, self._kept.values())) > KEPT_TOKENS:
            del self._kept[next(iter(self._kept))]
        blocks = prompt.blocks if self._sees_whole else ()
        return SeenPrompt(prompt, torch.cat(rows), blocks)

    def _rows(self, digest: bytes, picture: Prepared) -> Tensor:
        rows = self._kept.pop(digest, None)
        self._kept[digest] = image_features(self._model, picture) if rows is None else rows
        return self._kept[digest]
