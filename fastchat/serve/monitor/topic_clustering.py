"""Finds what people ask about: prompts in clusters, with examples of each.

python3 -m fastchat.serve.monitor.topic_clustering --input-file battles.json --num-clusters 20
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from fastchat.errors import DataError, UsageError
from fastchat.serve.monitor.embedding import EmbeddingSettings, embed
from fastchat.settings import Group, run_command

if TYPE_CHECKING:
    from fastchat.arena.topics import Cluster
    from fastchat.arena.votes import Floats

SEED = 42


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSettings:
    """Clusters prompts and writes the clusters: as text, every prompt, and for summaries."""

    input_file: str = tyro.MISSING
    """Battles, conversations or rows with `text` or `turns`: a file, logs, or a store's URL."""
    embedding: Group[EmbeddingSettings] = EmbeddingSettings()  # noqa: RUF009 - frozen
    min_length: int | None = None
    """Leave out shorter prompts (characters)."""
    max_length: int | None = None
    """Leave out longer prompts (characters)."""
    english_only: bool = False
    """Leave out prompts in other languages."""
    num_clusters: int = 20
    """How many clusters; HDBSCAN finds out itself."""
    cluster_alg: Literal["kmeans", "aggcls", "HDBSCAN"] = "kmeans"
    """How prompts are put together."""
    show_top_k: int = 200
    """Prompts of each cluster in the text file and for summaries."""
    show_cut_off: int = 512
    """Characters of a prompt that are shown."""
    save_embeddings: bool = False
    """Keep the embeddings as embeddings.npy."""
    embeddings_file: Path | None = None
    """Embeddings of an earlier run over the same prompts."""
    output_dir: Path = Path(".")
    """Folder of the output."""
    debug: bool = False
    """Show tracebacks."""


def topic_clustering(settings: TopicSettings) -> None:
    """Reads, embeds, clusters and writes; prints the sizes."""
    from fastchat.arena.topics import clusters

    _check(settings)
    texts = _prompts(settings)
    embeddings = _embeddings(settings, texts)
    found = clusters(embeddings, settings.num_clusters, settings.cluster_alg)
    for path in _write(settings, texts, found):
        print(f"written: {path}")
    n_in = sum(len(c.members) for c in found)
    print(f"prompts: {len(texts)}, in {len(found)} clusters: {n_in}")


def _check(settings: TopicSettings) -> None:
    for name in ("num_clusters", "show_top_k", "show_cut_off"):
        if getattr(settings, name) < 1:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} {getattr(settings, name)} is below 1.")
    for name in ("min_length", "max_length"):
        value = getattr(settings, name)
        if value is not None and value < 0:
            raise UsageError(f"--{name.replace('_', '-')} {value} is below 0.")


def _prompts(settings: TopicSettings) -> list[str]:
    """The different prompts of the input that the flags keep.

    Raises:
        DataError: none is left.
    """
    from fastchat.arena.languages import detect
    from fastchat.arena.sources import battle_rows
    from fastchat.arena.topics import distinct, texts_of

    refused: Counter[str] = Counter()

    def kept() -> Iterator[str]:
        for row in battle_rows(settings.input_file, refused):
            texts = [text.strip() for text in texts_of(row)]
            if not texts:
                refused["no_text"] += 1
            for text in texts:
                if len(text) < (settings.min_length or 1):
                    refused["too_short"] += 1
                elif settings.max_length is not None and len(text) > settings.max_length:
                    refused["too_long"] += 1
                elif settings.english_only and detect(text) != "English":
                    refused["another_language"] += 1
                else:
                    yield text

    read = list(kept())
    texts = distinct(read)
    refused["duplicate"] = len(read) - len(texts)
    for reason, n in (+refused).most_common():
        print(f"left out, {reason}: {n}")
    if not texts:
        raise DataError("no prompt is left to cluster; check --input-file and the lengths.")
    return texts


def _embeddings(settings: TopicSettings, texts: Sequence[str]) -> "Floats":
    """Those of the file, or fresh ones.

    Raises:
        DataError: the file is none, or of other prompts.
    """
    import numpy as np

    from fastchat.arena.row_files import written_at_once
    from fastchat.arena.topics import normalised

    path = settings.embeddings_file
    if path is None:
        made = embed(texts, settings.embedding)
        if settings.save_embeddings:
            path = settings.output_dir / "embeddings.npy"
            with written_at_once(path) as part, part.open("wb") as file:
                np.save(file, made)
        return made
    try:
        held = np.load(path, allow_pickle=False)
    except OSError as error:
        raise DataError(f"--embeddings-file {path} cannot be read: {error.strerror}.") from None
    except (ValueError, EOFError):
        raise DataError(f"--embeddings-file {path} is none that --save-embeddings wrote.") from None
    if held.ndim != 2 or len(held) != len(texts):
        raise DataError(f"--embeddings-file {path} is not of these {len(texts)} prompts.")
    return normalised(held.astype(np.float64))


def _write(settings: TopicSettings, texts: Sequence[str], found: "Sequence[Cluster]") -> list[Path]:
    from fastchat.arena.row_files import write_rows, written_at_once

    stem = f"results_c{len(found)}_{settings.cluster_alg}"
    folder = settings.output_dir
    everything = folder / f"{stem}_all.jsonl"
    write_rows(everything, _all_rows(texts, found))
    summary = folder / f"{stem}_cluster.json"
    rng = random.Random(SEED)
    write_rows(summary, [_described(settings, texts, c, i, rng) for i, c in enumerate(found)])
    top = folder / f"{stem}_topk.txt"
    with written_at_once(top) as part:
        part.write_text("\n".join(_top_lines(settings, texts, found)) + "\n", "utf-8")
    return [top, everything, summary]


def _all_rows(texts: Sequence[str], found: "Sequence[Cluster]") -> Iterator[dict[str, Any]]:
    for number, cluster in enumerate(found):
        for place, similarity in zip(cluster.members, cluster.similarity, strict=True):
            yield {"cluster": number, "text": texts[place], "sim": round(float(similarity), 6)}


def _described(
    settings: TopicSettings,
    texts: Sequence[str],
    cluster: "Cluster",
    number: int,
    rng: random.Random,
) -> dict[str, Any]:
    """What summaries are made of: the size, the closest prompts, and some drawn at random."""
    members = cluster.members.tolist()
    drawn = rng.sample(members, min(settings.show_top_k, len(members)))
    return {
        "cluster": number,
        "size": len(members),
        "total": len(texts),
        "top_prompts": [texts[i] for i in members[: settings.show_top_k]],
        "random_prompts": [texts[i] for i in drawn],
    }


def _top_lines(
    settings: TopicSettings, texts: Sequence[str], found: "Sequence[Cluster]"
) -> Iterator[str]:
    for number, cluster in enumerate(found):
        share = len(cluster.members) / len(texts)
        yield f"=== cluster {number}: {len(cluster.members)} prompts ({share:.1%}) ==="
        nearest = zip(cluster.members.tolist(), cluster.similarity.tolist(), strict=True)
        for place, similarity in itertools.islice(nearest, settings.show_top_k):
            shown = texts[int(place)][: settings.show_cut_off].replace("\n", " ")
            yield f"{similarity:.3f} {shown}"
        yield ""


def read_clusters(path: Path) -> Sequence[Mapping[str, Any]]:
    """The clusters of a `_cluster.json` file.

    Raises:
        DataError: the file is none.
    """
    from fastchat.arena.row_files import input_rows

    if path.suffix == ".pkl":
        raise DataError(
            f"{path.name} is a pickle, which could run any code; make a _cluster.json with "
            "fastchat.serve.monitor.topic_clustering."
        )
    rows = list(input_rows(path, Counter()))
    if not rows or not all(map(_is_cluster, rows)):
        raise DataError(f"{path.name} is no _cluster.json of topic_clustering.")
    return rows


def _is_cluster(row: Mapping[str, Any]) -> bool:
    size, total = row.get("size"), row.get("total") or row.get("size")
    prompts = (row.get("top_prompts"), row.get("random_prompts") or [])
    are_lists = all(isinstance(p, list) and all(isinstance(t, str) for t in p) for p in prompts)
    is_sized = isinstance(size, int) and isinstance(total, int) and 0 < size <= total
    return are_lists and is_sized and bool(prompts[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        TopicSettings,
        topic_clustering,
        argv,
        prog="python3 -m fastchat.serve.monitor.topic_clustering",
    )


if __name__ == "__main__":
    raise SystemExit(main())
