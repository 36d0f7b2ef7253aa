"""Models with an encoder and a decoder (T5): the prompt is read once, the answer written from it.

Requests go in groups, as in `groups.py`: the prompts of a group go through the encoder side by
side, padded on the right and masked, then the decoder advances every row by a token a step.
Prompt and answer do not share positions here, so each has the whole context to itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastchat.engine.groups import GroupEngine
from fastchat.engine.row_forward import RowCache, RowForward
from fastchat.engine.validate import Checked, checked
from fastchat.errors import ContextOverflowError, ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastchat.engine.base import EngineInfo, GenerationRequest
    from fastchat.engine.choose import EngineSettings
    from fastchat.model.load import LoadedModel


class EncoderDecoderEngine(GroupEngine):
    """An Engine over a model that reads with an encoder and writes with a decoder."""

    def __init__(self, loaded: LoadedModel, settings: EngineSettings, *, path: str) -> None:
        super().__init__(loaded, settings, path=path)
        self._forward = PairForward(loaded)

    def _fitted(self, request: GenerationRequest, ids: Sequence[int]) -> Checked:
        return fitted(request, self.info, ids)


def fitted(request: GenerationRequest, info: EngineInfo, ids: Sequence[int]) -> Checked:
    """The prompt and budget of a request, each with the whole context to itself.

    Raises OutOfRangeError for a value, ContextOverflowError for a length, and UsageError where
    probabilities of the prompt are asked for: nothing predicts what an encoder reads.
    """
    if request.echo and request.logprobs is not None:
        raise UsageError(
            "this model reads its prompt with an encoder, which gives its tokens no "
            "probabilities; leave out echo or logprobs",
            param="logprobs",
        )
    context, n = info.context_length, len(ids)
    if request.max_tokens is not None and request.max_tokens > context:
        raise ContextOverflowError(
            f"max_tokens is {request.max_tokens}, but this model writes {context} at most",
            param="max_tokens",
        )
    if n > context and not request.truncate_prompt:
        raise ContextOverflowError(
            f"the prompt has {n} tokens, but this model reads {context} at most; shorten it",
            param="messages" if request.messages is not None else "prompt",
        )
    kept = ids[-context:]
    ready = checked(request, replace(info, context_length=context + len(kept)), kept)
    return replace(ready, n_dropped=n - len(kept))


class PairForward(RowForward):
    """The encoder over prompts, and then the decoder token after token.

    In a RowCache, `cache` holds the keys and values of both, `mask` (R, longest prompt) what the
    decoder may look at, and `length` the tokens of prompt and answer together.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__(loaded)
        start = loaded.model.config.decoder_start_token_id
        if start is None:
            raise ModelError(
                f"the config of this {type(loaded.model).__name__} lacks decoder_start_token_id"
            )
        self._start = int(start)

    def prefill(self, rows: RowCache, prompts: list[tuple[int, ...]], *, wants_all: bool) -> Tensor:
        """Reads the prompts and begins the answers; logits (prompts, 1, V)."""
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, prompt in enumerate(prompts):
            ids[i, : len(prompt)] = torch.tensor(prompt)
            mask[i, : len(prompt)] = 1
        rows.mask = mask.to(self._device)
        rows.length = longest
        rows.n_real = [len(prompt) for prompt in prompts]
        with torch.inference_mode():
            encoder = self._model.get_encoder()
            read = encoder(input_ids=ids.to(self._device), attention_mask=rows.mask)
        return self._written(rows, [self._start] * len(prompts), read)

    def decode(self, rows: RowCache, token_ids: list[int]) -> Tensor:
        """Adds one token to every answer; logits (R, V)."""
        rows.length += 1
        rows.n_real = [n + 1 for n in rows.n_real]
        # What was read stands in the cache as keys and values; its states are not looked at.
        any_state = self._model.get_input_embeddings().weight[0]
        read = any_state.expand(len(token_ids), rows.mask.shape[1], -1)
        return self._written(rows, token_ids, (read,))[:, -1]

    def _written(self, rows: RowCache, token_ids: list[int], read: Any) -> Tensor:
        """The logits (R, 1, V) after one more token of every answer."""
        with torch.inference_mode():
            output = self._model(
                encoder_outputs=read,
                attention_mask=rows.mask,
                decoder_input_ids=torch.tensor(token_ids, device=self._device)[:, None],
                past_key_values=rows.cache,
                use_cache=True,
            )
        rows.cache = output.past_key_values
        return output.logits
