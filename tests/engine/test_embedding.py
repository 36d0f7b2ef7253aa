from typing import Any

import numpy as np
import pytest

from fastchat.engine.embedding import embed_texts
from fastchat.errors import OutOfRangeError, UsageError
from fastchat.families.registry import Family, registry
from fastchat.model.load import LoadedModel
from fastchat.model.prompting import from_template

VOCAB = 100
CONTEXT = 48


def tokenizer(*, closes: bool) -> Any:
    """One token per character; `<s>` in front, and `</s>` behind where `closes`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["<s>", "</s>", "<unk>", *(chr(c) for c in range(33, 127)), " "]
    raw = Tokenizer(models.WordLevel({t: i for i, t in enumerate(vocabulary)}, "<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if closes else "<s> $A",
        special_tokens=[("<s>", 0), ("</s>", 1)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def model_of(kind: str) -> Any:
    import torch
    import transformers as t

    torch.manual_seed(1)
    same = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "intermediate_size": 64}
    if kind == "bert":
        config = t.BertConfig(**same, **heads, max_position_embeddings=CONTEXT)
        return t.AutoModel.from_config(config).eval()
    if kind == "roberta":
        config = t.RobertaConfig(
            **same, **heads, max_position_embeddings=CONTEXT + 2, pad_token_id=1
        )
        return t.AutoModel.from_config(config).eval()
    if kind == "mamba":
        return t.AutoModelForCausalLM.from_config(t.MambaConfig(**same, state_size=8)).eval()
    if kind == "bloom":
        config = t.BloomConfig(**same, n_head=4, n_layer=2)
    else:
        config = t.LlamaConfig(**same, **heads, max_position_embeddings=CONTEXT)
    return t.AutoModelForCausalLM.from_config(config).eval()


def loaded_model(kind: str, **family: Any) -> LoadedModel:
    import torch

    is_causal = kind not in ("bert", "roberta")
    return LoadedModel(
        model=model_of(kind),
        tokenizer=tokenizer(closes=not is_causal),
        context_len=CONTEXT + 2 * (kind == "roberta"),
        vocab_size=VOCAB,
        family=Family(name="fallback", **family),
        prompting=from_template(registry().template("vicuna_v1.1")),
        device=torch.device("cpu"),
        dtype=torch.float32,
        eos_token_ids=frozenset({1}),
        stop=(),
        can_generate=is_causal,
    )


@pytest.fixture(scope="module", params=["llama", "bloom", "mamba", "bert", "roberta"])
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return loaded_model(request.param)


TEXTS = ["a", "hello there", "a much longer text, but of one piece", "x" * 130, "hello there"]


def vectors_of(loaded: LoadedModel, texts: Any) -> np.ndarray:
    return np.asarray(embed_texts(loaded, texts).vectors)


def test_a_vector_is_the_same_alone_and_in_a_batch(loaded: LoadedModel) -> None:
    together = vectors_of(loaded, TEXTS)
    alone = np.concatenate([vectors_of(loaded, [text]) for text in TEXTS])
    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < 1e-6
    assert together.dtype == np.float32
    assert np.abs(together[1] - together[2]).max() > 1e-3


def test_a_vector_is_the_mean_of_the_last_states(loaded: LoadedModel) -> None:
    import torch

    ids = loaded.tokenizer("hello there").input_ids
    states = loaded.model.base_model(input_ids=torch.tensor([ids]))[0][0]
    mean = states.mean(0).detach().numpy()
    (vector,) = vectors_of(loaded, ["hello there"])
    assert np.abs(vector - mean / np.linalg.norm(mean)).max() < 1e-5


def test_a_long_text_is_the_mean_of_its_pieces_by_tokens(loaded: LoadedModel) -> None:
    import torch

    result = embed_texts(loaded, ["y" * 130])
    ids = loaded.tokenizer("y" * 130).input_ids
    total = np.zeros(32)
    for start in range(0, len(ids), CONTEXT):
        piece = torch.tensor([ids[start : start + CONTEXT]])
        total += loaded.model.base_model(input_ids=piece)[0][0].sum(0).detach().numpy()
    assert np.abs(np.asarray(result.vectors)[0] - total / np.linalg.norm(total)).max() < 1e-5
    assert result.n_tokens == (len(ids),)


def test_a_family_may_take_the_first_token_instead() -> None:
    import torch

    loaded = loaded_model("bert", pooling="cls")
    ids = torch.tensor([loaded.tokenizer("hello").input_ids])
    first = loaded.model(input_ids=ids)[0][0, 0].detach().numpy()
    (vector,) = vectors_of(loaded, ["hello"])
    assert np.abs(vector - first / np.linalg.norm(first)).max() < 1e-5


def test_token_ids_are_taken_as_they_are() -> None:
    loaded = loaded_model("llama")
    ids = loaded.encode("hello")
    assert np.abs(vectors_of(loaded, [ids]) - vectors_of(loaded, ["hello"])).max() < 1e-6


def test_inputs_that_cannot_be_embedded_are_refused() -> None:
    loaded = loaded_model("llama")
    with pytest.raises(UsageError):
        embed_texts(loaded, ["fine", []])
    with pytest.raises(OutOfRangeError):
        embed_texts(loaded, [[5, VOCAB]])
    assert vectors_of(loaded, []).shape == (0, 32)
