"""Has an artifact's doubtful pairs read in both orders of their texts, and chooses temperature and thresholds anew for
what the mean of both margins says.

The network was trained on both orders, and errs a little otherwise in each. Pairs that one reading leaves no doubt of
are not read again. The artifact gets another name, and loses the stages that were judged by the old one's verdicts:
put them in again. Nothing of the network changes.
"""

import json
import math
import sys
from pathlib import Path

import torch

from export import candidate_rows, choose_thresholds, chosen_on, f_beta, load_weights, platt
from judge import decided, is_doubtful, margin, pair_logits, turned
from rows import Tokens, backbone_folder
from stages import base, of_artifact, start_over

SCHEMA_VERSION = 7
# Pairs are in doubt from one of these probabilities to one less the same. Of those edges that give up at most
# F1_COST_MAX of the best mean F1, the one is taken that lets fewest pairs be read again.
EDGES = [0.02, 0.05, 0.1, 0.2, 0.3]
F1_COST_MAX = 0.001
# Pairs of a larger margin are not read again: no edge holds them in doubt, unless a temperature is high.
MARGIN_MAX = 4.2
# The doubtful are so by the temperature that is fitted to them: after these many rounds it stays.
ROUNDS = 4


class Readings:
    """Both margins of the sets' rows, which take minutes and are kept."""

    def __init__(self, args, of: str):
        self.folder, self.name = args.prepared.parent / "second_reading", of
        backbone = backbone_folder()
        self.model = load_weights([args.artifact / "model.ts"], backbone)
        self.tokens = Tokens(args.binary, backbone / "tokenizer.json")

    def __call__(self, name: str, rows: list) -> tuple:
        kept = self.folder / f"{self.name}.{name}.pt"
        if not kept.exists():
            print(f"the network reads {len(rows)} rows of {name}: minutes", file=sys.stderr)
            first = margin(pair_logits(self.model, rows, self.tokens))
            found = first, turned(self.model, rows, self.tokens, first, first.abs() < MARGIN_MAX)
            kept.parent.mkdir(parents=True, exist_ok=True)
            torch.save(found, kept.with_suffix(".part"))
            kept.with_suffix(".part").rename(kept)
        return torch.load(kept)


def calibrated(first: torch.Tensor, second: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, band: dict) -> float:
    """The temperature at which probabilities of candidates hold."""
    temperature = 1.0
    for _ in range(ROUNDS):
        doubtful = is_doubtful(first, {"temperature": temperature, "second_reading": band})
        temperature, _ = platt(torch.where(doubtful, (first + second) / 2, first), labels, weights, shifted=False)
    return temperature


def chosen(edge: float, candidates: tuple, sets: dict) -> tuple:
    """What the manifest says with this edge, and the mean F1 of the sets by it."""
    first, second, labels, weights = candidates
    choices = {"second_reading": {"above": edge, "below": round(1.0 - edge, 4)}}
    choices["temperature"] = calibrated(*candidates, choices["second_reading"])
    if choices["temperature"] * math.log((1.0 - edge) / edge) > MARGIN_MAX:
        sys.exit(f"edge {edge} at temperature {choices['temperature']} holds margins beyond {MARGIN_MAX} in doubt, which were not read again: raise MARGIN_MAX")
    again = (weights * is_doubtful(first, choices)).sum() / weights.sum()
    print(f"edge {edge}: temperature {choices['temperature']}, {again:.3f} of blocking's candidates are read again", flush=True)
    judged = {name: (decided(first, second, choices), labels) for name, (first, second, labels) in sets.items()}
    choices["thresholds"] = choose_thresholds(judged)
    f1 = sum(f_beta(p, labels, choices["thresholds"]["duplicate"], 1.0) for p, labels in judged.values()) / len(judged)
    print(f"thresholds {choices['thresholds']}, mean F1 {f1:.4f}", flush=True)
    return choices, f1


def taken(found: list) -> dict:
    """Of (choices, mean F1), by EDGES, those with the narrowest bounds that are good enough."""
    best = max(f1 for _, f1 in found)
    return [choices for choices, f1 in found if f1 >= best - F1_COST_MAX][-1]


def main():
    args = of_artifact(__doc__).parse_args()
    manifest = json.loads((args.artifact / "manifest.json").read_text(encoding="utf-8"))
    of = manifest.get("second_reading", {}).get("of", base(manifest))
    readings = Readings(args, of)
    rows, labels, weights = candidate_rows(args.prepared)
    candidates = (*readings("candidates", rows), labels, weights)
    sets = {name: (*readings(name, rows), torch.tensor([row["label"] for row in rows]))
            for name, rows in chosen_on(args.prepared, args.binary).items()}
    found = [chosen(edge, candidates, sets) for edge in EDGES]
    choices = taken(found)
    choices["second_reading"]["of"] = of
    start_over(args.artifact, {**manifest, "schema_version": SCHEMA_VERSION}, of, choices)
    print(json.dumps(choices))
    print("its stages are out: run cascade.py, query_cascade.py and early_exit.py")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
