"""The flags of the methods of training: adapters, distillation, T5's pairs, Yuan 2's losses."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(kw_only=True)
class LoraArguments:
    """Adapters in place of all the weights."""

    lora: bool = field(
        default=False, metadata={"help": "Train a LoRA adapter; the model stays as it is."}
    )
    lora_r: int = field(default=8, metadata={"help": "Rank of the adapter's matrices."})
    lora_alpha: int = field(
        default=16, metadata={"help": "The adapter counts lora_alpha / lora_r times."}
    )
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout before the adapter."})
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "v_proj"],
        metadata={"help": "Names of the layers that are adapted, or `all-linear`."},
    )
    lora_weight_path: str = field(
        default="", metadata={"help": "An adapter to go on from, as a training saved it."}
    )
    lora_bias: Literal["none", "all", "lora_only"] = field(
        default="none",
        metadata={"help": "Biases that are trained as well: all, or those of adapted layers."},
    )
    lora_init: Literal["default", "gaussian", "pissa", "olora", "loftq", "eva"] = field(
        default="default",
        metadata={
            "help": "Where the adapter starts: at nothing (default, gaussian), at the leading "
            "singular vectors (pissa) or an orthonormal basis (olora) of the weights, at what "
            "4 bits lose (loftq), or along the directions of the data (eva)."
        },
    )
    q_lora: bool = field(
        default=False, metadata={"help": "Keep the model in 4 bits under the adapter (QLoRA)."}
    )


@dataclass(kw_only=True)
class DistillArguments:
    """A greater model as the teacher of this one."""

    teacher_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or hub id of the teacher; none, no distillation."}
    )
    teacher_dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "Precision of the teacher; auto is its checkpoint's."}
    )
    teacher_bits: Literal["16", "8", "4"] = field(
        default="16", metadata={"help": "8 or 4 quantize the teacher; 16 leaves it as it is."}
    )
    kd_temperature: float = field(
        default=1.0, metadata={"help": "Softens both distributions before they are compared."}
    )
    kd_divergence: Literal["forward", "reverse", "jsd"] = field(
        default="forward",
        metadata={
            "help": "KL(teacher, student), KL(student, teacher), or the mean of both to the middle."
        },
    )
    kd_alpha: float = field(
        default=0.5, metadata={"help": "Share of the divergence of the outputs in the loss."}
    )
    kd_beta: float = field(
        default=0.0, metadata={"help": "Share of the distance of the hidden states in the loss."}
    )
    kd_layer_map: str | None = field(
        default=None,
        metadata={
            "help": "Layers that are compared, counted from 0, as student:teacher pairs like "
            "0:1,1:3; the default spreads the student's layers evenly over the teacher's."
        },
    )
    kd_cache: str | None = field(
        default=None,
        metadata={"help": "File for the teacher's best logits, so that it speaks once a row."},
    )
    kd_top_k: int = field(
        default=64, metadata={"help": "How many logits a position the cache keeps."}
    )


@dataclass(kw_only=True)
class Seq2SeqArguments:
    """Pairs for an encoder and a decoder."""

    num_data: int = field(
        default=-1, metadata={"help": "Conversations to take from the file; -1 takes all."}
    )
    preprocessed_path: str | None = field(
        default=None,
        metadata={"help": "JSON file that keeps the tokenized pairs from one run to the next."},
    )


@dataclass(kw_only=True)
class YuanArguments:
    """What Yuan 2 learns of a conversation; without any of these, all of it."""

    last_response_loss: bool = field(
        default=False, metadata={"help": "Learn the last reply of every conversation."}
    )
    split_example_loss: bool = field(
        default=False,
        metadata={"help": "Make an example of every reply, with all that came before it."},
    )
    efficient_loss: bool = field(
        default=False, metadata={"help": "Learn every reply of a conversation at once."}
    )
