"""Draws and encodes the rows of training phases, and the rows that are judged.

Writes into `runs/drawn` a file for each phase, the rows of all its epochs in their order, sides swapped
and texts varied anew in each epoch; `valid-SET.npz`; and `judged.npz`, the training pairs that the
teachers are asked about. The same seed draws the same rows, so a resumed or repeated training sees
what the first one saw.
"""

import argparse
import random
from pathlib import Path

from augment import synthetic_pairs
from drawn import NO_FOLD, UNJUDGED, Drawn
from folds import folds_of
from judge import encoded
from recipe import INTENT_HARD, PHASES
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


def read_sets(prepared: Path) -> dict:
    """All training sets; a row that teachers judge knows its place among those."""
    sets = {name: read(prepared, f"{name}.train") for name in TAUGHT}
    judged = [row for rows in sets.values() for row in rows]
    for place, row in enumerate(judged):
        row["judged"] = place
    sets.update({name: read(prepared, f"{name}.train") for name in [*LSPC, *WDC, "intent"] if name not in sets})
    return sets


def product_folds(sets: dict) -> dict:
    """Fold of each product that a labelled training pair names."""
    return folds_of([row for name in TARGETS + WDC + LSPC for row in sets[name]])


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
                    [row["label"] for row in rows], part, [folds_of_row(row, folds) for row in rows],
                    [row.get("judged", UNJUDGED) for row in rows])


def draw_judged(sets: dict, folds: dict, tokens: Tokens) -> Drawn:
    """The pairs that the teachers judge, in the order of `judged`; `part` is the set's place in TAUGHT."""
    rows = [row for name in TAUGHT for row in sets[name]]
    drawn = encoded(rows, tokens)
    # A pair without a label is in no teacher's training: all judge it.
    drawn.folds[:] = [folds_of_row(row, {} if row["label"] is None else folds) for row in rows]
    drawn.part[:] = [TAUGHT.index(row["set"]) for row in rows]
    return drawn


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", type=Path, default=Path("models/training/runs/prepared"))
    parser.add_argument("--out", type=Path, default=Path("models/training/runs/drawn"))
    parser.add_argument("--binary", default="target/release/catalog-labels", help="its `tokens` is the encoder, its `texts` the serialiser")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    tokens = Tokens(args.binary, backbone_folder() / "tokenizer.json")
    sets = read_sets(args.prepared)
    folds = product_folds(sets)
    for name in [*VALIDATED, "intent"]:
        rows = catalogue_valid(args.binary) if name == "catalogue" else read(args.prepared, f"{name}.valid")
        encoded(rows, tokens).save(args.out / f"valid-{name}.npz")
    draw_judged(sets, folds, tokens).save(args.out / "judged.npz")
    for name, phase in PHASES.items():
        drawn = draw(phase, name, sets, folds, tokens, args.binary, args.seed)
        drawn.save(args.out / f"{name}.npz")
        print(f"{name}: {len(drawn)} rows in {len(phase['epochs'])} epochs, {drawn.ends[-1] / len(drawn):.1f} tokens each")


if __name__ == "__main__":
    main()
