"""Tiny random models that see, with their processors, made on the spot."""

import base64
import io
import json
from pathlib import Path
from typing import Any

from tests.engine.conftest import VOCABULARY, make_tokenizer

TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
PARTS_TEMPLATE = (
    "<s>{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}MARK{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
"""Knows parts only: of a content that is one text, nothing comes out."""


def picture(width: int, height: int, seed: int) -> Any:
    """A picture of noise."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 255, (height, width, 3), dtype=np.uint8))


def data_url(image: Any, kind: str = "PNG", **options: Any) -> str:
    out = io.BytesIO()
    image.save(out, kind, **options)
    text = base64.b64encode(out.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{text}"


def tokenizer_with(**tokens: str) -> Any:
    """A tokenizer that knows marks of pictures by name."""
    plain = make_tokenizer()
    return type(plain)(
        tokenizer_object=plain.backend_tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=tokens,
    )


def save(model: Any, folder: Path) -> None:
    """Saves a model whose vision tower matters as much as its text."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_seeing = "vision" in name or "visual" in name or "projector" in name
            if is_seeing and parameter.dim() > 1:
                parameter.normal_(std=0.2)
    model.save_pretrained(folder)


def make_llava(folder: Path) -> Path:
    """CLIP and a Llama; a chat template that knows nothing of pictures."""
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    config = LlavaConfig(
        text_config={"model_type": "llama", **TEXT},
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 28,
            "patch_size": 7,
            "projection_dim": 32,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(7)
    save(LlavaForConditionalGeneration(config).eval(), folder)
    crop = {"height": 28, "width": 28}
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=crop),
        tokenizer=tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder


def make_idefics3(folder: Path) -> Path:
    """SigLIP and a Llama; a picture is cut into rows and columns, each with its own marks."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.models.idefics3.image_processing_pil_idefics3 import (
        Idefics3ImageProcessorPil,
    )

    tokenizer = make_tokenizer()
    marks = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    marks += [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    tokenizer.add_tokens(marks, special_tokens=True)
    config = AutoConfig.for_model(
        "idefics3",
        text_config={"model_type": "llama", **TEXT},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 28,
            "patch_size": 7,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    torch.manual_seed(7)
    save(AutoModelForImageTextToText.from_config(config).eval(), folder)
    sizes: dict[str, Any] = {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}}
    Idefics3ImageProcessorPil(**sizes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    options = {"image_seq_len": 4, "processor_class": "Idefics3Processor"}
    (folder / "processor_config.json").write_text(json.dumps(options))
    return folder


def make_internvl(folder: Path) -> Path:
    """InternViT and a Qwen 2; a picture is cut into patches, and a small one of all comes last."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    tokenizer = tokenizer_with(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    tokenizer.chat_template = PARTS_TEMPLATE.replace("MARK", "<IMG_CONTEXT>")
    config = AutoConfig.for_model(
        "internvl",
        text_config={"model_type": "qwen2", **TEXT, "tie_word_embeddings": False},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": [28, 28],
            "patch_size": [7, 7],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    torch.manual_seed(7)
    save(AutoModelForImageTextToText.from_config(config).eval(), folder)
    sizes: dict[str, Any] = {"size": {"height": 28, "width": 28}, "max_patches": 2}
    GotOcr2ImageProcessorPil(crop_to_patches=True, **sizes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    options = {"image_seq_length": 4, "processor_class": "InternVLProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(options))
    return folder


def make_gemma3(folder: Path) -> Path:
    """SigLIP and a Gemma 3, whose pictures' tokens see each other, in windows and without."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
    from transformers.models.gemma3.processing_gemma3 import Gemma3Processor

    tokenizer = tokenizer_with(boi_token="<boi>", eoi_token="<eoi>", image_token="<image>")
    tokenizer.chat_template = PARTS_TEMPLATE.replace("MARK", "<boi>")
    config = AutoConfig.for_model(
        "gemma3",
        text_config={
            **TEXT,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "sliding_window": 12,
            "query_pre_attn_scalar": 8,
            "tie_word_embeddings": False,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 56,
            "patch_size": 7,
            "vision_use_head": False,
        },
        mm_tokens_per_image=16,
        tie_word_embeddings=False,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        boi_token_index=tokenizer.convert_tokens_to_ids("<boi>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<eoi>"),
    )
    torch.manual_seed(7)
    save(AutoModelForImageTextToText.from_config(config).eval(), folder)
    processor = Gemma3ImageProcessorPil(size={"height": 56, "width": 56})
    Gemma3Processor(processor, tokenizer, image_seq_length=16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_qwen(folder: Path, generation: str = "qwen2_vl") -> Path:
    """Qwen's: pictures of any shape, positions in three directions, a template of parts."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = make_tokenizer()
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer.add_tokens(marks, special_tokens=True)
    tokenizer.chat_template = PARTS_TEMPLATE.replace(
        "MARK", "".join((marks[0], marks[2], marks[1]))
    )
    ids = tokenizer.convert_tokens_to_ids
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 4, "patch_size": 7}
    if generation == "qwen2_vl":
        vision |= {"embed_dim": 32, "mlp_ratio": 2}
    else:
        vision |= {
            "out_hidden_size": 32,
            "intermediate_size": 48,
            "window_size": 28,
            "fullatt_block_indexes": [1],
        }
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    config = AutoConfig.for_model(
        generation,
        text_config={k: v for k, v in TEXT.items() if k != "head_dim"} | {"rope_parameters": rope},
        vision_config=vision | {"spatial_merge_size": 2, "temporal_patch_size": 2},
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    torch.manual_seed(7)
    save(AutoModelForImageTextToText.from_config(config).eval(), folder)
    processor = Qwen2VLImageProcessorPil(
        patch_size=7, merge_size=2, min_pixels=14 * 14 * 4, max_pixels=14 * 14 * 16
    )
    processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"processor_class": "X"}))
    return folder
