import numpy as np

from service.data.shop.items import ALL_BRANDS, ALL_VARIANTS, build_shop


def test_shelves_hold_every_item_once_and_evenly() -> None:
    shop = build_shop(2_000, np.random.default_rng(0))
    assert sorted(np.concatenate(shop.shelves).tolist()) == list(range(2_000))
    assert {len(rows) for rows in shop.shelves} == {12, 13}
    for shelf, rows in enumerate(shop.shelves):
        assert (shop.shelf[rows] == shelf).all()


def test_titles_and_attributes_agree_with_the_arrays() -> None:
    shop = build_shop(400, np.random.default_rng(1))
    for row, (title, own) in enumerate(
        zip(shop.table["title"].to_pylist(), shop.table["attributes"].to_pylist(), strict=True)
    ):
        assert own["brand"] == ALL_BRANDS[shop.brand[row]]
        assert own["variant"] == ALL_VARIANTS[shop.variant[row]][1]
        assert title.startswith(own["brand"])
        assert title.endswith(own["variant"])
    shelf_names = [
        {tuple(shop.table["attributes"][row].as_py()["category"]) for row in rows.tolist()}
        for rows in shop.shelves
    ]
    assert all(len(names) == 1 for names in shelf_names)


def test_a_small_shop_has_fewer_shelves() -> None:
    shop = build_shop(25, np.random.default_rng(0))
    assert len(shop.shelves) == 10
    assert all(len(rows) >= 2 for rows in shop.shelves)
