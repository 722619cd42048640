"""Puts a first stage for queries in front of an artifact's network: a linear model over hashed words and
letters, as `catalog-labels features` prints them, trained on the training queries.

Writes `query_cascade.json` into the artifact and turns it on in the manifest. Intents of at least
`settle_from` stand without the network: the least such probability at which few enough of the validation
queries get another intent than the network's, in all (FLIPS_MAX) and of each source (SOURCE_FLIPS_MAX, or
one query), and at which macro-F1 loses no more than F1_COST_MAX. Where there is none, nothing is written.
"""

import base64
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from judge import f1_at, macro_f1
from model import INTENTS
from rows import Tokens, backbone_folder, read
from stages import base, of_artifact, put

BUCKETS = 1 << 15
# Of int8, which the weights are rounded to.
STEPS = 127
FLIPS_MAX = 0.001
SOURCE_FLIPS_MAX = 0.002
F1_COST_MAX = 0.002
GRID = np.arange(0.800, 0.9995, 0.001).round(3)
STRENGTH, ITERATIONS = 10.0, 300
GOLDENS = ["", "usb c cable", "where is my parcel?", "play some jazz in the kitchen", "ÜBERGRÖSSE Jacke  wasserdicht",
           "📦 noch nicht da", "what's the capital of Peru", "w" * 60, " ".join(str(n) for n in range(60))]


def pieces(texts: list, binary: str) -> csr_matrix:
    """(queries, 2 * BUCKETS): words, then letters, each over the root of their number."""
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    done = subprocess.run([binary, "features"], input=lines, stdout=subprocess.PIPE, text=True, check=True)
    rows, columns, values = [], [], []
    for row, line in enumerate(done.stdout.splitlines()):
        found = json.loads(line)
        for kind, first in (("words", 0), ("letters", BUCKETS)):
            count = len(found[kind])
            rows += [row] * count
            columns += [first + bucket for bucket in found[kind]]
            values += [max(count, 1) ** -0.5] * count
    return csr_matrix((np.array(values), (rows, columns)), shape=(len(texts), 2 * BUCKETS))


class Linear:
    """Weights as the worker holds them: bytes, a scale for each intent, and a bias."""

    def __init__(self, weights: np.ndarray, scale: np.ndarray, bias: np.ndarray):
        self.weights, self.scale, self.bias = weights, scale, bias

    @classmethod
    def trained(cls, x: csr_matrix, labels: np.ndarray):
        model = LogisticRegression(C=STRENGTH, max_iter=ITERATIONS).fit(x, labels)
        if list(model.classes_) != list(range(len(INTENTS))):
            sys.exit("there is no training query of one of the intents")
        scale = np.abs(model.coef_).max(axis=1) / STEPS
        return cls(np.rint(model.coef_ / scale[:, None]).astype(np.int8), scale, model.intercept_)

    @classmethod
    def read(cls, content: dict):
        """What `content` was made of."""
        weights = np.frombuffer(base64.b64decode(content["weights"]), dtype=np.int8).reshape(2 * BUCKETS, len(INTENTS))
        return cls(weights.T, np.array(content["scale"]), np.array(content["bias"]))

    def logits(self, x: csr_matrix) -> np.ndarray:
        return x @ self.weights.T.astype(np.float64) * self.scale + self.bias

    def content(self, binary: str) -> dict:
        goldens = self.logits(pieces(GOLDENS, binary))
        return {"buckets": BUCKETS, "scale": self.scale.tolist(), "bias": self.bias.tolist(),
                "weights": base64.b64encode(np.ascontiguousarray(self.weights.T).tobytes()).decode(),
                "goldens": [{"query": q, "logits": row.tolist()} for q, row in zip(GOLDENS, goldens)]}


def probabilities(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def network(args, manifest: dict, rows: list) -> np.ndarray:
    """The intent that the artifact's network gives each row; kept, since it takes minutes."""
    kept = args.prepared.parent / "cascade" / f"{base(manifest)}.intent.valid.json"
    if not kept.exists():
        # torch is slow to import, and only this needs it.
        from export import load_weights
        from judge import intents
        backbone = backbone_folder()
        found = intents(load_weights([args.artifact / "model.ts"], backbone), rows, Tokens(args.binary, backbone / "tokenizer.json"))
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(".part")
        part.write_text(json.dumps(found))
        part.rename(kept)
    return np.array(json.loads(kept.read_text()))


def measures(predicted: np.ndarray, labels: np.ndarray, sources: np.ndarray) -> dict:
    """Macro-F1, F1 of each intent on each source that has it, and accuracy of each source."""
    found = {"macro-F1": macro_f1(predicted.tolist(), labels.tolist())}
    for source in sorted(set(sources)):
        p, y = predicted[sources == source], labels[sources == source]
        found[f"{source} accuracy"] = float((p == y).mean())
        for intent in sorted(set(y)):
            found[f"{source} {INTENTS[intent]} F1"] = f1_at((p == intent).astype(float), (y == intent).astype(int), 0.5)
    return found


def is_faithful(predicted: np.ndarray, second: np.ndarray, labels: np.ndarray, sources: np.ndarray, share: float = 1.0) -> bool:
    """Whether `predicted` may stand for `second`, what the network says, with this `share` of what may change."""
    flipped = predicted != second
    of_source = [flipped[sources == source] for source in set(sources)]
    cost = macro_f1(second.tolist(), labels.tolist()) - macro_f1(predicted.tolist(), labels.tolist())
    return (flipped.mean() <= FLIPS_MAX * share and cost <= F1_COST_MAX
            and all(rows.sum() <= max(1, SOURCE_FLIPS_MAX * share * len(rows)) for rows in of_source))


def least_sure(sure: np.ndarray, grid: np.ndarray, is_good) -> float | None:
    """The least of `grid`, from its last on, as long as `is_good` says so of the rows that are at least so `sure`."""
    best = None
    for at_least in grid[::-1]:
        if not is_good(sure >= at_least):
            break
        best = float(at_least)
    return best


def least(first: np.ndarray, second: np.ndarray, labels: np.ndarray, sources: np.ndarray) -> float | None:
    """The least probability of GRID from which on `first`, (queries, intents), may stand for `second`."""
    stands = lambda settled: is_faithful(np.where(settled, first.argmax(axis=1), second), second, labels, sources)
    return least_sure(first.max(axis=1), GRID, stands)


def main():
    args = of_artifact(__doc__).parse_args()
    manifest = json.loads((args.artifact / "manifest.json").read_text(encoding="utf-8"))
    train, valid = (read(args.prepared, f"intent.{split}") for split in ("train", "valid"))
    linear = Linear.trained(pieces([row["text"] for row in train], args.binary), np.array([row["label"] for row in train]))

    labels, sources = (np.array([row[key] for row in valid]) for key in ("label", "source"))
    first = probabilities(linear.logits(pieces([row["text"] for row in valid], args.binary)))
    second = network(args, manifest, valid)
    settle_from = least(first, second, labels, sources)
    if settle_from is None:
        sys.exit("at no probability is the first stage as good as the network: the artifact is left as it was")
    settled = first.max(axis=1) >= settle_from
    predicted = np.where(settled, first.argmax(axis=1), second)
    print(f"settle_from {settle_from}: {settled.mean():.3f} of {len(valid)} queries settled, {(predicted != second).sum()} with another intent")
    before, after = (measures(p, labels, sources) for p in (second, predicted))
    for source in sorted(set(sources)):
        print(f"{source:12} {(sources == source).sum():5} queries  settled {settled[sources == source].mean():.3f}")
    for name, value in before.items():
        print(f"{name:24} network {value:.4f}  with the first stage {after[name]:.4f}")
    put(args.artifact, manifest, "query_cascade", {"settle_from": settle_from}, linear.content(args.binary))
    print(json.dumps({"model_id": manifest["model_id"], **manifest["query_cascade"]}))


if __name__ == "__main__":
    main()
