"""Hard negatives from the project's own blocking: what `evaluate blocking` proposes for a
product whose duplicate is known from the training pairs, and is not that duplicate.

A benchmark labels a few of these candidates; production scores them all. Products without
a known duplicate are left out, since theirs may be among the candidates, and so is every
pair that train or valid labels. Writes `mined-<set>.train.ndjson` beside the prepared sets.
"""

import argparse
import csv
import json
import subprocess
import tempfile
from pathlib import Path

from prepare import COLUMNS, read_csv, serialise

SETS = ["abt-buy", "amazon-google", "walmart-amazon"]


def labelled(folder: Path, split: str) -> dict:
    """Label of each pair of ids of a split."""
    columns = ["ltable_id", "rtable_id", "label"]
    return {(row["ltable_id"], row["rtable_id"]): int(row["label"]) for _, row in read_csv(folder / f"{split}.csv", columns)}


def candidates(folder: Path, matches: list, binary: str) -> list:
    """(left id, right id, label) of each pair that blocking proposes; label 1 for one of the
    splits `matches`."""
    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        given = [part for split in matches for part in ("--matches", folder / f"{split}.csv")]
        subprocess.run([binary, "evaluate", "blocking", "--left", folder / "tableA.csv", "--right", folder / "tableB.csv",
                        *given, "--candidates", file.name], check=True, stdout=subprocess.DEVNULL)
        with open(file.name, newline="", encoding="utf-8") as rows:
            return [(row["ltable_id"], row["rtable_id"], int(row["label"])) for row in csv.DictReader(rows)]


def pair_rows(folder: Path, pairs: list, name: str, binary: str) -> list:
    """Rows of (left id, right id, label), as `prepare.py` writes them."""
    tables = [{row["id"]: {COLUMNS[c]: v for c, v in row.items() if c in COLUMNS and v}
               for _, row in read_csv(folder / file, ["id"])} for file in ("tableA.csv", "tableB.csv")]
    texts = iter(serialise([tables[side][pair[side]] for pair in pairs for side in (0, 1)], [binary, "texts"]))
    return [{"a": next(texts), "b": next(texts), "label": label, "set": name} for _, _, label in pairs]


def mined(folder: Path, name: str, binary: str) -> list:
    train, valid = labelled(folder, "train"), labelled(folder, "valid")
    known = [pair for pair, label in train.items() if label == 1]
    left, right = {a for a, _ in known}, {b for _, b in known}
    pairs = [(a, b, 0) for a, b, _ in candidates(folder, ["train"], binary)
             if (a in left or b in right) and (a, b) not in train and (a, b) not in valid]
    return pair_rows(folder, pairs, name, binary)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--prepared", type=Path, default=Path("models/training/runs/prepared"))
    parser.add_argument("--binary", default="target/release/catalog-labels")
    args = parser.parse_args()
    for set_name in SETS:
        name = f"mined-{set_name}"
        rows = mined(args.data / "pairs" / set_name, name, args.binary)
        part = args.prepared / f"{name}.train.ndjson.part"
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        part.rename(part.with_suffix(""))
        print(f"{name:32} {len(rows):7} rows")


if __name__ == "__main__":
    main()
