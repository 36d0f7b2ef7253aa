"""A classifier of reviews on top of embeddings: trained on some, tried on the others.

python3 playground/test_embedding/test_classification.py --models vicuna-tiny
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from embeddings import (
    REVIEWS,
    EndpointSettings,
    Vectors,
    embedders,
    read_reviews,
)
from numpy.typing import NDArray

from fastchat.errors import UsageError
from fastchat.settings import Group, run_command

__test__ = False  # published name; not a test


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationSettings:
    """Learns the labels of reviews from their embeddings."""

    endpoint: Group[EndpointSettings] = field(default_factory=EndpointSettings)
    data: Path = REVIEWS
    """CSV with the columns `label` and `text`."""
    test_share: float = 0.25
    """Of the reviews, kept from training."""
    penalty: float = 0.1
    """On large weights: more is a simpler classifier."""
    seed: int = 0
    """Of the split."""
    debug: bool = False
    """Show tracebacks."""


def main(argv: list[str] | None = None) -> int:
    """Status 0 when every model was tried."""
    return run_command(ClassificationSettings, run, argv, prog="test_classification.py")


def run(settings: ClassificationSettings) -> None:
    """Prints each model's accuracy on the reviews it did not learn from, beside guessing.

    Raises:
        UsageError: a setting cannot be followed, or the server refused.
        DataError: the file cannot be used.
        UnavailableError: the server cannot be reached.
    """
    reviews = read_reviews(settings.data)
    labels, truth = np.unique([review.label for review in reviews], return_inverse=True)
    train, test = split(truth, share=settings.test_share, seed=settings.seed)
    if not len(train) or not len(test):
        raise UsageError("--test-share must leave reviews to learn from, and some to try.")
    if settings.penalty <= 0:
        raise UsageError("--penalty must be above 0.")
    guess = np.bincount(truth[train], minlength=len(labels)).argmax()
    print(f"{len(train)} reviews to learn from, {len(test)} to try")
    print(f"  {np.mean(truth[test] == guess):.3f}  always {str(labels[guess])!r}")
    for embedder in embedders(settings.endpoint):
        vectors = embedder.embed([review.text for review in reviews])
        weights = fit(vectors[train], truth[train], n_labels=len(labels), penalty=settings.penalty)
        accuracy = np.mean(predict(vectors[test], weights) == truth[test])
        print(f"  {accuracy:.3f}  {embedder.model}")


def split(
    truth: NDArray[np.int_], *, share: float, seed: int
) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Numbers of the reviews to learn from, and of those to try: `share` of every label."""
    draw = np.random.default_rng(seed)
    train: list[int] = []
    test: list[int] = []
    for label in np.unique(truth):
        places = draw.permutation(np.flatnonzero(truth == label)).tolist()
        n_test = min(max(round(len(places) * share), 0), len(places))
        test += places[:n_test]
        train += places[n_test:]
    return np.array(train, dtype=int), np.array(test, dtype=int)


def fit(vectors: Vectors, truth: NDArray[np.int_], *, n_labels: int, penalty: float) -> Vectors:
    """Weights of a ridge regression onto the labels, one column each.

    vectors: (n, d); truth: (n,), numbers of labels; returns (d + 1, n_labels).
    Source: Hoerl and Kennard 1970, "Ridge regression", on indicators of the labels.
    """
    inputs = _with_constant(vectors)
    gram = inputs.T @ inputs + penalty * np.eye(inputs.shape[1])
    return np.linalg.solve(gram, inputs.T @ np.eye(n_labels)[truth])


def predict(vectors: Vectors, weights: Vectors) -> NDArray[np.int_]:
    """Number of the likeliest label of each: (n,)."""
    return (_with_constant(vectors) @ weights).argmax(axis=1)


def _with_constant(vectors: Vectors) -> Vectors:
    return np.hstack([vectors, np.ones((len(vectors), 1))])


if __name__ == "__main__":
    sys.exit(main())
