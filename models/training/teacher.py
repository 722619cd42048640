"""Trains a network for each fold of products (folds.py) and asks it about all pairs of the sets that it judges,
those of its own fold included: the teachers, those of one set with `--phase specialist`, or with `--phase targets`
our own network, to compare recipes by what they make of products that training never saw. Folds train side by side on a GPU and one after the
other on a CPU; a phase that draws no pair to be judged is trained once for all folds.

Writes `runs/main/PHASE-without-FOLD/margins.npz`: for the pairs that `draw.py` drew to be judged, and
for each of their validation sets, the network's margin of `duplicate` over `distinct`, one float32 a row, and
not a number for a pair that it does not judge.
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
from judge import device, logits, margin, weights_of
from recipe import PHASES, drawn_sets, run_name
from rows import TAUGHT, VALIDATED



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


def margins(model, drawn: Path, judges: list) -> dict:
    pairs, found = Drawn.load(drawn / "judged.npz"), {}
    asked = np.isin(pairs.part, [TAUGHT.index(name) for name in judges if name in TAUGHT])
    found["judged"] = np.full(len(pairs), np.nan, dtype=np.float32)
    found["judged"][asked] = margin(logits(model, pairs, asked.nonzero()[0])[0]).numpy()
    for name in judged_valid(judges):
        found[f"valid-{name}"] = margin(logits(model, Drawn.load(drawn / f"valid-{name}.npz"))[0]).numpy()
    return found


def judged_valid(judges: list) -> list:
    """The validation sets of the sets that a phase judges."""
    return [name for name in VALIDATED if name in judges]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phase", choices=[name for name, phase in PHASES.items() if "judges" in phase], default="teacher")
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
            np.savez_compressed(file, **margins(model, args.drawn, PHASES[args.phase]["judges"]))
        (folder / "margins.part").rename(folder / "margins.npz")


if __name__ == "__main__":
    main()
