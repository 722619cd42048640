"""Turns ../shared/data (or any folder of that shape) into training rows.

Each product passes through `catalog-labels texts`, the serialiser that the worker
uses, so that training never sees a text that production would not write. Output:
one NDJSON file a set and split, rows {"a", "b", "label", "set", "products"} or
{"text", "label", "source"}; written beside each other and renamed at the end, so a
bad row leaves nothing half-written. "products" holds a key for each side, the same
wherever that product occurs, so that folds can keep it apart. The queries of HINT3,
which come without a validation split, are divided: every fourth, by a hash, is kept
from training.
"""

import argparse
import csv
import gzip
import json
import re
import shlex
import subprocess
import sys
import zlib
from pathlib import Path

from model import INTENTS

TABLES = ["abt-buy", "amazon-google", "walmart-amazon", "walmart-amazon-dirty"]
COLUMNS = {"name": "title", "title": "title", "manufacturer": "brand", "brand": "brand",
           "modelno": "model_number", "category": "product_type", "description": "description"}
LSPC_SIZES = {"cameras": "large", "shoes": "large", "computers": "medium", "watches": "medium"}


def fail(path: Path, line: int, column: str, why: str):
    sys.exit(f"{path}:{line}: column {column}: {why}")


def to_label(raw, path: Path, line: int) -> int:
    if str(raw) not in ("0", "1"):
        fail(path, line, "label", f"{raw!r} is neither 0 nor 1")
    return int(raw)


def lines(path: Path):
    """The lines of a UTF-8 file, gzipped or not, with their numbers from 1 on."""
    number = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", newline="", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                yield number, line
    except FileNotFoundError:
        sys.exit(f"{path}: no such file; --data names a folder of the shape in docs/MODELS.md")
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        fail(path, number + 1, "*", f"cannot be read: {error}")


def read_csv(path: Path, required: list):
    """The rows of a CSV file as dictionaries, each with the number of its last line."""
    reader = csv.reader(line for _, line in lines(path))
    header = next(reader, [])
    for column in required:
        if column not in header:
            fail(path, 1, column, "missing from the header")
    for cells in reader:
        if len(cells) != len(header):
            fail(path, reader.line_num, "*", f"{len(cells)} cells where the header has {len(header)}")
        yield reader.line_num, dict(zip(header, cells))


def tables(folder: Path) -> list:
    """DeepMatcher layout: the products of both tables, by their ids."""
    sides = []
    for name in ("tableA.csv", "tableB.csv"):
        products = {}
        for number, row in read_csv(folder / name, ["id"]):
            if row["id"] in products:
                fail(folder / name, number, "id", f"{row['id']!r} occurs twice")
            products[row["id"]] = {COLUMNS[c]: v for c, v in row.items() if c in COLUMNS and v}
        sides.append(products)
    return sides


def labelled_ids(folder: Path, split: str):
    """(line, left id, right id, label) of each pair of a split."""
    path = folder / f"{split}.csv"
    for number, row in read_csv(path, ["ltable_id", "rtable_id", "label"]):
        yield number, row["ltable_id"], row["rtable_id"], to_label(row["label"], path, number)


def keys(folder: str, left: str, right: str) -> list:
    """Keys of a left and a right product; a set and its dirty variant list the same products."""
    table = folder.removesuffix("-dirty")
    return [f"{table}/left/{left}", f"{table}/right/{right}"]


def table_pairs(folder: Path, split: str):
    sides = tables(folder)
    for number, left, right, label in labelled_ids(folder, split):
        for column, products, of_pair in (("ltable_id", sides[0], left), ("rtable_id", sides[1], right)):
            if of_pair not in products:
                fail(folder / f"{split}.csv", number, column, f"{of_pair!r} is in no table")
        yield sides[0][left], sides[1][right], label, keys(folder.name, left, right)


def offers(left: dict, right: dict, label: int) -> tuple:
    """A row of offers, which are known by their titles in all of WDC's sets."""
    return left, right, label, [f"offer/{side['title']}" for side in (left, right)]


def wdc_products(path: Path):
    """Offers with both records in one row."""
    for number, line in lines(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            fail(path, number, "*", f"no JSON: {error}")
        for column in ("title_left", "title_right", "label"):
            if not isinstance(row, dict) or column not in row:
                fail(path, number, column, "missing")
        sides = [{field: row[f"{field}_{side}"] for field in ("title", "brand", "description")
                  if row.get(f"{field}_{side}")} for side in ("left", "right")]
        yield offers(*sides, to_label(row["label"], path, number))


def wdc_titles(path: Path):
    for number, row in read_csv(path, ["title_left", "title_right", "label"]):
        yield offers({"title": row["title_left"]}, {"title": row["title_right"]}, to_label(row["label"], path, number))


def lspc(path: Path):
    """`COL title VAL "text"@en` on either side of a tab, then the label."""
    def title(raw: str) -> dict:
        text = re.sub(r"^COL title VAL", "", raw)
        text = re.sub(r'"?@[A-Za-z]{2}(-[A-Za-z]+)?\b', " ", text).replace('"Null"', " ").replace('"', " ")
        return {"title": text.strip() or "unknown"}

    for number, line in lines(path):
        cells = line.rstrip("\r\n").split("\t")
        if len(cells) != 3:
            fail(path, number, "*", f"{len(cells)} cells where 3 are needed")
        yield offers(title(cells[0]), title(cells[1]), to_label(cells[2], path, number))


def queries(path: Path):
    rows = ((number, line.rstrip("\r\n").split("\t")) for number, line in lines(path))
    _, header = next(rows, (1, []))
    for column in ("text", "label", "source"):
        if column not in header:
            fail(path, 1, column, "missing from the header")
    for number, cells in rows:
        if len(cells) != len(header):
            fail(path, number, "*", f"{len(cells)} cells where {len(header)} are needed")
        row = dict(zip(header, cells))
        if row["label"] not in INTENTS:
            fail(path, number, "label", f"{row['label']!r} is none of {', '.join(INTENTS)}")
        yield {"text": row["text"], "label": INTENTS.index(row["label"]), "source": row["source"]}


def kept_apart(row: dict) -> bool:
    """Whether a training query is judged instead: a quarter of HINT3, which has no validation rows."""
    return row["source"].startswith("hint3") and zlib.crc32(row["text"].lower().encode()) % 4 == 0


def serialise(products: list, command: list) -> list:
    lines = "".join(json.dumps(product) + "\n" for product in products)
    done = subprocess.run(command, input=lines, stdout=subprocess.PIPE, text=True, check=True)
    texts = [json.loads(line) for line in done.stdout.splitlines()]
    if len(texts) != len(products):
        sys.exit(f"{shlex.join(command)} answered {len(texts)} texts for {len(products)} products")
    return texts


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("models/training/runs/prepared"))
    parser.add_argument("--binary", default="target/release/catalog-labels", help="its `texts` is the serialiser")
    args = parser.parse_args()

    pairs = args.data / "pairs"
    sets = {}
    for split in ("train", "valid"):
        for name in TABLES:
            sets[f"{name}.{split}"] = table_pairs(pairs / name, split)
        wdc = pairs / "wdc-products-80cc"
        sizes = ("small", "medium") if split == "train" else ("medium",)
        for size in sizes:
            sets[f"wdc-products-{size}.{split}"] = wdc_products(wdc / f"{split}_{size}.jsonl.gz")
        for category, size in LSPC_SIZES.items():
            path = pairs / "wdc-lspc" / category / f"{split}.txt.{size}.gz"
            sets[f"lspc-{category}.{split}"] = lspc(path)
    sets["wdc-products-titles.train"] = wdc_titles(pairs / "wdc-products-80cc" / "train_large_titles_only.csv")

    # Every file is read before the first text is made: bad data is known within seconds.
    sets = {name: list(rows) for name, rows in sets.items()}
    written = {f"intent.{split}": list(queries(args.data / "intent" / f"{split}.tsv")) for split in ("train", "valid")}
    written["intent-hint3.valid"] = [row for row in written["intent.train"] if kept_apart(row)]
    written["intent.train"] = [row for row in written["intent.train"] if not kept_apart(row)]
    sides = [side for rows in sets.values() for a, b, *_ in rows for side in (a, b)]
    texts = iter(serialise(sides, [args.binary, "texts"]))
    for name, rows in sets.items():
        written[name] = [{"a": next(texts), "b": next(texts), "label": label, "set": name.rsplit(".", 1)[0], "products": products}
                         for _, _, label, products in rows]

    args.out.mkdir(parents=True, exist_ok=True)
    for name, rows in written.items():
        part = args.out / f"{name}.ndjson.part"
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        print(f"{name:32} {len(rows):7} rows")
    for name in written:
        (args.out / f"{name}.ndjson.part").rename(args.out / f"{name}.ndjson")


if __name__ == "__main__":
    main()
