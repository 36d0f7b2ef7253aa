"""The folder of a trained model: weights, config, tokenizer and chat template."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastchat.errors import ModelError
from fastchat.train.arguments import Arguments
from fastchat.train.checkpoints import weights_are_whole
from fastchat.train.lora import fit_to_plain_base, moves_base

if TYPE_CHECKING:
    from transformers import Trainer

    from fastchat.template import Template

logger = logging.getLogger(__name__)

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)


class FolderFinisher:
    """Adds to saved weights what makes their folder a model to serve.

    Args:
        has_new_tokens: the tokenizer is not the one that the model came with.
        chat_template: how conversations are written, where no template of ours says it.
    """

    def __init__(
        self,
        arguments: Arguments,
        *,
        tokenizer: Any,
        template: "Template",
        has_new_tokens: bool = False,
        chat_template: str | None = None,
    ) -> None:
        from fastchat.train.chat_template import chat_template_for, speaks

        self.arguments = arguments
        self.tokenizer = tokenizer
        self.folder = Path(str(arguments.training.output_dir))
        self.has_new_tokens = has_new_tokens
        self.chat_template = chat_template
        if chat_template is not None:
            return
        if speaks(tokenizer, tokenizer.chat_template, template):
            return
        self.chat_template = chat_template_for(tokenizer, template)
        if self.chat_template is None and arguments.training.process_index == 0:
            logger.warning(
                "no chat template gives the ids that were trained on; serve the folder with "
                "--conv-template %s",
                arguments.model.conv_template,
            )

    def __call__(self, folder: Path) -> None:
        """Completes `folder`: config for serving, tokenizer, chat template."""
        config_path = folder / "config.json"
        if config_path.is_file():  # an adapter has none
            config = json.loads(config_path.read_text("utf-8"))
            config["use_cache"] = True
            config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
        for path in folder.glob("*.safetensors"):
            # Written through a temporary file that only its owner may read.
            path.chmod(0o666 & ~_umask())
        if self.arguments.preset.method == "seq2seq":
            _keep_one_table(folder / "pytorch_model_fsdp.bin")
        self._write_tokenizer(folder)
        if self.chat_template is not None:
            (folder / "chat_template.jinja").write_text(self.chat_template, "utf-8")

    def _write_tokenizer(self, folder: Path) -> None:
        """Copies the tokenizer's files: written anew, some tokenize differently.

        transformers 5 forgets the `legacy` flag of a Llama tokenizer when it saves one.
        """
        from transformers.utils.hub import cached_file

        if self.has_new_tokens:
            self._save_grown_tokenizer(folder)
            return
        copied = False
        for name in TOKENIZER_FILES:
            path = cached_file(
                self.arguments.model.model_name_or_path,
                name,
                cache_dir=self.arguments.fit.cache_dir,
                _raise_exceptions_for_missing_entries=False,
            )
            if path is not None and Path(path).resolve() != (folder / name).resolve():
                shutil.copyfile(path, folder / name)
                copied = True
        if not copied and not (folder / "tokenizer_config.json").is_file():
            self.tokenizer.save_pretrained(folder)

    def _save_grown_tokenizer(self, folder: Path) -> None:
        """Writes a tokenizer that learned new tokens, and how it treated the old ones."""
        self.tokenizer.save_pretrained(folder)
        legacy = self.tokenizer.init_kwargs.get("legacy")
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text("utf-8"))
        if legacy is not None and settings.get("legacy") != legacy:
            path.write_text(json.dumps(settings | {"legacy": legacy}, indent=2) + "\n", "utf-8")


def _keep_one_table(path: Path) -> None:
    """Leaves the shared embeddings in a checkpoint of FSDP under their first name alone.

    By that name FSDP looks a layer up that encoder and decoder have in common.
    """
    import torch

    if not path.is_file():
        return
    state = torch.load(path, map_location="cpu", weights_only=True)
    copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    part = path.with_name(f".{path.name}.part")
    torch.save({name: x for name, x in state.items() if name not in copies}, part)
    part.replace(path)


def _umask() -> int:
    """The rights that new files are not given."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def save(trainer: "Trainer", finish: FolderFinisher) -> None:
    """Writes the trained model once, whole, from however many processes hold it."""
    trainer.save_model()
    if trainer.args.should_save:
        if moves_base(finish.arguments.lora):
            fit_to_plain_base(finish.folder)
        finish(finish.folder)


def check_saving(trainer: "Trainer", finish: FolderFinisher) -> None:
    """Saves the model as it is, looks at what was written and removes it.

    Raises:
        ModelError: the folder could not be written, or a file of it is not whole.
    """
    folder = finish.folder / "check_save"
    problem = ""
    try:
        trainer.save_model(str(folder))
        if trainer.args.should_save:
            finish(folder)
            if not weights_are_whole(folder):
                problem = "the weights were not written to their end"
    except (OSError, RuntimeError, ValueError) as error:
        problem = str(error)
    if trainer.args.should_save:
        shutil.rmtree(folder, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    if problem:
        raise ModelError(f"--check_save: the model cannot be saved to {folder.parent}: {problem}")
    if trainer.args.should_save:
        logger.info("saving works folder=%s", folder.parent)
