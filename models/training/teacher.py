"""Trains a network for each fold of products (folds.py) and asks it about all pairs, those of its own
fold included: the teachers, or with `--phase targets` our own network, to compare recipes by what
they make of products that training never saw. Folds train side by side on a GPU and one after the
other on a CPU; a phase that draws no pair to be judged is trained once for all folds.

Writes `runs/main/PHASE-without-FOLD/margins.npz`: for the pairs that `draw.py` drew to be judged, and
for each validation set, the network's margin of `duplicate` over `distinct`, one float32 a row.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from drawn import Drawn
from fit import LOADERS, backbone_of
from folds import FOLDS
from judge import device, logits, weights_of
from recipe import PHASES, drawn_sets, run_name
from rows import TAUGHT, VALIDATED

JUDGED = ["judged", *(f"valid-{name}" for name in VALIDATED)]


def chain(phase: str) -> list:
    """The phases that lead to `phase`, and itself."""
    before = PHASES[phase]["start"]
    return [*(chain(before) if before else []), phase]


def folds_to_train(phase: str) -> list:
    """All folds, or none left out where the phase draws no pair that will be judged."""
    return list(range(FOLDS)) if set(drawn_sets(PHASES[phase])) & set(TAUGHT) else [None]


def train(phase: str, arguments: list, together: bool):
    """`fit.py` for each fold; the same command goes on where it stopped."""
    running = []
    for fold in folds_to_train(phase):
        of_fold = [] if fold is None else ["--fold", str(fold)]
        running.append(subprocess.Popen([sys.executable, str(Path(__file__).parent / "fit.py"), phase, *of_fold, *arguments]))
        if not together:
            running[-1].wait()
    if any([process.wait() for process in running]):
        sys.exit(f"{phase}: a training failed; its own words are above")


def margins(model, drawn: Path) -> dict:
    found = {}
    for name in JUDGED:
        pair, _ = logits(model, Drawn.load(drawn / f"{name}.npz"))
        found[name] = (pair[:, 1] - pair[:, 0]).numpy()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phase", choices=["teacher", "targets"], default="teacher")
    parser.add_argument("--run", type=Path, default=Path("models/training/runs/main"))
    parser.add_argument("--drawn", type=Path, default=Path("models/training/runs/drawn"))
    parser.add_argument("--backbone", type=Path, help="folder with config.json and model.safetensors; as installed without it")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    network = PHASES[args.phase]["network"]
    backbone, on = args.backbone or backbone_of(network), device()
    given = ["--run", str(args.run), "--drawn", str(args.drawn), "--backbone", str(backbone), "--threads", str(args.threads)]
    for phase in chain(args.phase):
        train(phase, given, together=on.type == "cuda")
    model = LOADERS[network](backbone).to(on)
    for fold in folds_to_train(args.phase):
        folder = args.run / run_name(args.phase, fold)
        model.load_state_dict(weights_of(folder / "averaged.pt"))
        with open(folder / "margins.part", "wb") as file:
            np.savez_compressed(file, **margins(model, args.drawn))
        (folder / "margins.part").rename(folder / "margins.npz")


if __name__ == "__main__":
    main()
