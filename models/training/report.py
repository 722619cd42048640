"""Prints the model card's figures: precision, recall and F1 of each validation set of
pairs at the manifest's threshold, expected calibration error, and intents by source,
each with a 95% bootstrap interval over rows."""

import argparse
import json
import random
from pathlib import Path

import torch

from export import load_weights, pair_logits
from train import TARGETS, Tokens, backbone_folder, catalogue_valid, f1_at, has_bf16, macro_f1, predict, read

RESAMPLES = 1000
CALIBRATION_BINS = 10


def interval(judge, rows: list) -> str:
    """`judge` of all rows, and the 2.5th and 97.5th percentile over resampled rows."""
    rng = random.Random(7)
    drawn = sorted(judge(rng.choices(rows, k=len(rows))) for _ in range(RESAMPLES))
    return f"{judge(rows):.4f} ({drawn[RESAMPLES // 40]:.3f} to {drawn[-RESAMPLES // 40]:.3f})"


def calibration_error(rows: list) -> float:
    """Mean distance of probability and share of duplicates over equal-width bins,
    weighted by rows (Naeini et al. 2015)."""
    bins = [[] for _ in range(CALIBRATION_BINS)]
    for score, label in rows:
        bins[min(int(score * CALIBRATION_BINS), CALIBRATION_BINS - 1)].append((score, label))
    gaps = (abs(sum(s for s, _ in b) - sum(y for _, y in b)) for b in bins if b)
    return sum(gaps) / len(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, nargs="+", default=[Path("models/training/runs/main/tables/averaged.pt")], help="several are averaged")
    parser.add_argument("--artifact", type=Path, default=Path("models/artifacts/minilm-l6-v3"))
    parser.add_argument("--prepared", type=Path, default=Path("models/training/runs/prepared"))
    parser.add_argument("--binary", default="target/release/catalog-labels")
    args = parser.parse_args()
    manifest = json.loads((args.artifact / "manifest.json").read_text())
    threshold, temperature = manifest["thresholds"]["duplicate"], manifest["temperature"]
    model = load_weights(args.weights, backbone_folder())
    tokens = Tokens(args.binary, backbone_folder() / "tokenizer.json")

    sets = {name: read(args.prepared, f"{name}.valid") for name in TARGETS + ["wdc-products-medium"]}
    sets["catalogue"] = catalogue_valid(args.binary)
    for name, rows in sets.items():
        scores = (pair_logits(model, rows, tokens) / temperature).softmax(-1)[:, 1].tolist()
        judged = [(score, row["label"]) for score, row in zip(scores, rows)]
        hit = sum(s >= threshold and y == 1 for s, y in judged)
        precision, recall = hit / max(sum(s >= threshold for s, _ in judged), 1), hit / sum(y for _, y in judged)
        f1 = interval(lambda drawn: f1_at([s for s, _ in drawn], [y for _, y in drawn], threshold), judged)
        print(f"{name:22} {len(rows):5} pairs  precision {precision:.4f}  recall {recall:.4f}  F1 {f1}  "
              f"calibration error {calibration_error(judged):.4f}", flush=True)

    rows = read(args.prepared, "intent.valid")
    judged = [(p, row["label"], row["source"]) for p, row in zip(predict(model, rows, tokens, has_bf16()), rows)]
    for source in ["", *sorted({s for _, _, s in judged})]:
        of = [(p, y) for p, y, s in judged if source in ("", s)]
        accuracy = sum(p == y for p, y in of) / len(of)
        print(f"intents {source or 'all':18} {len(of):5} rows  accuracy {accuracy:.4f}  "
              f"macro-F1 {interval(lambda drawn: macro_f1([p for p, _ in drawn], [y for _, y in drawn]), of)}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
