"""Prints the model card's figures: precision, recall and F1 of each validation set of
pairs at the manifest's threshold, with a 95% bootstrap interval over rows, and at the
threshold that other folds choose; first as readers take the labels (as_read.py), by the binary with all stages, then of
the network alone, each pair by its two texts; expected calibration error, also on what blocking proposes; intents by
source."""

import json
import random
import tempfile
from pathlib import Path

import torch

import as_read
from export import NAME, THRESHOLDS, load_weights
from judge import f1_at, intents, macro_f1, pair_probabilities, recall
from model import INTENTS
from candidates import SETS as CANDIDATE_SETS
from candidates import labelled
from rows import TARGETS, Tokens, backbone_folder, catalogue_valid, of_data, read

RESAMPLES = 1000
CALIBRATION_BINS = 10
FOLDS = 10


def interval(judge, rows: list) -> str:
    """`judge` of all rows, and the 2.5th and 97.5th percentile over resampled rows."""
    rng = random.Random(7)
    drawn = sorted(judge(rng.choices(rows, k=len(rows))) for _ in range(RESAMPLES))
    return f"{judge(rows):.4f} ({drawn[RESAMPLES // 40]:.3f} to {drawn[-RESAMPLES // 40]:.3f})"


def calibration_error(rows: list) -> float:
    """Mean distance of probability and share of duplicates over equal-width bins,
    weighted by rows (Naeini et al. 2015); of (probability, label, weight)."""
    bins = [[] for _ in range(CALIBRATION_BINS)]
    for row in rows:
        bins[min(int(row[0] * CALIBRATION_BINS), CALIBRATION_BINS - 1)].append(row)
    gaps = (abs(sum(w * s for s, _, w in b) - sum(w * y for _, y, w in b)) for b in bins)
    return sum(gaps) / sum(w for *_, w in rows)


def cross_validated_f1(sets: dict) -> dict:
    """F1 of each set of (probability, label) at thresholds that its own fold had no part in:
    each is the best mean F1 over all sets without a fold."""
    found = {name: [] for name in sets}
    for fold in range(FOLDS):
        rest = [[row for i, row in enumerate(rows) if i % FOLDS != fold] for rows in sets.values()]
        columns = [list(zip(*rows)) for rows in rest]
        threshold = max(THRESHOLDS, key=lambda t: sum(f1_at(scores, labels, t) for scores, labels in columns))
        for name, rows in sets.items():
            found[name] += [(float(score >= threshold), label) for score, label in rows[fold::FOLDS]]
    return {name: f1_at(*zip(*rows), 0.5) for name, rows in found.items()}


def unseen(folder: Path) -> list:
    """Whether no training pair has either product, for each validation pair."""
    train, valid = labelled(folder, "train"), labelled(folder, "valid")
    left, right = {a for a, _ in train}, {b for _, b in train}
    return [a not in left and b not in right for a, b in valid]


def judged_line(name: str, rows: list, threshold: float, by_other_folds: float) -> str:
    """Of rows (probability, label)."""
    hit = sum(s >= threshold and y == 1 for s, y in rows)
    precision, recall = hit / max(sum(s >= threshold for s, _ in rows), 1), hit / sum(y for _, y in rows)
    f1 = interval(lambda drawn: f1_at(*zip(*drawn), threshold), rows)
    return (f"{name:36} {len(rows):5} pairs  precision {precision:.4f}  recall {recall:.4f}  F1 {f1}  "
            f"threshold by other folds {by_other_folds:.4f}")


def report_as_read(args, threshold: float):
    with tempfile.TemporaryDirectory() as own:
        as_read.own_catalog(Path(own))
        folders = {**{name: args.data / "pairs" / name for name in TARGETS}, "our own catalog": Path(own)}
        found = {name: as_read.read(folder, args) for name, folder in folders.items()}
    # What is contested is no duplicate at any threshold.
    judged = {name: list(zip((of.probabilities * ~of.contested).tolist(), of.labels.astype(int).tolist())) for name, of in found.items()}
    folds = cross_validated_f1(judged)
    for name, rows in judged.items():
        print("as read: " + judged_line(name, rows, threshold, folds[name]), flush=True)


def report_pairs(judge, prepared: Path, data: Path, binary: str, threshold: float):
    """`judge` gives the probability of each row."""
    sets = {name: read(prepared, f"{name}.valid") for name in TARGETS + ["wdc-products-medium"]}
    sets["catalogue"] = catalogue_valid(binary)
    judged = {name: [(score, row["label"]) for score, row in zip(judge(rows), rows)] for name, rows in sets.items()}
    folds = cross_validated_f1({name: judged[name] for name in (*TARGETS, "catalogue")})
    for name in TARGETS:
        judged[f"{name}, new products"] = [row for row, new in zip(judged[name], unseen(data / "pairs" / name)) if new]
    for name, rows in judged.items():
        print(f"{judged_line(name, rows, threshold, folds.get(name, float('nan')))}  "
              f"calibration error {calibration_error([(s, y, 1.0) for s, y in rows]):.4f}", flush=True)
    for name in CANDIDATE_SETS:
        rows = read(prepared, f"candidates-{name}.valid")
        weighted = [(score, row["label"], row["weight"]) for score, row in zip(judge(rows), rows)]
        share = sum(w for _, y, w in weighted if y) / sum(w for *_, w in weighted)
        print(f"{name:36} {len(rows):5} candidates of blocking, {share:.3f} duplicates  "
              f"calibration error {calibration_error(weighted):.4f}", flush=True)


def report_queries(predicted: list, rows: list):
    judged = [(p, row["label"], row["source"]) for p, row in zip(predicted, rows)]
    for source in ["", *sorted({s for _, _, s in judged})]:
        of = [(p, y) for p, y, s in judged if source in ("", s)]
        accuracy = sum(p == y for p, y in of) / len(of)
        print(f"intents {source or 'all':18} {len(of):5} rows  accuracy {accuracy:.4f}  "
              f"macro-F1 {interval(lambda drawn: macro_f1([p for p, _ in drawn], [y for _, y in drawn]), of)}", flush=True)


def report_hint3(predicted: list, rows: list):
    """Of the quarter of HINT3 that `prepare.py` keeps from training; weights that were trained before
    it did (up to minilm-l6-v6) have seen these rows."""
    found = [(p, row["label"]) for p, row in zip(predicted, rows)]
    help_recall = interval(lambda drawn: recall(*zip(*drawn), INTENTS.index("help")), found)
    print(f"hint3, kept from training {len(rows):5} rows  help recall {help_recall}", flush=True)


def main():
    parser = of_data(__doc__)
    parser.add_argument("--artifact", type=Path, default=Path("models/artifacts") / NAME)
    args = parser.parse_args()
    manifest = json.loads((args.artifact / "manifest.json").read_text())
    model = load_weights([args.artifact / "model.ts"], backbone_folder())
    tokens = Tokens(args.binary, backbone_folder() / "tokenizer.json")

    def judge(rows: list) -> list:
        return pair_probabilities(model, rows, tokens, manifest).tolist()

    report_as_read(args, manifest["thresholds"]["duplicate"])
    report_pairs(judge, args.prepared, args.data, args.binary, manifest["thresholds"]["duplicate"])
    queries = read(args.prepared, "intent.valid")
    report_queries(intents(model, queries, tokens), queries)
    report_hint3(intents(model, kept := read(args.prepared, "intent-hint3.valid"), tokens), kept)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
