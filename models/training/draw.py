"""Draws and encodes the rows of training phases, and the rows that are judged.

`draw.py PHASE...` writes `runs/drawn/PHASE.npz`: the rows of all epochs in their order, sides
swapped and texts varied anew in each epoch, with the target of each. Beside them `valid-SET.npz`, and
for the teachers' phases `judged-SET.npz`: the training pairs that the teachers are asked about. The
same seed draws the same rows, so a resumed or repeated training sees what the first one saw.
"""

import argparse
import json
import random
from pathlib import Path

from augment import synthetic_pairs
from drawn import NO_FOLD, Drawn
from folds import folds_of
from judge import encoded
from recipe import INTENT_HARD, PHASES, drawn_sets
from rows import LSPC, TARGETS, TAUGHT, VALIDATED, WDC, Tokens, backbone_folder, catalogue_rows, catalogue_valid, inputs_of, read

CHUNK_ROWS = 20_000


def epoch_rows(sets: dict, shares: dict, seed: str, binary: str) -> list:
    """The rows of one epoch: of each set so many times all rows, and a sample for the rest."""
    rng, rows = random.Random(seed), []
    for name, share in shares.items():
        if name == "catalogue":
            rows += catalogue_rows(share, seed, binary)
        elif name == "synthetic":
            texts = [row[side] for source in TARGETS + WDC for row in sets[source] for side in ("a", "b")]
            rows += synthetic_pairs(texts, share, rng)
        elif name == "intent":
            rows += [row for row in sets[name] if rng.random() < share * INTENT_HARD.get(row["source"], 1)]
        else:
            rows += sets[name] * int(share) + rng.sample(sets[name], int(len(sets[name]) * (share % 1)))
    rng.shuffle(rows)
    return rows


def target(row: dict, smoothing: float, taught_share: float) -> float:
    """The share of `duplicate` that a pair is trained towards: its label, smoothed, mixed with what
    the teachers think where they were asked, and theirs alone where there is no label. Of a query
    its intent."""
    if "text" in row:
        return row["label"]
    if row["label"] is None:
        return row["taught"]
    own = (1 - smoothing) * row["label"] + smoothing / 2
    return own if "taught" not in row else (1 - taught_share) * own + taught_share * row["taught"]


def with_taught(prepared: Path, name: str, rows: list) -> list:
    """`rows` of a set with the teachers' probabilities, from `teach.py`."""
    path = prepared / f"{name}.taught.json"
    if not path.exists():
        raise SystemExit(f"{path}: no such file; teach.py writes it, and this phase learns from it")
    taught = json.loads(path.read_text())
    if len(taught) != len(rows):
        raise SystemExit(f"{path}: {len(taught)} probabilities of {len(rows)} rows; run teacher.py and teach.py again")
    return [{**row, "taught": p} for row, p in zip(rows, taught)]


def read_sets(prepared: Path, phase: dict) -> dict:
    sets = {name: read(prepared, f"{name}.train") for name in drawn_sets(phase)}
    if phase["taught_share"]:
        sets.update({name: with_taught(prepared, name, rows) for name, rows in sets.items() if name in TAUGHT})
    return sets


def product_folds(prepared: Path) -> dict:
    """Fold of each product that a labelled training pair names."""
    names = TARGETS + WDC + LSPC
    return folds_of([row for name in names for row in read(prepared, f"{name}.train")])


def folds_of_row(row: dict, folds: dict) -> tuple:
    return tuple(folds.get(key, NO_FOLD) for key in row.get("products", ("", "")))


def draw(phase: dict, name: str, sets: dict, folds: dict, tokens: Tokens, binary: str, seed: int) -> Drawn:
    encodings, rows, part = [], [], []
    for epoch, shares in enumerate(phase["epochs"]):
        drawn, rng = epoch_rows(sets, shares, f"{seed}-{name}-{epoch}", binary), random.Random(f"{seed}-{name}-{epoch}-vary")
        for start in range(0, len(drawn), CHUNK_ROWS):
            encodings += tokens([inputs_of(row, rng, phase["vary_share"]) for row in drawn[start:start + CHUNK_ROWS]])
        rows += drawn
        part += [epoch] * len(drawn)
    return Drawn.of(encodings, ["text" in row for row in rows],
                    [target(row, phase["smoothing"], phase["taught_share"]) for row in rows],
                    part, [folds_of_row(row, folds) for row in rows])


def draw_judged(prepared: Path, out: Path, names: list, split: str, kind: str, folds: dict, tokens: Tokens):
    for name in names:
        rows = read(prepared, f"{name}.{split}")
        drawn = encoded(rows, tokens)
        # A pair without a label is in no teacher's training: all judge it.
        drawn.folds[:] = [folds_of_row(row, {} if row["label"] is None else folds) for row in rows]
        drawn.save(out / f"{kind}-{name}.npz")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phases", nargs="+", choices=PHASES)
    parser.add_argument("--prepared", type=Path, default=Path("models/training/runs/prepared"))
    parser.add_argument("--out", type=Path, default=Path("models/training/runs/drawn"))
    parser.add_argument("--binary", default="target/release/catalog-labels", help="its `tokens` is the encoder, its `texts` the serialiser")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    tokens = Tokens(args.binary, backbone_folder() / "tokenizer.json")
    folds = product_folds(args.prepared)
    draw_judged(args.prepared, args.out, [n for n in VALIDATED if n != "catalogue"] + ["intent"], "valid", "valid", {}, tokens)
    encoded(catalogue_valid(args.binary), tokens).save(args.out / "valid-catalogue.npz")
    if any(PHASES[name]["network"] == "mpnet" for name in args.phases):
        draw_judged(args.prepared, args.out, TAUGHT, "train", "judged", folds, tokens)
    for name in args.phases:
        phase = PHASES[name]
        drawn = draw(phase, name, read_sets(args.prepared, phase), folds, tokens, args.binary, args.seed)
        drawn.save(args.out / f"{name}.npz")
        print(f"{name}: {len(drawn)} rows in {len(phase['epochs'])} epochs, {drawn.ends[-1] / len(drawn):.1f} tokens each")


if __name__ == "__main__":
    main()
