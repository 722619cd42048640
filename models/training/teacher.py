"""Trains the teachers and asks them: one network five times the size of ours for each fold of products
(folds.py), all from one first phase, side by side on a GPU and one after the other on a CPU.

Writes `runs/main/teacher-without-FOLD/margins.npz`: for each set that draw.py drew for judging, and
each validation set, the teacher's margin of `duplicate` over `distinct`, one float32 a row.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from drawn import Drawn
from fit import LOADERS, TEACHER
from folds import FOLDS
from judge import device, logits, weights_of
from recipe import run_name
from rows import TAUGHT, VALIDATED

JUDGED = [f"judged-{name}" for name in TAUGHT] + [f"valid-{name}" for name in VALIDATED]


def train(arguments: list, folds: list, together: bool):
    """`fit.py` for each of `folds`; the same command goes on where it stopped."""
    running = []
    for fold in folds:
        command = [sys.executable, str(Path(__file__).parent / "fit.py"), *arguments, *(["--fold", str(fold)] if fold is not None else [])]
        running.append(subprocess.Popen(command))
        if not together:
            running[-1].wait()
    if any([process.wait() for process in running]):
        sys.exit("a teacher's training failed; its own words are above")


def margins(model, drawn: Path) -> dict:
    found = {}
    for name in JUDGED:
        pair, _ = logits(model, Drawn.load(drawn / f"{name}.npz"))
        found[name] = (pair[:, 1] - pair[:, 0]).numpy()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("models/training/runs/main"))
    parser.add_argument("--drawn", type=Path, default=Path("models/training/runs/drawn"))
    parser.add_argument("--backbone", type=Path, default=TEACHER)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    given = ["--run", str(args.run), "--drawn", str(args.drawn), "--backbone", str(args.backbone), "--threads", str(args.threads)]
    on, folds = device(), list(range(FOLDS))
    train(["teacher-broad", *given], [None], together=False)
    train(["teacher", *given], folds, together=on.type == "cuda")
    model = LOADERS["mpnet"](args.backbone).to(on)
    for fold in folds:
        folder = args.run / run_name("teacher", fold)
        model.load_state_dict(weights_of(folder / "averaged.pt"))
        with open(folder / "margins.part", "wb") as file:
            np.savez_compressed(file, **margins(model, args.drawn))
        (folder / "margins.part").rename(folder / "margins.npz")


if __name__ == "__main__":
    main()
