"""Semantic IDs by residual k-means: level by level, the nearest centroid of what the levels before left unexplained."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.cluster import MiniBatchKMeans

from service.training.item_vectors import FloatArray

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SemanticIdReport:
    """How good a set of semantic IDs is.

    Attributes:
        num_items: items with an ID.
        num_distinct: distinct IDs.
        num_sharing: items that share their ID with another.
        code_usage: for each level, the share of its codes that some item has.
        unexplained: for each level, the share of the vectors' variance left after it; empty for given IDs.
    """

    num_items: int
    num_distinct: int
    num_sharing: int
    code_usage: tuple[float, ...]
    unexplained: tuple[float, ...] = ()

    @classmethod
    def of(
        cls, codes: npt.NDArray[np.integer], sizes: tuple[int, ...], unexplained: tuple[float, ...] = ()
    ) -> "SemanticIdReport":
        """Measure `codes` [num_items, L] with `sizes[l]` codes at level l."""
        _, counts = np.unique(codes, axis=0, return_counts=True)
        usage = tuple(len(np.unique(codes[:, level])) / size for level, size in enumerate(sizes))
        sharing = int(counts[counts > 1].sum())
        return cls(len(codes), len(counts), sharing, usage, unexplained)


def default_codebook_size(num_items: int) -> int:
    """A power of two near the square root of the catalogue's size, from 16 to 256."""
    return int(np.clip(2 ** int(np.ceil(np.log2(max(num_items, 2)) / 2)), 16, 256))


def learn_semantic_ids(
    vectors: FloatArray,
    *,
    num_levels: int,
    codebook_size: int,
    seed: int,
    on_level: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[IntArray, SemanticIdReport]:
    """Codes of all items.

    At the last level, items that would share an ID move to the nearest codes that are still free under their prefix,
    as long as there are any.

    Args:
        vectors: [num_items, dimensions].
        num_levels: codes per item, L.
        codebook_size: codes at each level.
        seed: of the clustering.
        on_level: called with the levels learned so far, and all there are.

    Returns:
        Codes, int64 [num_items, L], and how good they are.
    """
    codes = np.zeros((len(vectors), num_levels), dtype=np.int64)
    residual = vectors - vectors.mean(axis=0)
    total = max(float((residual**2).sum()), 1e-12)
    unexplained = []
    distances = np.zeros((len(vectors), 0))
    for level in range(num_levels):
        clusters = min(codebook_size, len(np.unique(residual, axis=0)))
        # One restart of many small batches, each weighed as a whole: reproducible, and linear in the items.
        kmeans = MiniBatchKMeans(clusters, batch_size=4096, n_init=3, random_state=seed + level)
        codes[:, level] = kmeans.fit_predict(residual)
        distances = kmeans.transform(residual) if level == num_levels - 1 else distances
        residual = residual - kmeans.cluster_centers_[codes[:, level]]
        unexplained.append(float((residual**2).sum()) / total)
        on_level(level + 1, num_levels)
    codes[:, -1] = _spread(codes, distances, codebook_size)
    sizes = (codebook_size,) * num_levels
    return codes, SemanticIdReport.of(codes, sizes, tuple(unexplained))


def _spread(codes: IntArray, distances: npt.NDArray[np.floating], codebook_size: int) -> IntArray:
    """The last level's codes, moved apart under each prefix; `distances` are [num_items, clusters]."""
    last = codes[:, -1].copy()
    _, prefix = np.unique(codes[:, :-1], axis=0, return_inverse=True)
    order = np.argsort(prefix.ravel(), kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(prefix.ravel()[order])) + 1)
    for group in groups:
        taken: set[int] = set()
        # The item nearest to its own centroid keeps it; those further away move.
        for item in group[np.argsort(distances[group, last[group]], kind="stable")]:
            if last[item] in taken:
                near = [int(code) for code in np.argsort(distances[item]) if int(code) not in taken]
                far = [code for code in range(codebook_size) if code not in taken]
                last[item] = next(iter(near or far), last[item])
            taken.add(int(last[item]))
    return last
