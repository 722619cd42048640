"""Chooses an artifact's threshold of `duplicate` by what readers of its labels take for duplicates: a label that another
product contests is for review (docs/adr/0038), so that a lower threshold is as precise.

The binary judges each set as two tables, with all stages. What the contests gain in precision is spent on recall, and no more: of
the thresholds at which no set's duplicates are less often right than they would be with each pair judged alone, at the
threshold that is best so, but for the standard error of that share, and at which the stages cost at most F1_COST_MAX of F1 on the mean,
the highest within F1_NEAR of the best mean F1 is taken. The artifact gets another name; its stages stay. The last step: run the stages' first.
"""

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import catalogue
from rows import TARGETS
from stages import choose, of_artifact

# At least so many of what are called duplicates in our own catalog are right.
PRECISION = 0.9
# Products of it, each with a near miss.
FAMILIES, SEED = 2000, "as read"
# Of the mean of all sets: a single match of one is more than that of its own.
F1_COST_MAX = 0.002
# The surer of two thresholds is taken where mean F1 tells no difference: not every pair is judged beside its rivals.
F1_NEAR = 0.001
FIELDS = ["title", "brand", "model_number", "product_type", "description"]


def own_catalog(folder: Path):
    """Writes our own catalog as a set: two tables, and the pairs of its validation split."""
    left, right, pairs = catalogue.tables(FAMILIES, SEED)
    for name, listings in (("tableA", left), ("tableB", right)):
        rows = [[number, *(listed.get(field, "") for field in FIELDS)] for number, listed in enumerate(listings)]
        write(folder / f"{name}.csv", ["id", *FIELDS], rows)
    write(folder / "valid.csv", ["ltable_id", "rtable_id", "label"], pairs)


def write(path: Path, header: list, rows: list):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


class Read:
    """A set's labels: whether each pair is a duplicate, its probability, and whether another product contests it."""

    def __init__(self, rows: list):
        self.labels = np.array([row["label"] == "1" for row in rows])
        self.probabilities = np.array([float(row["probability"]) for row in rows])
        self.contested = np.array([row["rival"] != "" for row in rows])

    def measures(self, threshold: float, alone: bool = False) -> dict:
        """Precision, recall and F1 of what is a duplicate from `threshold` on and is not contested; `alone`, of all that is."""
        said = (self.probabilities >= threshold) & (alone | ~self.contested)
        right = (said & self.labels).sum()
        precision = right / max(said.sum(), 1)
        return {"precision": precision, "recall": right / max(self.labels.sum(), 1),
                "f1": 2 * right / max(said.sum() + self.labels.sum(), 1),
                # Of the precision, as a share of so many draws.
                "error": float(np.sqrt(precision * (1 - precision) / max(said.sum(), 1)))}


def read(folder: Path, args, *options: str) -> Read:
    """What the binary says of a set's validation pairs, with the artifact as it is."""
    print(f"{folder.name} {' '.join(options)}", file=sys.stderr, flush=True)
    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        subprocess.run([args.binary, "evaluate", "pairs", "--artifact", args.artifact, "--numeric", "fp32", "--left", folder / "tableA.csv",
                        "--right", folder / "tableB.csv", "--pairs", folder / "valid.csv", "--verdicts", file.name, *options],
                       check=True, stdout=subprocess.DEVNULL)
        with open(file.name, newline="", encoding="utf-8") as rows:
            return Read(list(csv.DictReader(rows)))


def stages_cost(sets: dict, whole: dict, threshold: float) -> dict:
    """What of F1 the stages cost each set; `whole` are the sets without them."""
    return {name: of_set.measures(threshold)["f1"] - sets[name].measures(threshold)["f1"] for name, of_set in whole.items()}


def mean_cost(sets: dict, whole: dict, threshold: float) -> float:
    return float(np.mean(list(stages_cost(sets, whole, threshold).values())))


def best(sets: dict, whole: dict, own: str, review: float) -> float | None:
    """The highest threshold above `review` within F1_NEAR of the best mean F1, of those at which the stages cost little and no set is less
    precise, by more than a standard error, than with each pair judged alone at its best threshold. `own` is the set that
    has to be precise in any case."""
    grid = [round(t, 2) for t in np.arange(review + 0.01, 0.95, 0.01)]

    def taken(floors: dict, alone: bool) -> float | None:
        precise = [t for t in grid if all(sets[name].measures(t, alone)["precision"] >= floor for name, floor in floors.items())]
        if not alone:
            precise = [t for t in precise if mean_cost(sets, whole, t) <= F1_COST_MAX]
        f1 = {t: np.mean([of_set.measures(t, alone)["f1"] for of_set in sets.values()]) for t in precise}
        near = max(f1.values(), default=0.0) - (0.0 if alone else F1_NEAR)
        return max((t for t in f1 if f1[t] >= near), default=None)

    alone = taken({own: PRECISION}, True)
    if alone is None:
        return None
    found = {name: of_set.measures(alone, True) for name, of_set in sets.items()}
    print(f"alone, from {alone}: " + ", ".join(f"{name} {of['f1']:.4f} (precision {of['precision']:.3f}, its error {of['error']:.3f})" for name, of in found.items()))
    floors = {name: of["precision"] - of["error"] for name, of in found.items()}
    return taken({**floors, own: max(floors[own], PRECISION)}, False)


def main():
    parser = of_artifact(__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    args = parser.parse_args()
    manifest = json.loads((args.artifact / "manifest.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as own:
        own_catalog(Path(own))
        folders = {**{name: args.data / "pairs" / name for name in TARGETS}, "our own catalog": Path(own)}
        sets = {name: read(folder, args) for name, folder in folders.items()}
        # Of our own catalog nearly every pair is the network's, and without stages it takes as long as all others.
        whole = {name: read(folders[name], args, "--no-cascade") for name in TARGETS}
    threshold = best(sets, whole, "our own catalog", manifest["thresholds"]["review"])
    if threshold is None:
        sys.exit(f"at no threshold are {PRECISION:.0%} of our own catalog's duplicates right and the stages nearly free: the artifact is left as it was")
    print(f"| from | {' | '.join(sets)} | mean F1 |\n|---:|{'---|' * len(sets)}---:|")
    for at in sorted({*(round(t, 2) for t in np.arange(manifest["thresholds"]["review"] + 0.05, 0.55, 0.05)), threshold, manifest["thresholds"]["duplicate"]}):
        found = [of_set.measures(at) for of_set in sets.values()]
        cells = [f"{of['f1']:.4f} ({of['precision']:.3f}, {of['recall']:.3f})" for of in found]
        print(f"| {at} | {' | '.join(cells)} | {np.mean([of['f1'] for of in found]):.4f} |")
    costs = stages_cost(sets, whole, threshold)
    print(f"\nfrom {threshold}, the stages cost of F1: {', '.join(f'{name} {cost:.4f}' for name, cost in costs.items())}")
    choose(args.artifact, manifest, {"thresholds": {**manifest["thresholds"], "duplicate": threshold}})
    print(json.dumps({"model_id": manifest["model_id"], **manifest["thresholds"]}))


if __name__ == "__main__":
    main()
