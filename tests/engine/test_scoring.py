"""Cross-encoders: a tiny BERT and a tiny Llama with one number as their head."""

from pathlib import Path
from typing import Any

import pytest

from fastchat.engine.choose import EngineSettings, open_engine
from fastchat.engine.scoring import Scores
from fastchat.errors import UsageError
from fastchat.model.load import ModelSettings

VOCAB = 100
CONTEXT = 48
PAIRS = [("what", "a long text about it"), ("what", "no"), ("who is it", "me"), ("what", "no")]


def tokenizer() -> Any:
    """One token per character, and marks around each text of a pair."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["<s>", "</s>", "<unk>", *(chr(c) for c in range(33, 127)), " "]
    raw = Tokenizer(models.WordLevel({t: i for i, t in enumerate(vocabulary)}, "<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B:1 </s>:1",
        special_tokens=[("<s>", 0), ("</s>", 1)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=CONTEXT,
    )


def checkpoint(folder: Path, kind: str, n_labels: int = 1) -> str:
    """A tiny random classifier in a folder."""
    import torch
    import transformers as t

    torch.manual_seed(1)
    same: dict[str, Any] = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2}
    same |= {"num_attention_heads": 4, "intermediate_size": 64, "num_labels": n_labels}
    same |= {"max_position_embeddings": CONTEXT}
    if kind == "bert":
        model = t.BertForSequenceClassification(t.BertConfig(**same, pad_token_id=1))
    else:
        model = t.LlamaForSequenceClassification(t.LlamaConfig(**same))
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


async def scored(path: str, pairs: list[tuple[str, str]]) -> Scores:
    engine: Any = await open_engine(ModelSettings(model_path=path, device="cpu"), EngineSettings())
    try:
        assert "score" in engine.info.abilities and "generate" not in engine.info.abilities
        return await engine.score(pairs)
    finally:
        await engine.stop(0)


@pytest.mark.parametrize("kind", ["bert", "llama"])
async def test_scores_are_the_models_own_whatever_the_batch(kind: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path = checkpoint(tmp_path, kind)
    found = await scored(path, PAIRS)
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    theirs = AutoTokenizer.from_pretrained(path)
    for pair, value, n_tokens in zip(PAIRS, found.values, found.n_tokens, strict=True):
        inputs = theirs(*pair, return_tensors="pt")
        if kind == "llama":
            inputs.pop("token_type_ids", None)
        with torch.inference_mode():
            expected = torch.sigmoid(model(**inputs).logits[0, 0]).item()
        assert value == pytest.approx(expected, abs=1e-5)
        assert n_tokens == inputs["input_ids"].shape[1]
    assert found.values[1] == pytest.approx(found.values[3], abs=1e-6)


async def test_a_long_document_is_cut_and_a_long_query_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "bert")
    found = await scored(path, [("what", "x" * 500)])
    assert found.n_tokens == (CONTEXT,)
    with pytest.raises(UsageError, match="no room") as caught:
        await scored(path, [("x" * CONTEXT, "y")])
    assert caught.value.param == "query"


async def test_a_classifier_of_several_classes_does_not_score(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "bert", n_labels=3)
    settings = ModelSettings(model_path=path, device="cpu")
    engine = await open_engine(settings, EngineSettings())
    try:
        assert engine.info.abilities == {"embed"}
    finally:
        await engine.stop(0)
