"""Turns what the teachers said into soft labels, and reports how well they judged what they did not
see: the recipe's cross-validation.

Of a labelled pair the mean margin of the teachers whose fold holds one of its products is taken, of a
pair without a label the mean of all. Writes `runs/drawn/taught.npy`, a probability for each row of
`judged.npz`. With `--phase targets` it only reports, of our own network (`teacher.py --phase targets`).
"""

import argparse
from pathlib import Path

import numpy as np

from drawn import Drawn
from folds import FOLDS
from judge import f1_at
from recipe import run_name
from rows import TAUGHT, VALIDATED

THRESHOLDS = [i / 200 for i in range(1, 200)]


def taught(margins: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Probability of each row, float64; from margins of shape (teachers, rows), and the folds of each row's
    products, shape (rows, 2). A teacher that trained on a pair has no say about it."""
    unseen = np.stack([(folds == fold).any(axis=1) for fold in range(len(margins))])
    unseen[:, ~unseen.any(axis=0)] = True
    mean = (margins.astype(np.float64) * unseen).sum(axis=0) / unseen.sum(axis=0)
    return 1 / (1 + np.exp(-mean))


def best_f1(p: np.ndarray, labels: np.ndarray) -> float:
    return max(f1_at(p.tolist(), labels.tolist(), t) for t in THRESHOLDS)


def line(name: str, p: np.ndarray, labels: np.ndarray) -> str:
    at_half = f1_at(p.tolist(), labels.tolist(), 0.5)
    return f"{name:44} {len(p):6} pairs  F1 at 0.5 {at_half:.4f}  at the best threshold {best_f1(p, labels):.4f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phase", choices=["teacher", "targets"], default="teacher")
    parser.add_argument("--run", type=Path, default=Path("models/training/runs/main"))
    parser.add_argument("--drawn", type=Path, default=Path("models/training/runs/drawn"))
    args = parser.parse_args()
    given = [np.load(args.run / run_name(args.phase, fold) / "margins.npz") for fold in range(FOLDS)]
    drawn = Drawn.load(args.drawn / "judged.npz")
    probabilities = taught(np.stack([g["judged"] for g in given]), drawn.folds)
    if args.phase == "teacher":
        np.save(args.drawn / "taught.npy", probabilities.astype(np.float32))
    for number, name in enumerate(TAUGHT):
        of = drawn.part == number
        p, labels, folds = probabilities[of], drawn.target[of], drawn.folds[of]
        if np.isnan(labels).any():
            print(f"{name:44} {len(p):6} pairs  without labels, {(p >= 0.5).mean():.3f} judged duplicates")
            continue
        print(line(f"{name}, not trained on", p, labels))
        apart = folds[:, 0] == folds[:, 1]
        print(line(f"{name}, neither product in training", p[apart], labels[apart]))
    for name in VALIDATED:
        labels = Drawn.load(args.drawn / f"valid-{name}.npz").target
        p = 1 / (1 + np.exp(-np.mean([g[f"valid-{name}"] for g in given], axis=0, dtype=np.float64)))
        print(line(f"{name} valid, all {FOLDS}", p, labels))


if __name__ == "__main__":
    main()
