"""What an item is like, as a vector: the words that describe it beside the company it keeps."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from service.data.dataset import Interactions
from service.training.teacher import cooccurrence

FloatArray = npt.NDArray[np.float32]


def item_vectors(items: pa.Table, train: Interactions, *, dimensions: int, seed: int) -> FloatArray:
    """Vectors of all items, [num_items, at most 2 * dimensions].

    The first half is a truncated SVD of TF-IDF over title and attributes, the second of the co-occurrence of items
    in `train`; each half of a row has length 1, or 0 where nothing is known.

    Args:
        items: a dataset's items table.
        train: interactions of that dataset.
        dimensions: of each half, at most; small catalogues have fewer.
        seed: of the SVD.
    """
    halves = [_reduce(matrix, dimensions, seed) for matrix in (_words(items), _company(train, len(items)))]
    return np.hstack(halves).astype(np.float32)


def _words(items: pa.Table) -> sparse.csr_matrix:
    texts = [_text(row) for row in items.select(_text_columns(items)).to_pylist()]
    if not any(text.strip() for text in texts):
        return sparse.csr_matrix((len(texts), 0))
    try:
        return TfidfVectorizer(sublinear_tf=True, stop_words="english").fit_transform(texts)
    except ValueError:  # nothing but stop words
        return sparse.csr_matrix((len(texts), 0))


def _text_columns(items: pa.Table) -> list[str]:
    return [name for name in ("title", "attributes") if name in items.column_names]


def _text(row: dict[str, object]) -> str:
    attributes = row.get("attributes") or {}
    assert isinstance(attributes, dict)
    words = [str(row["title"] or "")]
    for value in attributes.values():
        words += value if isinstance(value, list) else [value] if isinstance(value, str) else []
    return " ".join(words)


def _company(train: Interactions, num_items: int) -> sparse.csr_matrix:
    """Positive pointwise mutual information of items met close to each other, [num_items, num_items]."""
    near = cooccurrence(train, num_items, window=5, backward=1.0).tocoo()
    mass = np.asarray(near.sum(axis=0)).ravel()
    expected = mass[near.row] * mass[near.col] / max(mass.sum(), 1e-12)
    values = np.maximum(np.log(near.data / expected), 0.0)
    return sparse.csr_matrix((values, (near.row, near.col)), shape=near.shape)


def _reduce(matrix: sparse.csr_matrix, dimensions: int, seed: int) -> FloatArray:
    """Rows of length 1 in at most `dimensions` dimensions."""
    rank = min(dimensions, min(matrix.shape) - 1)
    if rank < 1 or matrix.nnz == 0:
        return np.zeros((matrix.shape[0], 0), dtype=np.float32)
    reduced: FloatArray = normalize(TruncatedSVD(rank, random_state=seed).fit_transform(matrix))
    return reduced
