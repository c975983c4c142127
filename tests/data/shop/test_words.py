from service.data.shop.words import BRANDS, CATEGORIES, VARIANTS


def test_the_tree_is_regular() -> None:
    assert {category.department for category in CATEGORIES} == set(BRANDS)
    assert {len(category.products) for category in CATEGORIES} == {5}
    places = [(category.department, category.name) for category in CATEGORIES]
    assert len(set(places)) == len(places)


def test_products_are_told_apart() -> None:
    for category in CATEGORIES:
        assert len({product.shelf for product in category.products}) == len(category.products)
    nouns = [(category.department, product.noun) for category in CATEGORIES for product in category.products]
    assert len(set(nouns)) == len(nouns)
    assert all(product.kind in VARIANTS and product.price > 0 for c in CATEGORIES for product in c.products)


def test_brands_are_distinct() -> None:
    brands = [brand for own in BRANDS.values() for brand in own]
    assert len(set(brands)) == len(brands)
