"""A tokenizer and a tiny model made on the spot."""

import json
from pathlib import Path

import pytest

TEXTS = [
    "A chat between a curious user and an artificial intelligence assistant.",
    "USER: What is the name of the river? ASSISTANT: It is the Rhine, I think.",
    "Say that again, please. Name three colours: red, blue and green.",
] * 20


def write_tokenizer(folder: Path, *, pad: bool = True) -> None:
    """A byte-level BPE of about 400 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    specials = ["<s>", "</s>", *(["<pad>"] if pad else [])]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "clean_up_tokenization_spaces": False,
    }
    if pad:
        settings["pad_token"] = "<pad>"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


def write_model(folder: Path, *, positions: int = 256) -> None:
    """A Llama of two layers and random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=positions,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and its tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    write_tokenizer(folder)
    write_model(folder)
    return folder
