"""What people ask about: prompts in clusters, by their embeddings. Arrays in, places out.

Prompts that are the same words in any order are one. Clusters are numbered by size, prompts within
one are ordered by how close they are to its centre.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastchat.arena.release import conversations, prompts
from fastchat.arena.votes import Floats
from fastchat.errors import UsageError

Algorithm = Literal["kmeans", "aggcls", "HDBSCAN"]
SEED = 42
SMALLEST = 10
"""Prompts that HDBSCAN takes for a cluster."""
_WORDS_DIMENSIONS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Prompts about one thing."""

    members: NDArray[np.intp]
    """(n,) places of its prompts, the closest to the centre first."""
    similarity: Floats
    """(n,) cosines to the centre."""


def texts_of(row: Mapping[str, Any]) -> list[str]:
    """What the person wrote in a row of any published kind."""
    if isinstance(text := row.get("text"), str):
        return [text]
    if conversations(row):
        return prompts(row)
    turns = row.get("turns")
    return [t for t in turns if isinstance(t, str)] if isinstance(turns, list) else []


def words_key(text: str) -> str:
    """What two prompts of the same words have in common: lower case, no punctuation, sorted."""
    return " ".join(sorted(re.sub(r"[^\w\s]", "", text.lower()).split()))


def distinct(texts: Sequence[str]) -> list[str]:
    """The first of each set of prompts with the same words."""
    first: dict[str, str] = {}
    for text in texts:
        first.setdefault(words_key(text), text)
    return list(first.values())


def by_words(texts: Sequence[str]) -> Floats:
    """(n, d) embeddings that no model makes: weighted words and word pairs, in few dimensions.

    Source: latent semantic analysis, Deerwester and others 1990.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        sublinear_tf=True, token_pattern=r"(?u)[\u3040-\u30ff\u3400-\u9fff]|\w\w+", min_df=1
    )
    try:
        matrix = vectorizer.fit_transform(texts)
    except ValueError:
        raise UsageError("the prompts hold no words; lower --min-length or ask a model.") from None
    dimensions = min(_WORDS_DIMENSIONS, min(matrix.shape) - 1)
    if dimensions < 2:
        return np.asarray(matrix.todense(), np.float64)
    return TruncatedSVD(dimensions, random_state=SEED).fit_transform(matrix)


def normalised(embeddings: Floats) -> Floats:
    """(n, d) rows of length 1; rows of zeros stay."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.where(lengths > 0, lengths, 1.0)


def clusters(embeddings: Floats, n: int, algorithm: Algorithm) -> list[Cluster]:
    """Clusters of (m, d) rows of length 1, the largest first; what HDBSCAN leaves out is in none.

    Raises:
        UsageError: more clusters than prompts are asked for, or there are too few for any.
    """
    if algorithm != "HDBSCAN" and not 1 <= n <= len(embeddings):
        raise UsageError(f"--num-clusters {n}: there are {len(embeddings)} different prompts.")
    labels = _labels(embeddings, n, algorithm)
    found = [
        _cluster(embeddings, np.flatnonzero(labels == k)) for k in np.unique(labels[labels >= 0])
    ]
    if not found:
        raise UsageError(f"HDBSCAN finds no {SMALLEST} prompts close together; take kmeans.")
    return sorted(found, key=lambda c: (-len(c.members), int(c.members.min())))


def _labels(embeddings: Floats, n: int, algorithm: Algorithm) -> NDArray[np.intp]:
    from sklearn import cluster

    library: Any = cluster  # whose annotations lack numbers and switches
    match algorithm:
        case "kmeans":
            made = library.KMeans(n, n_init=10, random_state=SEED)
        case "aggcls":
            made = library.AgglomerativeClustering(n)
        case "HDBSCAN":
            if len(embeddings) < SMALLEST:
                return np.full(len(embeddings), -1, np.intp)
            made = library.HDBSCAN(min_cluster_size=SMALLEST, copy=True)
    return np.asarray(made.fit_predict(embeddings), np.intp)


def _cluster(embeddings: Floats, members: NDArray[np.intp]) -> Cluster:
    centre = embeddings[members].mean(axis=0)
    similarity = embeddings[members] @ (centre / (np.linalg.norm(centre) or 1.0))
    order = np.argsort(-similarity, kind="stable")
    return Cluster(members=members[order], similarity=similarity[order])
