"""Prints what the first stage of an artifact's queries would settle and change, by how sure it has to be: the table that
docs/adr/0037 decides by. Also what a probability does on queries that had no part in its choice: chosen on a random
half of the validation queries, and judged on the other. Changes nothing.
"""

import json

import numpy as np

from judge import macro_f1
from network import Network
from query_cascade import FirstStage, least, probabilities
from rows import read
from stages import of_artifact

AT_LEAST = (0.915, 0.88, 0.85, 0.82, 0.78, 0.70)
SHOPPING = "queryner"
HALVES, SEED = 60, 7


def judged(at_least: float, first: np.ndarray, second: np.ndarray, labels: np.ndarray, sources: np.ndarray) -> dict:
    """What becomes of queries where intents of at least that probability stand. `first` is (queries, intents), `second`
    what the network says."""
    settled = first.max(axis=1) >= at_least
    predicted = np.where(settled, first.argmax(axis=1), second)
    changed = predicted != second
    f1 = lambda said: macro_f1(said.tolist(), labels.tolist())
    return {"settled": settled.mean(), "shopping": settled[sources == SHOPPING].mean(), "changed": int(changed.sum()),
            "right": int((changed & (predicted == labels)).sum()), "wrong": int((changed & (second == labels)).sum()),
            "macro-F1": f1(predicted), "cost": f1(second) - f1(predicted)}


def by_halves(first: np.ndarray, second: np.ndarray, labels: np.ndarray, sources: np.ndarray) -> dict:
    """Settled, changed (both as shares) and cost of macro-F1, one value for each half that had no part in the choice."""
    rng, found = np.random.default_rng(SEED), {"settled": [], "changed": [], "cost": []}
    for _ in range(HALVES):
        order = rng.permutation(len(labels))
        chosen, other = ([part[rows] for part in (first, second, labels, sources)] for rows in np.array_split(order, 2))
        # Where no probability will do, none is settled.
        of_other = judged(least(*chosen) or np.inf, *other)
        for name, value in (("settled", of_other["settled"]), ("changed", of_other["changed"] / len(other[0])), ("cost", of_other["cost"])):
            found[name].append(value)
    return {name: np.array(values) for name, values in found.items()}


def main():
    args = of_artifact(__doc__).parse_args()
    manifest = json.loads((args.artifact / "manifest.json").read_text(encoding="utf-8"))
    first_stage = FirstStage.read(json.loads((args.artifact / "query_cascade.json").read_text(encoding="utf-8")))
    valid, network = read(args.prepared, "intent.valid"), Network(args, manifest)
    labels, sources = (np.array([row[key] for row in valid]) for key in ("label", "source"))
    second = network.read("queries", valid, "intent.valid")[2].numpy().argmax(axis=1)
    first = probabilities(first_stage.says([row["text"] for row in valid], args.binary, network.tokens))

    print(f"{manifest['model_id']}: of {len(valid)} queries, macro-F1 of the network alone {macro_f1(second.tolist(), labels.tolist()):.4f}\n")
    print("| from | settled | of shopping queries | other intents | of them become right, become wrong | macro-F1 |\n|---|---:|---:|---:|---|---:|")
    for at_least in AT_LEAST:
        row = judged(at_least, first, second, labels, sources)
        print(f"| {at_least} | {row['settled']:.1%} | {row['shopping']:.1%} | {row['changed']} | {row['right']}, {row['wrong']} | {row['macro-F1']:.4f} |")
    halves = by_halves(first, second, labels, sources)
    print(f"\nChosen on a random half, {HALVES} times, of the other half: settled {halves['settled'].mean():.1%}, another intent "
          f"{halves['changed'].mean():.2%} (most {halves['changed'].max():.2%}), cost of macro-F1 {halves['cost'].mean():.4f} "
          f"(most {halves['cost'].max():.4f})")


if __name__ == "__main__":
    main()
