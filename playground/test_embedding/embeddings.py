"""Embeddings of texts from any server that has `/v1/embeddings`, and how near two of them are."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openai
from numpy.typing import NDArray

from fastchat.errors import DataError, UnavailableError, UsageError
from fastchat.settings import CommaList

REVIEWS = Path(__file__).resolve().parent / "reviews.csv"

Vectors = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """Who is asked for embeddings."""

    base_url: str = "http://localhost:8000/v1"
    """The API of the server."""
    models: CommaList = ()
    """Models to ask, one after another; by default the first that is listed."""
    api_key: str = "EMPTY"
    """Key of a server that wants one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A line of a file of reviews."""

    label: str
    text: str


class Embedder:
    """One model's embeddings."""

    def __init__(self, client: openai.OpenAI, model: str) -> None:
        self._client = client
        self.model = model

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of length 1: (n_texts, n_dimensions) float64.

        Raises:
            UsageError: the server refused the request.
            UnavailableError: it cannot be reached.
        """
        try:
            reply = self._client.embeddings.create(model=self.model, input=list(texts))
        except openai.APIStatusError as error:
            raise UsageError(f"{self.model}: {error.message}") from None
        except openai.APIConnectionError:
            raise UnavailableError(f"Nobody answers at {self._client.base_url}.") from None
        vectors = np.array([item.embedding for item in reply.data], dtype=np.float64)
        return vectors / np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))


def embedders(settings: EndpointSettings) -> list[Embedder]:
    """One for each model that is to be asked.

    Raises:
        UsageError: the server refused, or lists no model.
        UnavailableError: it cannot be reached.
    """
    client = openai.OpenAI(base_url=settings.base_url, api_key=settings.api_key)
    names = settings.models or tuple(_listed(client)[:1])
    if not names:
        raise UsageError(f"{settings.base_url} lists no model; name one with --models.")
    return [Embedder(client, name) for name in names]


def _listed(client: openai.OpenAI) -> list[str]:
    try:
        return [model.id for model in client.models.list()]
    except openai.APIStatusError as error:
        raise UsageError(error.message) from None
    except openai.APIConnectionError:
        message = f"Nobody answers at {client.base_url}; start a server or set --base-url."
        raise UnavailableError(message) from None


def cosines(one: Vectors, many: Vectors) -> Vectors:
    """Cosine of the angle between each of `one` and each of `many`, vectors of length 1.

    one: (n, d); many: (m, d); returns (n, m).
    """
    return one @ many.T


def read_reviews(path: Path) -> list[Review]:
    """The reviews of a CSV file with the columns `label` and `text`.

    Raises:
        DataError: the file cannot be read, or a line has no label or no text.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    for number, row in enumerate(rows, start=2):
        if not row.get("label") or not (row.get("text") or "").strip():
            raise DataError(f"{path}, line {number}: needs the columns `label` and `text`.")
    if not rows:
        raise DataError(f"{path} holds no reviews.")
    return [Review(label=row["label"], text=row["text"]) for row in rows]
