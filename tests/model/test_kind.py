from typing import Any

import pytest

from fastchat.model.kind import context_length


def llama_config(**values: Any) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(max_position_embeddings=4096, **values)


@pytest.mark.parametrize(
    ("rope", "length"),
    [
        (None, 4096),
        ({"rope_type": "default", "rope_theta": 1e4}, 4096),
        ({"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}, 16384),
        ({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, 8192),
        (
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "original_max_position_embeddings": 512,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "rope_theta": 1e4,
            },
            4096,
        ),
        (
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 4096,
                "rope_theta": 1e4,
            },
            16384,
        ),
    ],
)
def test_context_length_counts_a_stretched_range_once(rope: Any, length: int) -> None:
    config = llama_config(rope_parameters=rope) if rope else llama_config()
    assert context_length(config) == length


def test_context_length_of_other_configs() -> None:
    from transformers import BloomConfig, Gemma3TextConfig, GPT2Config, MambaConfig

    assert context_length(GPT2Config(n_positions=300)) == 300
    assert context_length(BloomConfig(seq_length=77)) == 77
    assert context_length(MambaConfig()) is None
    assert context_length(Gemma3TextConfig(max_position_embeddings=1000)) == 1000
