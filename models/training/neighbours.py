"""Pairs without a label, for the teachers to judge: what blocking proposes within one table of a
benchmark, and among offers of no benchmark.

A pair across a benchmark's two tables may be one of its test pairs, so none is taken that train does
not label. Writes `neighbours-<set>.train.ndjson` beside the prepared sets, with no label.
"""

import csv
import random
import tempfile
import zlib
from pathlib import Path

from candidates import SETS, candidates
from prepare import COLUMNS, keys, lines, read_csv, serialise
from rows import of_data, write

# Products of a table and pairs of a set, so that no catalog outweighs the others.
PRODUCTS_MAX = 5000
PAIRS_MAX = 6000
# One cluster in so many is taken whole of the offers, which lie in one file for all shops.
OFFERS_CLUSTERS = 6
OFFER_COLUMNS = ["id", "title", "vendor", "cluster", "cluster_label", "category_id", "category"]


def sampled(products: dict, rng: random.Random) -> dict:
    return dict(sorted(rng.sample(sorted(products.items()), min(len(products), PRODUCTS_MAX))))


def table(path: Path) -> dict:
    """Products of a table by their ids, columns named as the worker knows them."""
    return {row["id"]: {COLUMNS[c]: v for c, v in row.items() if c in COLUMNS and v} for _, row in read_csv(path, ["id"])}


def offers(path: Path) -> dict:
    """Offers of some clusters by their ids."""
    found = csv.DictReader((line for _, line in lines(path)), fieldnames=OFFER_COLUMNS)
    return {row["id"]: {"title": row["title"]} for row in found if zlib.crc32(row["cluster"].encode()) % OFFERS_CLUSTERS == 0}


def proposed(products: dict, binary: str) -> list:
    """Pairs of ids that blocking proposes among `products`, each once."""
    fields = sorted({field for product in products.values() for field in product})
    with tempfile.TemporaryDirectory() as folder:
        path, matches = Path(folder) / "products.csv", Path(folder) / "matches.csv"
        with open(path, "w", newline="", encoding="utf-8") as file:
            rows = csv.DictWriter(file, ["id", *fields])
            rows.writeheader()
            rows.writerows({"id": key, **product} for key, product in products.items())
        # `evaluate blocking` measures, and needs a match; a product is one of itself.
        some = next(iter(products))
        matches.write_text(f"ltable_id,rtable_id,label\n{some},{some},1\n")
        return sorted({tuple(sorted((a, b))) for a, b, _ in candidates(path, path, [matches], binary) if a != b})


def rows_of(products: dict, pairs: list, name: str, key_of, binary: str) -> list:
    texts = iter(serialise([products[key] for pair in pairs for key in pair], [binary, "texts"]))
    return [{"a": next(texts), "b": next(texts), "label": None, "set": name, "products": [key_of(a), key_of(b)]}
            for a, b in pairs]


def within(folder: Path, name: str, binary: str, rng: random.Random) -> list:
    rows = []
    for side, file in enumerate(("tableA.csv", "tableB.csv")):
        products = sampled(table(folder / file), rng)
        pairs = proposed(products, binary)
        pairs = rng.sample(pairs, min(len(pairs), PAIRS_MAX // 2))
        rows += rows_of(products, pairs, name, lambda key: keys(folder.name, key, key)[side], binary)
    return rows


def main():
    parser = of_data(__doc__)
    args = parser.parse_args()
    rng = random.Random(7)
    sets = {f"neighbours-{name}": within(args.data / "pairs" / name, f"neighbours-{name}", args.binary, rng) for name in SETS}
    products = offers(args.data / "load" / "pricerunner_aggregate.csv.gz")
    pairs = proposed(products, args.binary)
    sets["neighbours-offers"] = rows_of(products, rng.sample(pairs, min(len(pairs), PAIRS_MAX)), "neighbours-offers",
                                        lambda key: f"pricerunner/{key}", args.binary)
    for name, rows in sets.items():
        write(rows, args.prepared / f"{name}.train.ndjson")
        print(f"{name:28} {len(rows):7} pairs")


if __name__ == "__main__":
    main()
