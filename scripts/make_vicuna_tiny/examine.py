"""Asks a model held-out questions and counts the answers that are right to the letter."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exchange import Exchange


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How a topic went."""

    topic: str
    n_asked: int
    n_right: int

    @property
    def share(self) -> float:
        """Right answers among all."""
        return self.n_right / self.n_asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The scores by topic, and some wrong answers to learn from."""

    scores: tuple[Score, ...]
    mistakes: tuple[tuple[str, str, str], ...]
    """Question, right answer, given answer."""

    def table(self) -> str:
        """The scores as a Markdown table."""
        lines = ["| topic | asked | right | share |", "|---|---:|---:|---:|"]
        total = Score(
            topic="all",
            n_asked=sum(score.n_asked for score in self.scores),
            n_right=sum(score.n_right for score in self.scores),
        )
        for score in (*self.scores, total):
            lines.append(
                f"| {score.topic} | {score.n_asked} | {score.n_right} | {score.share:.1%} |"
            )
        return "\n".join(lines)


def examine(folder: Path, talks: Iterable[tuple[str, Sequence[Exchange]]]) -> Report:
    """Greedy answers to the last question of every conversation, compared with the right ones."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    # Prompts of the same length share a batch, so that none is padded.
    batches: dict[int, list[tuple[str, Exchange, list[int]]]] = defaultdict(list)
    for topic, talk in talks:
        ids = prompt_ids(tokenizer, talk)
        batches[len(ids)].append((topic, talk[-1], ids))
    asked: dict[str, int] = defaultdict(int)
    right: dict[str, int] = defaultdict(int)
    mistakes: list[tuple[str, str, str]] = []
    for length, rows in batches.items():
        prompt = torch.tensor([ids for _, _, ids in rows])
        with torch.inference_mode():
            output = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=96,
                do_sample=False,
            )
        for (topic, exchange, _), ids in zip(rows, output, strict=True):
            answer = tokenizer.decode(ids[length:], skip_special_tokens=True).strip()
            asked[topic] += 1
            if answer == exchange.answer:
                right[topic] += 1
            else:
                mistakes.append((f"[{topic}] {exchange.ask}", exchange.answer, answer))
    scores = [
        Score(topic=topic, n_asked=n, n_right=right[topic]) for topic, n in sorted(asked.items())
    ]
    return Report(scores=tuple(scores), mistakes=tuple(mistakes))


def prompt_ids(tokenizer: Any, talk: Sequence[Exchange]) -> list[int]:
    """The ids of a conversation up to its last question, by the tokenizer's chat template."""
    messages: list[dict[str, str]] = []
    for exchange in talk:
        messages += [
            {"role": "user", "content": exchange.ask},
            {"role": "assistant", "content": exchange.answer},
        ]
    return tokenizer.apply_chat_template(
        messages[:-1], add_generation_prompt=True, tokenize=True, return_dict=False
    )
