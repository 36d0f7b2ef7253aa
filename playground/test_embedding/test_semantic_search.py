"""Searches reviews by what they mean: those whose embeddings are nearest to the question's.

python3 playground/test_embedding/test_semantic_search.py --query "a drink that tastes good"
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from embeddings import REVIEWS, EndpointSettings, cosines, embedders, read_reviews

from fastchat.errors import UsageError
from fastchat.settings import Group, run_command

__test__ = False  # published name; not a test


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """Finds the reviews nearest to a question."""

    endpoint: Group[EndpointSettings] = field(default_factory=EndpointSettings)
    query: str = "a drink that tastes good"
    """What is looked for."""
    data: Path = REVIEWS
    """CSV with the columns `label` and `text`."""
    top: int = 3
    """How many are shown."""
    debug: bool = False
    """Show tracebacks."""


def main(argv: list[str] | None = None) -> int:
    """Status 0 when every model was asked."""
    return run_command(SearchSettings, run, argv, prog="test_semantic_search.py")


def run(settings: SearchSettings) -> None:
    """Prints the nearest reviews with their cosines, the nearest first.

    Raises:
        UsageError: a setting cannot be followed, or the server refused.
        DataError: the file cannot be used.
        UnavailableError: the server cannot be reached.
    """
    if settings.top < 1:
        raise UsageError("--top must be at least 1.")
    reviews = read_reviews(settings.data)
    for embedder in embedders(settings.endpoint):
        vectors = embedder.embed([settings.query, *(review.text for review in reviews)])
        values = cosines(vectors[:1], vectors[1:])[0]
        print(f"{embedder.model}:")
        for place in (-values).argsort(kind="stable")[: settings.top]:
            print(f"  {values[place]:+.4f}  {reviews[place].label}  {reviews[place].text}")


if __name__ == "__main__":
    sys.exit(main())
