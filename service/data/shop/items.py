"""The shelves of the synthetic shop."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from service.data.shop.words import BRANDS, CATEGORIES, VARIANTS, Category, Product

BRANDS_PER_CATEGORY = 4
SHELVES_PER_CATEGORY = len(CATEGORIES[0].products)
MIN_ITEMS_PER_CATEGORY = 2 * SHELVES_PER_CATEGORY

ALL_BRANDS = [brand for brands in BRANDS.values() for brand in brands]
ALL_VARIANTS = [(kind, variant) for kind, variants in VARIANTS.items() for variant in variants]
# Within a department the first brand is the best known.
BRAND_SHARE = np.array([0.75**rank for brands in BRANDS.values() for rank in range(len(brands))])


@dataclass(frozen=True)
class Shop:
    """Items by row. A shelf is a kind of product; shelf s stands in category `s // SHELVES_PER_CATEGORY`.

    Attributes:
        table: columns `item_id`, `title`, `attributes`.
        brand: [num_items], index into `ALL_BRANDS`.
        variant: [num_items], index into `ALL_VARIANTS`.
        appeal: [num_items], how often the item is taken beside others of its shelf; above 0.
        trend: [num_items], `appeal` grows by exp(trend) from the first to the last day.
        shelf: [num_items], the shelf of the item.
        shelves: the rows of the items of each shelf.
    """

    table: pa.Table
    brand: npt.NDArray[np.int64]
    variant: npt.NDArray[np.int64]
    appeal: npt.NDArray[np.float64]
    trend: npt.NDArray[np.float64]
    shelf: npt.NDArray[np.int64]
    shelves: list[npt.NDArray[np.int64]]


def build_shop(num_items: int, rng: np.random.Generator) -> Shop:
    """Fill the shelves evenly with `num_items` items, each of a brand and a variant; row order says nothing.

    A small shop has the first categories alone, a large one a new series of a product where its brands and
    variants do not tell all items of the shelf apart.

    Args:
        num_items: at least `MIN_ITEMS_PER_CATEGORY`.
        rng: the source of all randomness.
    """
    categories = CATEGORIES[: num_items // MIN_ITEMS_PER_CATEGORY]
    num_shelves = len(categories) * SHELVES_PER_CATEGORY
    shelf = rng.permutation(np.arange(num_items) % num_shelves)
    shelves = [np.flatnonzero(shelf == number) for number in range(num_shelves)]
    brand, variant = np.zeros(num_items, dtype=np.int64), np.zeros(num_items, dtype=np.int64)
    titles = [""] * num_items
    attributes: list[dict[str, object]] = [{}] * num_items
    for place, category in enumerate(categories):
        brands = rng.permutation(BRANDS[category.department])[:BRANDS_PER_CATEGORY].tolist()
        for step, product in enumerate(category.products):
            variants = rng.permutation(VARIANTS[product.kind]).tolist()
            for turn, row in enumerate(shelves[place * SHELVES_PER_CATEGORY + step].tolist()):
                own_brand = brands[turn % len(brands)]
                series, variant_turn = divmod(turn // len(brands), len(variants))
                own_variant = variants[variant_turn]
                brand[row] = ALL_BRANDS.index(own_brand)
                variant[row] = ALL_VARIANTS.index((product.kind, own_variant))
                titles[row] = _title(own_brand, product, own_variant, series)
                price = product.price * (0.8 + 0.5 * BRAND_SHARE[brand[row]]) * rng.uniform(0.9, 1.1)
                attributes[row] = _attributes(category, product, own_brand, own_variant, price)
    table = pa.table(
        {
            "item_id": [f"sku-{row:05d}" for row in range(num_items)],
            "title": titles,
            "attributes": pa.array(attributes, _ATTRIBUTES),
        }
    )
    appeal = BRAND_SHARE[brand] * rng.lognormal(0.0, 0.6, num_items)
    return Shop(table, brand, variant, appeal, rng.normal(0.0, 0.7, num_items), shelf, shelves)


_ATTRIBUTES = pa.struct(
    {
        "brand": pa.string(),
        "category": pa.list_(pa.string()),
        "price": pa.float64(),
        "variant": pa.string(),
        "description": pa.string(),
    }
)


def _title(brand: str, product: Product, variant: str, series: int) -> str:
    edition = f" Series {series + 1}" if series else ""
    return f"{brand} {product.noun}{edition}, {variant}"


def _attributes(
    category: Category, product: Product, brand: str, variant: str, price: float
) -> dict[str, object]:
    what = f"{product.noun} by {brand}, {variant.lower()}"
    return {
        "brand": brand,
        "category": [category.department, category.name, product.shelf],
        "price": max(round(price), 1) - 0.01,
        "variant": variant,
        "description": f"{what}. From our {category.name.lower()} range in {category.department.lower()}.",
    }
