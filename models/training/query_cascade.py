"""Puts a first stage for queries in front of an artifact's network: a linear model over hashed words and
letters, as `catalog-labels features` prints them, and a small network over narrow vectors of the tokens. Both are
trained together to say what the network says of the training queries and of queries that nobody labelled
(variants.py).

Writes `query_cascade.json` into the artifact and turns it on in the manifest. Intents of at least
`settle_from` stand without the network: the least such probability at which few enough of the validation
queries get another intent than the network's, in all (FLIPS_MAX) and of each source (SOURCE_FLIPS_MAX, or
FEW_FLIPS), and at which macro-F1 loses no more than F1_COST_MAX. Where there is none, nothing is written.

Takes some ten minutes on 2 cores, most of them for what the network makes of the queries, which is kept in `runs/`.
"""

import base64
import json
import math
import subprocess
import sys

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from torch import nn
from tqdm import trange

from judge import f1_at, macro_f1
from model import INTENTS
from network import Network
from rows import Tokens, read
from stages import of_artifact, put

BUCKETS = 1 << 15
# Numbers of a token's vector, and outputs of the layer that reads their mean.
INPUTS, OUTPUTS = 64, 256
# Of int8, which weights and vectors are rounded to.
STEPS = 127
# Half of the labels that int8 may change; of a source as many as int8 may, or a few queries, which are no rate.
FLIPS_MAX, SOURCE_FLIPS_MAX, FEW_FLIPS = 0.0025, 0.005, 2
F1_COST_MAX = 0.001
GRID = np.arange(0.800, 0.9995, 0.001).round(3)
SEED, EPOCHS, ROWS, DECAY = 7, 8, 512, 0.05
# Of the layers, the pieces' weights and the tokens' vectors.
RATES = (2e-3, 1e-2, 1e-3)
# Shares of the pieces and of the outputs that are left out, and noise on the mean, in deviations.
PIECES_LEFT_OUT, DROPOUT, NOISE = 0.1, 0.1, 0.1
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


def means(texts: list, tokens: Tokens, vocabulary: int) -> csr_matrix:
    """(queries, vocabulary): of each token its share of the query's, special ones excluded."""
    ids = [found[1:-1] for found, _ in tokens(texts)]
    rows = np.repeat(np.arange(len(ids)), [len(of) for of in ids])
    values = [1.0 / len(of) for of in ids for _ in of]
    return csr_matrix((values, (rows, [i for of in ids for i in of])), shape=(len(texts), vocabulary))


def bags(x: csr_matrix) -> tuple:
    """Columns, where each row begins, and values, as an `EmbeddingBag` takes them."""
    return (torch.from_numpy(x.indices.astype(np.int64)), torch.from_numpy(x.indptr[:-1].astype(np.int64)),
            torch.from_numpy(x.data.astype(np.float32)))


class Model(nn.Module):
    """Pieces and tokens of queries to logits (queries, intents). `vectors` are those to begin with."""

    def __init__(self, vectors: torch.Tensor):
        super().__init__()
        self.linear = nn.EmbeddingBag(2 * BUCKETS, len(INTENTS), mode="sum", sparse=True)
        nn.init.zeros_(self.linear.weight)
        self.vectors = nn.EmbeddingBag.from_pretrained(vectors, freeze=False, mode="sum", sparse=True)
        self.hidden = nn.Linear(vectors.size(1), OUTPUTS)
        self.out = nn.Linear(OUTPUTS, len(INTENTS))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: csr_matrix, tokens: csr_matrix) -> torch.Tensor:
        (columns, starts, values), (ids, firsts, shares) = bags(x), bags(tokens)
        mean = self.vectors(ids, firsts, per_sample_weights=shares)
        if self.training:
            values = values * (torch.rand(len(values)) >= PIECES_LEFT_OUT) / (1.0 - PIECES_LEFT_OUT)
            mean = mean + NOISE * mean.std() * torch.randn_like(mean)
        out = self.out(self.dropout(F.relu(self.hidden(mean))))
        return out + self.linear(columns, starts, per_sample_weights=values)


def trained(x: csr_matrix, tokens: csr_matrix, said: torch.Tensor, vectors: torch.Tensor) -> Model:
    """A model that gives the probabilities `said`, (queries, intents)."""
    torch.manual_seed(SEED)
    rng, model = np.random.default_rng(SEED), Model(vectors)
    layers = [*model.hidden.parameters(), *model.out.parameters()]
    optimizers = [torch.optim.AdamW(layers, lr=RATES[0], weight_decay=DECAY),
                  *(torch.optim.SparseAdam([weight], lr=rate)
                    for weight, rate in zip((model.linear.weight, model.vectors.weight), RATES[1:]))]
    steps = EPOCHS * max(x.shape[0] // ROWS, 1)
    # Up for a tenth of the way, then down.
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 10 * (step + 1) / steps) * (1 - step / steps))
                 for optimizer in optimizers]
    for _ in trange(steps, desc="first stage", mininterval=5):
        rows = rng.integers(0, x.shape[0], ROWS)
        loss = F.cross_entropy(model(x[rows], tokens[rows]), said[rows])
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer, schedule in zip(optimizers, schedules):
            optimizer.step()
            schedule.step()
    return model.eval()


def narrow(vectors: torch.Tensor) -> torch.Tensor:
    """(vocabulary, INPUTS): the directions in which the vectors vary most, of deviation 1 on the whole."""
    torch.manual_seed(SEED)
    centred = vectors - vectors.mean(0)
    _, _, directions = torch.pca_lowrank(centred, q=INPUTS, center=False, niter=4)
    projected = centred @ directions
    return projected / projected.std()


def rounded(weights: np.ndarray) -> tuple:
    """Columns as signed bytes, and a scale for each."""
    scale = np.maximum(np.abs(weights).max(axis=0), 1e-9) / STEPS
    return np.rint(weights / scale).astype(np.int8), scale


class FirstStage:
    """Weights as the worker holds them: bytes for pieces and vectors, bf16 for the hidden layer."""

    def __init__(self, weights, scale, bias, vectors, hidden_weight, hidden_bias, out_weight):
        # (2 BUCKETS, intents), (intents,), (intents,).
        self.weights, self.scale, self.bias = weights, scale, bias
        # (vocabulary, inputs), (inputs, outputs) as a tensor of bf16, (outputs,), (outputs, intents).
        self.vectors, self.hidden_weight, self.hidden_bias, self.out_weight = vectors, hidden_weight, hidden_bias, out_weight

    @classmethod
    def of(cls, model: Model):
        array = lambda tensor: tensor.detach().double().numpy()
        weights, scale = rounded(array(model.linear.weight))
        vectors, steps = rounded(array(model.vectors.weight))
        hidden_weight = torch.from_numpy(array(model.hidden.weight).T * steps[:, None]).bfloat16()
        return cls(weights, scale, array(model.out.bias), vectors, hidden_weight, array(model.hidden.bias), array(model.out.weight).T)

    @classmethod
    def read(cls, content: dict):
        """What `content` was made of."""
        decoded = lambda text, dtype: np.frombuffer(base64.b64decode(text), dtype=dtype)
        tokens = content["tokens"]
        outputs = len(tokens["hidden_bias"])
        bits = torch.from_numpy(decoded(tokens["hidden_weight"], "<i2").copy())
        hidden_weight = bits.view(torch.bfloat16).reshape(-1, outputs)
        return cls(decoded(content["weights"], np.int8).reshape(2 * BUCKETS, len(INTENTS)), np.array(content["scale"]),
                   np.array(content["bias"]), decoded(tokens["vectors"], np.int8).reshape(-1, len(hidden_weight)),
                   hidden_weight, np.array(tokens["hidden_bias"]), np.array(tokens["out_weight"]))

    def logits(self, x: csr_matrix, tokens: csr_matrix) -> np.ndarray:
        """(queries, intents), of what `pieces` and `means` give."""
        mean = tokens @ self.vectors.astype(np.float64)
        hidden = np.maximum(mean @ self.hidden_weight.double().numpy() + self.hidden_bias, 0.0)
        return x @ self.weights.astype(np.float64) * self.scale + self.bias + hidden @ self.out_weight

    def says(self, texts: list, binary: str, tokens: Tokens) -> np.ndarray:
        """Logits of queries."""
        return self.logits(pieces(texts, binary), means(texts, tokens, len(self.vectors)))

    def content(self, binary: str, tokens: Tokens) -> dict:
        encode = lambda array: base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
        goldens = zip(GOLDENS, tokens(GOLDENS), self.says(GOLDENS, binary, tokens))
        return {"buckets": BUCKETS, "scale": self.scale.tolist(), "bias": self.bias.tolist(), "weights": encode(self.weights),
                "tokens": {"vectors": encode(self.vectors), "hidden_weight": encode(self.hidden_weight.view(torch.int16).numpy().astype("<i2")),
                           "hidden_bias": self.hidden_bias.tolist(), "out_weight": self.out_weight.tolist()},
                "goldens": [{"query": query, "token_ids": ids[1:-1], "logits": row.tolist()} for query, (ids, _), row in goldens]}


def probabilities(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


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
            and all(rows.sum() <= max(math.ceil(FEW_FLIPS * share), SOURCE_FLIPS_MAX * share * len(rows)) for rows in of_source))


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
    valid, network = read(args.prepared, "intent.valid"), Network(args, manifest)
    learnt, _, said = network.learnt_queries(args.prepared)
    vectors = network.word_vectors()
    texts = [row["text"] for row in learnt]
    model = trained(pieces(texts, args.binary), means(texts, network.tokens, len(vectors)), said.softmax(-1), narrow(vectors))
    first_stage = FirstStage.of(model)

    labels, sources = (np.array([row[key] for row in valid]) for key in ("label", "source"))
    first = probabilities(first_stage.says([row["text"] for row in valid], args.binary, network.tokens))
    second = network.read("queries", valid, "intent.valid")[2].numpy().argmax(axis=1)
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
    put(args.artifact, manifest, "query_cascade", {"settle_from": settle_from}, first_stage.content(args.binary, network.tokens))
    print(json.dumps({"model_id": manifest["model_id"], **manifest["query_cascade"]}))


if __name__ == "__main__":
    main()
