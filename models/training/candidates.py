"""What blocking proposes for the validation products, on which probabilities are calibrated:
production scores these, and duplicates are far rarer among them than in the benchmarks' pairs.

Writes `candidates-<set>.valid.ndjson` beside the prepared sets.
"""

import csv
import subprocess
import tempfile
from pathlib import Path

from prepare import labelled_ids, serialise, tables
from rows import of_data, write

SETS = ["abt-buy", "amazon-google", "walmart-amazon"]


def labelled(folder: Path, split: str) -> dict:
    """Label of each pair of ids of a split."""
    return {(left, right): label for _, left, right, label in labelled_ids(folder, split)}


def candidates(left: Path, right: Path, matches: list, binary: str) -> list:
    """(left id, right id, label) of each pair of two tables that blocking proposes; label 1 for a
    match of one of the files `matches`."""
    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        given = [part for path in matches for part in ("--matches", path)]
        subprocess.run([binary, "evaluate", "blocking", "--left", left, "--right", right, *given, "--candidates", file.name],
                       check=True, stdout=subprocess.DEVNULL)
        with open(file.name, newline="", encoding="utf-8") as rows:
            return [(row["ltable_id"], row["rtable_id"], int(row["label"])) for row in csv.DictReader(rows)]


def across(folder: Path, splits: list, binary: str) -> list:
    """Candidates of a set's left products among its right ones."""
    return candidates(folder / "tableA.csv", folder / "tableB.csv", [folder / f"{split}.csv" for split in splits], binary)


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
    proposed = [pair for pair in across(folder, ["valid"], binary) if pair[0] in left and train.get(pair[:2]) != 1]
    kept = [pair for pair in proposed if pair[:2] not in train]
    distinct = [sum(label == 0 for *_, label in pairs) for pairs in (proposed, kept)]
    rows = pair_rows(folder, kept, name, binary)
    return [{**row, "weight": 1.0 if row["label"] else distinct[0] / distinct[1]} for row in rows]


def main():
    parser = of_data(__doc__)
    args = parser.parse_args()
    for name in SETS:
        rows = judged(args.data / "pairs" / name, f"candidates-{name}", args.binary)
        write(rows, args.prepared / f"candidates-{name}.valid.ndjson")
        print(f"{name:24} {len(rows):7} candidates, {sum(row['label'] for row in rows)} duplicates")


if __name__ == "__main__":
    main()
