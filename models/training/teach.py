"""Turns what the teachers said into soft labels, and reports how well they judged what they did not
see: the recipe's cross-validation.

Of a labelled pair the mean margin of the teachers whose fold holds one of its products is taken, of a
pair without a label the mean of all. Writes `runs/drawn/taught-by-PHASE.npy`, a probability for each row of
`judged.npz`. With `--own` the network that goes on is a teacher as well: of the sets that no other judges, the only one,
of pairs without a label one of two. It trained on the labelled ones, so there its word counts only where no other is.
With `--phase targets` it only reports, of our own network (`teacher.py --phase targets`).
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from drawn import Drawn
from fit import backbone_of
from folds import FOLDS
from judge import f1_at, logits, margin, weights_of
from model import load_backbone
from recipe import PHASES, run_name, taught_name
from rows import TAUGHT
from teacher import judged_valid

THRESHOLDS = [i / 200 for i in range(1, 200)]


def unseen_mean(margins: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Mean margin of each row, float64; from margins of shape (teachers, rows), and the folds of each row's
    products, shape (rows, 2). A teacher that trained on a pair has no say about it."""
    unseen = np.stack([(folds == fold).any(axis=1) for fold in range(len(margins))])
    unseen[:, ~unseen.any(axis=0)] = True
    return (margins.astype(np.float64) * unseen).sum(axis=0) / unseen.sum(axis=0)


def with_own(said: np.ndarray, own: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Margins of the teachers (not a number where they do not judge) and of the network that goes on, as one."""
    both = np.where(np.isnan(labels), (said + own) / 2, said)
    return np.where(np.isnan(said), own, both)


def probability(margins: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-margins))


def own_margins(weights: Path, backbone: Path, pairs: Drawn) -> np.ndarray:
    model = load_backbone(backbone)
    model.load_state_dict(weights_of(weights))
    return margin(logits(model, pairs)[0]).numpy().astype(np.float64)


def best_f1(p: np.ndarray, labels: np.ndarray) -> float:
    return max(f1_at(p.tolist(), labels.tolist(), t) for t in THRESHOLDS)


def line(name: str, p: np.ndarray, labels: np.ndarray) -> str:
    at_half = f1_at(p.tolist(), labels.tolist(), 0.5)
    return f"{name:44} {len(p):6} pairs  F1 at 0.5 {at_half:.4f}  at the best threshold {best_f1(p, labels):.4f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phase", choices=[name for name, phase in PHASES.items() if "judges" in phase], default="teacher")
    parser.add_argument("--own", type=Path, help="`averaged.pt` or `model.ts` of the network that goes on, which teaches too")
    parser.add_argument("--backbone", type=Path, default=backbone_of("minilm"), help="folder with its config.json and model.safetensors")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--run", type=Path, default=Path("models/training/runs/main"))
    parser.add_argument("--drawn", type=Path, default=Path("models/training/runs/drawn"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    judges = PHASES[args.phase]["judges"]
    given = [np.load(args.run / run_name(args.phase, fold) / "margins.npz") for fold in range(FOLDS)]
    drawn = Drawn.load(args.drawn / "judged.npz")
    said = unseen_mean(np.stack([g["judged"] for g in given]), drawn.folds)
    if args.phase in [phase.get("taught_by") for phase in PHASES.values()]:
        write(args, said, drawn)
    report(probability(said), drawn, judges)
    for name in judged_valid(judges):
        labels = Drawn.load(args.drawn / f"valid-{name}.npz").target
        p = probability(np.mean([g[f"valid-{name}"] for g in given], axis=0, dtype=np.float64))
        print(line(f"{name} valid, all {FOLDS}", p, labels))


def write(args: argparse.Namespace, said: np.ndarray, drawn: Drawn):
    if args.own:
        said = with_own(said, own_margins(args.own, args.backbone, drawn), drawn.target)
    elif np.isnan(said).any():
        raise SystemExit(f"{args.phase} does not judge all sets; name the network that goes on by --own")
    np.save(args.drawn / taught_name(args.phase), probability(said).astype(np.float32))


def report(p: np.ndarray, drawn: Drawn, judges: list):
    """How good the teachers are at what they did not train on, set by set."""
    for name in [name for name in TAUGHT if name in judges]:
        of = drawn.part == TAUGHT.index(name)
        labels, folds = drawn.target[of], drawn.folds[of]
        if np.isnan(labels).any():
            print(f"{name:44} {of.sum():6} pairs  without labels, {(p[of] >= 0.5).mean():.3f} judged duplicates")
            continue
        print(line(f"{name}, not trained on", p[of], labels))
        apart = folds[:, 0] == folds[:, 1]
        print(line(f"{name}, neither product in training", p[of][apart], labels[apart]))


if __name__ == "__main__":
    main()
