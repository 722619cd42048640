"""Hard negatives from the project's own blocking: what `evaluate blocking` proposes for a
product whose duplicate is known from the training pairs, and is not that duplicate.

A benchmark labels a few of these candidates; production scores them all. Products without
a known duplicate are left out, since theirs may be among the candidates, and so is every
pair that train or valid labels. Writes `mined-<set>.train.ndjson` beside the prepared sets,
and `candidates-<set>.valid.ndjson`, on which probabilities are calibrated.
"""

import argparse
import csv
import json
import subprocess
import tempfile
from pathlib import Path

from prepare import labelled_ids, serialise, tables

SETS = ["abt-buy", "amazon-google", "walmart-amazon"]


def labelled(folder: Path, split: str) -> dict:
    """Label of each pair of ids of a split."""
    return {(left, right): label for _, left, right, label in labelled_ids(folder, split)}


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
    products = tables(folder)
    texts = iter(serialise([products[side][pair[side]] for pair in pairs for side in (0, 1)], [binary, "texts"]))
    return [{"a": next(texts), "b": next(texts), "label": label, "set": name} for _, _, label in pairs]


def judged(folder: Path, name: str, binary: str) -> list:
    """What production would score of the left products that have a duplicate among the
    validation pairs: blocking's candidates, less those that train labels. `weight` of a
    distinct pair makes up for the ones left out, so that duplicates are as rare as in
    production. A candidate that no split labels counts as distinct, which the benchmarks'
    test pairs may contradict."""
    train, valid = labelled(folder, "train"), labelled(folder, "valid")
    left = {a for (a, _), label in valid.items() if label == 1}
    proposed = [pair for pair in candidates(folder, ["valid"], binary) if pair[0] in left and train.get(pair[:2]) != 1]
    kept = [pair for pair in proposed if pair[:2] not in train]
    distinct = [sum(label == 0 for *_, label in pairs) for pairs in (proposed, kept)]
    rows = pair_rows(folder, kept, name, binary)
    return [{**row, "weight": 1.0 if row["label"] else distinct[0] / distinct[1]} for row in rows]


def mined(folder: Path, name: str, binary: str) -> list:
    train, valid = labelled(folder, "train"), labelled(folder, "valid")
    known = [pair for pair, label in train.items() if label == 1]
    left, right = {a for a, _ in known}, {b for _, b in known}
    pairs = [(a, b, 0) for a, b, _ in candidates(folder, ["train"], binary)
             if (a in left or b in right) and (a, b) not in train and (a, b) not in valid]
    return pair_rows(folder, pairs, name, binary)


def write(rows: list, path: Path):
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    part.rename(path)
    print(f"{path.stem:32} {len(rows):7} rows, {sum(row['label'] for row in rows)} duplicates")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--prepared", type=Path, default=Path("models/training/runs/prepared"))
    parser.add_argument("--binary", default="target/release/catalog-labels")
    args = parser.parse_args()
    for name in SETS:
        folder = args.data / "pairs" / name
        write(mined(folder, f"mined-{name}", args.binary), args.prepared / f"mined-{name}.train.ndjson")
        write(judged(folder, f"candidates-{name}", args.binary), args.prepared / f"candidates-{name}.valid.ndjson")


if __name__ == "__main__":
    main()
