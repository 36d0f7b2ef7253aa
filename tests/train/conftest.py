"""A tokenizer and a tiny model made on the spot."""

import json
from collections.abc import Callable
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


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deeper and wider model with the same tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny-teacher"
    write_tokenizer(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder and a decoder of two layers each, with one table of embeddings."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("models") / "tiny-t5"
    write_tokenizer(folder)
    torch.manual_seed(2)
    config = T5Config(
        vocab_size=400,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        dropout_rate=0.0,
        decoder_start_token_id=2,
        eos_token_id=1,
        pad_token_id=2,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture
def argv_for(tiny_llama: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The words of a short training of the tiny model; flags given replace these."""
    talk = [
        {"from": "human", "value": "What is the name of the river?"},
        {"from": "gpt", "value": "It is the Rhine, I think."},
    ]
    data = tmp_path / "talks.json"
    data.write_text(json.dumps([{"id": str(i), "conversations": talk} for i in range(8)]), "utf-8")

    def words(**flags: object) -> list[str]:
        given: dict[str, object] = {
            "model_name_or_path": tiny_llama,
            "data_path": data,
            "output_dir": tmp_path / "out",
            "max_steps": 2,
            "per_device_train_batch_size": 2,
            "model_max_length": 200,
            "disable_tqdm": True,
            **flags,
        }
        return [word for name, value in given.items() for word in (f"--{name}", str(value))]

    return words
