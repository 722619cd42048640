"""Prints the products that key epoch 0 was counted on, one JSON object a line.

From consumer/src/decide/blocking, with DATA the folder of public research tables that
data/README.md of the training data describes (pairs/ and load/):

    python3 epoch0.py DATA | catalog-labels texts | catalog-labels key-epoch build --number 0 > epoch0.txt

Each source gives at most 6,000 products, so that no shop's vocabulary prevails. Only the
product tables are read, no labels.
"""

import csv
import glob
import gzip
import json
import random
import sys
from pathlib import Path

SAMPLE = 6_000
FIELDS = {
    "name": "title", "title": "title", "manufacturer": "brand", "brand": "brand",
    "modelno": "model_number", "category": "product_type", "description": "description",
}


def renamed(row: dict) -> dict:
    return {FIELDS[name]: value for name, value in row.items() if name in FIELDS and value}


def tables(folder: Path) -> list[dict]:
    rows = []
    for table in ("tableA.csv", "tableB.csv"):
        with open(folder / table, newline="", encoding="utf-8") as file:
            rows.extend(renamed(row) for row in csv.DictReader(file))
    return rows


def offers(data: Path) -> list[dict]:
    with gzip.open(data / "load/pricerunner_aggregate.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return [{"title": row[1]} for row in csv.reader(file)]


def wdc_products(data: Path) -> list[dict]:
    found = {}
    for path in sorted(glob.glob(str(data / "pairs/wdc-products-80cc/*.jsonl.gz"))):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for row in map(json.loads, file):
                for side in ("left", "right"):
                    fields = {name: row.get(f"{name}_{side}") for name in ("title", "brand", "description")}
                    found[row[f"id_{side}"]] = {name: value for name, value in fields.items() if value}
    return [found[id] for id in sorted(found, key=str)]


def wdc_titles(data: Path) -> list[dict]:
    found = set()
    for path in sorted(glob.glob(str(data / "pairs/wdc-lspc/*/*.gz"))):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                found.update(title.replace("COL title VAL", "").strip() for title in line.split("\t")[:2])
    return [{"title": title} for title in sorted(found)]


def main(data: Path) -> None:
    sources = [tables(data / "pairs" / name) for name in ("abt-buy", "amazon-google", "walmart-amazon")]
    sources += [offers(data), wdc_products(data), wdc_titles(data)]
    for source in sources:
        titled = [product for product in source if product.get("title")]
        for product in random.Random(5).sample(titled, min(SAMPLE, len(titled))):
            print(json.dumps(product))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
