"""Puts a cascade in front of an artifact's cross-encoder: a boosted forest over what
`catalog-labels features` prints, trained on the training pairs and on what blocking proposes.

Writes `cascade.json` into the artifact and turns it on in the manifest. Pairs below
`distinct_below` are settled as distinct: the least such threshold that leaves RUNS_MAX
cross-encoder runs to a product on every set's candidates. Where the duplicate verdicts of
validation pairs lose more than F1_COST_MAX by it, nothing is written.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from candidates import across, labelled, pair_rows
from prepare import read_csv
from rows import LSPC, TARGETS, WDC, Tokens, backbone_folder, catalogue_rows, of_data, read
from stages import base, put

# One below the goal of 8, for catalogs that are a little harder.
RUNS_MAX = 7.0
F1_COST_MAX = 0.002
CATALOGUE_ROWS = 8000
TREES, LEAVES, SEED = 80, 31, 7
VALIDATED = TARGETS + ["wdc-products-medium"]


def features(rows: list, binary: str) -> np.ndarray:
    """(rows, features), in the worker's own type."""
    lines = "".join(json.dumps({"a": row["a"], "b": row["b"]}) + "\n" for row in rows)
    done = subprocess.run([binary, "features"], input=lines, stdout=subprocess.PIPE, text=True, check=True)
    return np.array([json.loads(line) for line in done.stdout.splitlines()], dtype=np.float32)


def labels(rows: list) -> np.ndarray:
    return np.array([row["label"] for row in rows])


def proposed(data: Path, name: str, binary: str) -> tuple:
    """Rows of what blocking proposes for the left products of a set, how many such products
    there are, and which rows are negatives to train on: of a product whose duplicate is known
    from the training pairs, and in no split themselves."""
    folder = data / "pairs" / name
    train, valid = labelled(folder, "train"), labelled(folder, "valid")
    pairs = across(folder, ["train", "valid"], binary)
    known = [pair for pair, label in train.items() if label == 1]
    left, right = {a for a, _ in known}, {b for _, b in known}
    negative = [(a in left or b in right) and (a, b) not in train and (a, b) not in valid for a, b, _ in pairs]
    products = sum(1 for _ in read_csv(folder / "tableA.csv", ["id"]))
    return pair_rows(folder, pairs, name, binary), products, np.array(negative)


def trained(x: np.ndarray, y: np.ndarray) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(max_iter=TREES, max_leaf_nodes=LEAVES, l2_regularization=1.0,
                                          early_stopping=False, random_state=SEED).fit(x, y)


def forest(model: HistGradientBoostingClassifier) -> dict:
    """The trained trees as `models/src/cascade.rs` reads them. scikit-learn has no public way
    to them; `check` and the goldens would notice another layout."""
    def node(row):
        if row["is_leaf"]:
            return float(row["value"])
        return [int(row["feature_idx"]), float(row["num_threshold"]), int(row["left"]), int(row["right"])]

    return {"base": float(np.ravel(model._baseline_prediction)[0]),
            "trees": [[node(row) for row in predictor[0].nodes] for predictor in model._predictors]}


def walk(forest: dict, row: np.ndarray) -> float:
    """Probability of `duplicate` as the worker adds it up."""
    log_odds = forest["base"]
    for tree in forest["trees"]:
        node = tree[0]
        while isinstance(node, list):
            feature, threshold, left, right = node
            node = tree[left if float(row[feature]) <= threshold else right]
        log_odds += node
    return 1 / (1 + float(np.exp(-log_odds)))


def golden_rows() -> list:
    texts = json.loads((Path(__file__).parent / "golden_texts.json").read_text(encoding="utf-8"))
    long = " ".join(texts["long"] * 3)
    return [{"a": a.replace("{long}", long), "b": b.replace("{long}", long)}
            for case in texts["pairs"] for a, b in case["rows"]]


def cross_encoder(artifact: Path, manifest: dict, name: str, rows: list, args) -> np.ndarray:
    """The artifact's probability of each row; kept, since it takes minutes."""
    kept = args.prepared.parent / "cascade" / f"{base(manifest)}.{name}.json"
    if not kept.exists():
        # torch is slow to import, and only this needs it.
        from export import load_weights
        from judge import pair_probabilities
        backbone = backbone_folder()
        model, tokens = load_weights([artifact / "model.ts"], backbone), Tokens(args.binary, backbone / "tokenizer.json")
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(".part")
        part.write_text(json.dumps(pair_probabilities(model, rows, tokens, manifest).tolist()))
        part.rename(kept)
    return np.array(json.loads(kept.read_text()))


def f1(said: np.ndarray, y: np.ndarray) -> float:
    return 2 * (said & (y == 1)).sum() / max(said.sum() + (y == 1).sum(), 1)


def least_threshold(runs: list) -> float:
    """The least at which RUNS_MAX runs a product stay on each set of (probabilities, products)."""
    def of_set(probabilities, products):
        kept = int(RUNS_MAX * products)
        return 0.0 if kept >= len(probabilities) else float(np.sort(probabilities)[::-1][kept])

    # Strictly above, so that pairs of that very probability are settled; four digits will do.
    return (int(max(of_set(p, n) for p, n in runs) * 10_000) + 1) / 10_000


def judge(model, args, manifest: dict, threshold: float) -> float:
    """Prints what the cascade does to the validation pairs, and gives the largest cost in F1."""
    costs = []
    for name in VALIDATED:
        rows = read(args.prepared, f"{name}.valid")
        y, p = labels(rows), model.predict_proba(features(rows, args.binary))[:, 1]
        said = cross_encoder(args.artifact, manifest, name, rows, args) >= manifest["thresholds"]["duplicate"]
        settled = p < threshold
        before, after = f1(said, y), f1(said & ~settled, y)
        costs.append(before - after)
        print(f"{name:22} {len(rows):5} pairs  settled {settled.mean():.3f}, {int(y[settled].sum())} of {y.sum()} matches among them "
              f"(mean probability {p[settled].mean():.4f}, share {y[settled].mean():.4f})  F1 {before:.4f} -> {after:.4f}", flush=True)
    return max(costs)


def main():
    parser = of_data(__doc__)
    parser.add_argument("--artifact", type=Path, default=Path("models/artifacts/minilm-l6-v6"))
    args = parser.parse_args()
    manifest = json.loads((args.artifact / "manifest.json").read_text(encoding="utf-8"))
    names = json.loads(subprocess.run([args.binary, "features", "--names"], stdout=subprocess.PIPE, check=True).stdout)

    rows = [row for name in TARGETS + LSPC + WDC for row in read(args.prepared, f"{name}.train")]
    rows += catalogue_rows(CATALOGUE_ROWS, "cascade", args.binary)
    x, y, sets = [features(rows, args.binary)], [labels(rows)], {}
    for name in TARGETS:
        found, products, negative = proposed(args.data, name, args.binary)
        sets[name] = (features(found, args.binary), products)
        x.append(sets[name][0][negative])
        y.append(np.zeros(negative.sum(), dtype=int))
    x, y = np.concatenate(x), np.concatenate(y)
    print(f"{len(y)} training pairs, {y.mean():.3f} of them matches", flush=True)

    model = trained(x, y)
    content = {"features": names, **forest(model)}
    probabilities = model.predict_proba(x[:1000])[:, 1]
    if max(abs(walk(content, row) - p) for row, p in zip(x[:1000], probabilities)) > 1e-9:
        sys.exit("the exported trees say other than scikit-learn; is it the version of requirements.txt?")
    golden = golden_rows()
    found = features(golden, args.binary)
    content["goldens"] = [{**row, "probability": walk(content, values)} for row, values in zip(golden, found)]

    runs = {name: (model.predict_proba(values)[:, 1], products) for name, (values, products) in sets.items()}
    threshold = least_threshold(list(runs.values()))
    print(f"distinct_below {threshold}")
    for name, (p, products) in runs.items():
        print(f"{name:22} {products:5} products  candidates {len(p) / products:.2f} each, to the cross-encoder {(p >= threshold).sum() / products:.2f}")
    cost = judge(model, args, manifest, threshold)
    if cost > F1_COST_MAX:
        sys.exit(f"F1 falls by {cost:.4f}, and {F1_COST_MAX} is allowed: the artifact is left as it was")
    if threshold > manifest["thresholds"]["review"]:
        sys.exit(f"distinct_below is above the review threshold {manifest['thresholds']['review']}: the artifact is left as it was")
    put(args.artifact, manifest, "cascade", {"distinct_below": threshold}, content)
    print(json.dumps({"model_id": manifest["model_id"], **manifest["cascade"]}))


if __name__ == "__main__":
    main()
