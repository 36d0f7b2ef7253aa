"""Random PEFT adapters, made on the spot by peft itself."""

import warnings
from pathlib import Path
from typing import Any


def make_adapter(base: Path, folder: Path, *, seed: int, **config: Any) -> Path:
    """Saves a LoRA adapter of `base` whose products are large enough to matter."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    sees = hasattr(AutoConfig.from_pretrained(base), "vision_config")
    auto: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    model: Any = auto.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(seed)
    values: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    lora = LoraConfig(**values | config, init_lora_weights=False, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own
        made: Any = get_peft_model(model, lora)
        made.peft_config["default"].base_model_name_or_path = str(base)
        made.save_pretrained(folder)
    return folder


def logits_by_peft(base: Path, adapter: Path | None, ids: list[int]) -> Any:
    """(tokens, V), from peft's own model of one adapter."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    if adapter is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft's own
            model = PeftModel.from_pretrained(model, str(adapter)).eval()
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
