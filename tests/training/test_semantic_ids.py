import numpy as np
import pyarrow as pa

from service.training.item_vectors import item_vectors
from service.training.semantic_ids import SemanticIdReport, default_codebook_size, learn_semantic_ids


def test_near_items_share_a_prefix_and_none_shares_an_id() -> None:
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.normal(size=(8, 16)) * 10, 20, axis=0)
    vectors = (centres + rng.normal(size=centres.shape)).astype(np.float32)
    codes, report = learn_semantic_ids(vectors, num_levels=3, codebook_size=8, seed=0)
    groups = [set(codes[begin : begin + 20, 0].tolist()) for begin in range(0, 160, 20)]
    assert all(len(group) == 1 for group in groups)
    assert report.num_distinct == report.num_items == 160
    assert report.num_sharing == 0
    assert report.code_usage[0] == 1.0
    assert report.unexplained[0] > report.unexplained[1] > report.unexplained[2]


def test_the_same_seed_gives_the_same_ids() -> None:
    vectors = np.random.default_rng(1).normal(size=(100, 8)).astype(np.float32)
    one, two = (learn_semantic_ids(vectors, num_levels=2, codebook_size=8, seed=4)[0] for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_identical_items_get_ids_of_their_own_while_there_are_any() -> None:
    codes, report = learn_semantic_ids(np.zeros((6, 4), np.float32), num_levels=2, codebook_size=4, seed=0)
    assert report.num_distinct == 4
    assert report.num_sharing == 3
    assert codes.max() < 4


def test_report_counts_sharing_and_usage() -> None:
    report = SemanticIdReport.of(np.array([[0, 1], [0, 1], [3, 1]]), (4, 2))
    assert (report.num_items, report.num_distinct, report.num_sharing) == (3, 2, 2)
    assert report.code_usage == (0.5, 0.5)


def test_default_size_follows_the_catalogue() -> None:
    assert [default_codebook_size(n) for n in (1, 300, 2_000, 12_000, 10**6)] == [16, 32, 64, 128, 256]


def test_vectors_join_words_and_company(make_interactions) -> None:
    titles = ["red mug", "blue mug", "oak chair", "pine chair"]
    items = pa.table({"item_id": list("abcd"), "title": titles, "attributes": [{"brand": "X"}] * 4})
    company = make_interactions([[0, 1], [0, 1], [2, 3], [2, 3]])
    vectors = item_vectors(items, company, dimensions=3, seed=0)
    assert vectors.shape == (4, 6)
    np.testing.assert_allclose(np.linalg.norm(vectors[:, :3], axis=1), 1, rtol=1e-5)
    near = vectors @ vectors.T
    assert near[0, 1] > near[0, 2]
    alone = make_interactions([[0], [1]])
    no_words = pa.table({"item_id": list("abcd"), "title": [""] * 4})
    assert item_vectors(items, alone, dimensions=3, seed=0).shape == (4, 3)
    assert item_vectors(no_words, alone, dimensions=3, seed=0).shape == (4, 0)
