"""How near sentences are to each other, by the cosine of their embeddings, for one or more models.

python3 playground/test_embedding/test_sentence_similarity.py --models vicuna-tiny
"""

import sys
from dataclasses import dataclass, field

from embeddings import EndpointSettings, Vectors, cosines, embedders

from fastchat.errors import UsageError
from fastchat.settings import Group, WordList, run_command

__test__ = False  # published name; not a test

SENTENCES = (
    "The train to the coast leaves at nine.",
    "At nine o'clock the seaside train departs.",
    "My neighbour grows tomatoes on her roof.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilaritySettings:
    """Compares sentences by their embeddings."""

    endpoint: Group[EndpointSettings] = field(default_factory=EndpointSettings)
    sentences: WordList = SENTENCES
    """Two or more."""
    debug: bool = False
    """Show tracebacks."""


def main(argv: list[str] | None = None) -> int:
    """Status 0 when every model was asked."""
    return run_command(SimilaritySettings, run, argv, prog="test_sentence_similarity.py")


def run(settings: SimilaritySettings) -> None:
    """Prints every pair of sentences with its cosine, the nearest first.

    Raises:
        UsageError: fewer than two sentences, or the server refused them.
        UnavailableError: the server cannot be reached.
    """
    if len(settings.sentences) < 2:
        raise UsageError("--sentences needs at least two sentences.")
    for embedder in embedders(settings.endpoint):
        print(f"{embedder.model}:")
        for value, i, j in _pairs(embedder.embed(settings.sentences)):
            print(f"  {value:+.4f}  {settings.sentences[i]} | {settings.sentences[j]}")


def _pairs(vectors: Vectors) -> list[tuple[float, int, int]]:
    values = cosines(vectors, vectors)
    n = len(vectors)
    return sorted(((values[i, j], i, j) for i in range(n) for j in range(i)), reverse=True)


if __name__ == "__main__":
    sys.exit(main())
