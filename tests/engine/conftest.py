"""Tiny random models of many architectures, with a tokenizer made on the spot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastchat.engine import native

needs_compiler = pytest.mark.skipif(
    native.library() is None, reason="the package was installed without a C compiler"
)

SLOTS = (
    "llama",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "mistral",
    "mistral_window",
    "gemma2",
    "gemma3",
    "phi3",
    "olmo2",
    "gpt2",
    "opt",
    "gpt_neox",
    "mixtral",
    "gpt_oss",
)
GROUPS = ("bloom", "falcon", "mamba", "falcon_h1", "qwen3_next")

CONTEXT = 256
WINDOW = 16
VOCABULARY = 400


def config_of(architecture: str) -> Any:
    """A config of about 50,000 parameters, its weights wide enough for attention to matter."""
    from transformers import AutoConfig

    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.3,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }
    full = {k: v for k, v in common.items() if k not in ("num_key_value_heads", "head_dim")}
    experts = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "decoder_sparse_step": 1,
    }
    linear = {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "shared_expert_intermediate_size": 32,
        "layer_types": ["linear_attention", "full_attention"],
    }
    mamba = {
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_n_groups": 1,
        "mamba_d_state": 8,
        "mamba_chunk_size": 16,
    }
    windows = ["sliding_attention", "full_attention"]
    match architecture:
        case "llama" | "qwen2" | "qwen3" | "phi3" | "olmo2":
            return AutoConfig.for_model(architecture, **common)
        case "qwen3_moe":
            return AutoConfig.for_model("qwen3_moe", **common, **experts)
        case "mistral":
            return AutoConfig.for_model("mistral", **common, sliding_window=None)
        case "mistral_window":
            return AutoConfig.for_model("mistral", **common, sliding_window=WINDOW)
        case "gemma2":
            return AutoConfig.for_model(
                "gemma2", **common, sliding_window=WINDOW, query_pre_attn_scalar=8
            )
        case "gemma3":
            return AutoConfig.for_model(
                "gemma3_text",
                **common,
                sliding_window=WINDOW,
                query_pre_attn_scalar=8,
                layer_types=windows,
            )
        case "mixtral":
            return AutoConfig.for_model("mixtral", **common, num_local_experts=4)
        case "gpt_oss":
            return AutoConfig.for_model(
                "gpt_oss",
                **common,
                num_local_experts=4,
                num_experts_per_tok=2,
                sliding_window=WINDOW,
                layer_types=windows,
            )
        case "gpt2":
            return AutoConfig.for_model(
                "gpt2", vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT,
                initializer_range=0.3, bos_token_id=1, eos_token_id=2,
            )  # fmt: skip
        case "opt":
            return AutoConfig.for_model(
                "opt", **full, ffn_dim=48, word_embed_proj_dim=32, init_std=0.3
            )
        case "gpt_neox":
            return AutoConfig.for_model("gpt_neox", **full)
        case "bloom":
            return AutoConfig.for_model(
                "bloom", vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4,
                initializer_range=0.3, bos_token_id=1, eos_token_id=2, pad_token_id=0,
            )  # fmt: skip
        case "falcon":
            return AutoConfig.for_model(
                "falcon", **full, new_decoder_architecture=False, multi_query=True, alibi=True
            )
        case "mamba":
            return AutoConfig.for_model(
                "mamba", vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=8,
                initializer_range=0.3, bos_token_id=1, eos_token_id=2, pad_token_id=0,
            )  # fmt: skip
        case "falcon_h1":
            return AutoConfig.for_model("falcon_h1", **common, **mamba)
        case "qwen3_next":
            return AutoConfig.for_model("qwen3_next", **common, **experts, **linear)
    raise ValueError(architecture)


def make_tokenizer() -> Any:
    """Byte-level, with `<s>`, `</s>` and a plain chat template; ids above its own are unused."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = (
        "<s>{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    return fast


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """architecture -> the folder of its checkpoint."""
    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            import torch
            from transformers import AutoModelForCausalLM

            torch.manual_seed(7)
            model = AutoModelForCausalLM.from_config(config_of(architecture)).eval()
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "sinks" in name:
                        parameter.normal_()
            folder = tmp_path_factory.mktemp(architecture)
            model.save_pretrained(folder)
            make_tokenizer().save_pretrained(folder)
            made[architecture] = folder
        return made[architecture]

    return make
