"""Draws a phase's loss and validation F1 by step, from what fit.py logs."""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend is chosen first

from rows import VALIDATED


def rows_of(path: Path) -> list:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of phases, as models/training/runs/main/targets")
    parser.add_argument("--out", type=Path, default=Path("docs/models"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for folder in args.folders:
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
        losses, epochs = rows_of(folder / "loss.ndjson"), rows_of(folder / "log.ndjson")
        left.plot([row["step"] for row in losses], [row["loss"] for row in losses])
        left.set(title=f"{folder.name}: training loss, mean over about 50 steps", xlabel="step", ylabel="cross-entropy")
        for name in [name for name in [*VALIDATED, "intent"] if name in epochs[0]]:
            right.plot([row["step"] for row in epochs], [row[name] for row in epochs], marker="o", label=name)
        right.set(title="validation F1 at 0.5 (intent: macro-F1)", xlabel="step", ylim=(0.5, 1.0))
        right.legend(fontsize=7, ncol=2, loc="lower right")
        figure.tight_layout()
        figure.savefig(args.out / f"{folder.parent.name}-{folder.name}.png", dpi=110)


if __name__ == "__main__":
    main()
