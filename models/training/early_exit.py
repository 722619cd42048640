"""Puts early exits into an artifact's network: heads on what its first layers make of a query or a pair, trained
to say what the whole network says (Hinton et al. 2015; Xin et al. 2020).

Writes `early_exit.json` into the artifact and turns it on in the manifest. By an exit a query leaves with its
intent, and a pair as distinct, without the later layers. How sure a head has to be is the least at which few enough
of the validation rows get another intent or verdict than the network's; of several exits of one kind, each may use
its part of what may change. Rows that a first stage settles are left out. An exit that is never sure enough is too.

Takes some forty minutes on 2 cores, nearly all of them for what the network makes of the rows, which is kept in `runs/`.
"""

import base64
import json
import random
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from candidates import SETS
from cascade import f1, features, walk
from judge import margin, pair_probabilities
from network import Network, states_and_logits
from query_cascade import GRID, FirstStage, is_faithful, least_sure, measures, probabilities
from rows import NEIGHBOURS, TARGETS, Tokens, in_order, read
from stages import of_artifact, put


class Spec(NamedTuple):
    """An exit after so many layers, whose head has a hidden layer of `width` outputs."""

    kind: str
    after: int
    width: int


class Course(NamedTuple):
    """How a head is trained."""

    epochs: int
    rows: int
    rate: float


# In the order of the layers, for each kind, and each among those of network.LAYERS. Wider heads let hardly more leave,
# and an online batch has few rows to read their weights for.
EXITS = [Spec("queries", 2, 96), Spec("queries", 4, 96), Spec("pairs", 4, 128)]
COURSES = {"queries": Course(16, 512, 2e-3), "pairs": Course(20, 256, 1e-3)}
SEED, DECAY, DROPOUT = 7, 0.1, 0.1
# Of what a number of the states varies by: the head must not live on what bf16 and int8 round away.
NOISE = 0.1
# Pairs of each set that are learnt from, of those that the forest leaves.
PAIRS_MAX = 1600
LEARNT = NEIGHBOURS + TARGETS + ["wdc-products-medium"]
JUDGED = TARGETS + ["wdc-products-medium"] + [f"candidates-{name}" for name in SETS]
# What exits may change of queries, as a share of what the first stage may: one in a thousand.
FLIPS_SHARE = 0.4
# Verdicts of pairs that may differ, and of each set.
VERDICTS_MAX, SET_VERDICTS_MAX, F1_COST_MAX = 0.001, 0.002, 0.002
DISTINCT_BELOW = np.arange(0.0005, 0.1, 0.0005).round(4)
# A row vouches for an exit where numbers of int8 would let it leave there as well: by this much in log-odds.
GOLDEN_MARGIN = 0.7


class Head(nn.Module):
    """(rows, 2 hidden) after some layers to (rows, logits)."""

    def __init__(self, states: torch.Tensor, width: int, logits: int):
        super().__init__()
        states = states.float()
        self.register_buffer("mean", states.mean(0))
        # Some numbers of the first token are nearly the same in all rows. Enlarged, the little by which
        # they differ would be what bf16 and int8 round away.
        self.register_buffer("deviation", states.std(0).clamp(min=states.std(0).mean().item()))
        self.hidden = nn.Linear(states.size(1), width)
        self.out = nn.Linear(width, logits)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        scaled = (states - self.mean) / self.deviation
        return self.out(self.dropout(F.gelu(self.hidden(scaled))))


class Exit:
    """Weights as the worker holds them: on the states as they are, the hidden layer's in bf16."""

    def __init__(self, head: Head):
        self.hidden_weight = (head.hidden.weight / head.deviation).detach().bfloat16()
        # Of the rounded weights: the mean is large beside the deviation, and its part of the error with it.
        self.hidden_bias = (head.hidden.bias - self.hidden_weight.float() @ head.mean).detach()
        self.out_weight, self.out_bias = head.out.weight.detach(), head.out.bias.detach()

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        hidden = F.gelu(F.linear(states.float(), self.hidden_weight.float(), self.hidden_bias))
        return F.linear(hidden, self.out_weight, self.out_bias)

    def content(self) -> dict:
        bits = self.hidden_weight.view(torch.int16).numpy().astype("<i2").tobytes()
        return {"hidden_weight": base64.b64encode(bits).decode(), "hidden_bias": self.hidden_bias.tolist(),
                "out_weight": self.out_weight.tolist(), "out_bias": self.out_bias.tolist()}


def trained(states: torch.Tensor, said: torch.Tensor, width: int, course: Course) -> Head:
    """A head that gives the probabilities `said`, (rows, logits)."""
    torch.manual_seed(SEED)
    head = Head(states, width, said.size(1))
    optimizer = torch.optim.AdamW(head.parameters(), lr=course.rate, weight_decay=DECAY)
    steps = course.epochs * max(len(states) // course.rows, 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, course.rate, steps)
    for step in range(steps):
        rows = torch.randint(len(states), (course.rows,))
        given = states[rows].float()
        noisy = given + NOISE * head.deviation * torch.randn(given.shape)
        loss = F.cross_entropy(head(noisy), said[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 500 == 0:
            print(f"step {step} of {steps}  loss {loss.item():.4f}", file=sys.stderr)
    return head.eval()


def settled_queries(args, manifest: dict, rows: list, tokens: Tokens) -> np.ndarray:
    """Intent of each query that the first stage settles, and -1 of the others."""
    if "query_cascade" not in manifest:
        return np.full(len(rows), -1)
    first_stage = FirstStage.read(json.loads((args.artifact / "query_cascade.json").read_text()))
    found = probabilities(first_stage.says([row["text"] for row in rows], args.binary, tokens))
    return np.where(found.max(axis=1) >= manifest["query_cascade"]["settle_from"], found.argmax(axis=1), -1)


def open_pairs(args, manifest: dict, rows: list) -> list:
    """The pairs that the forest leaves to the network."""
    if "cascade" not in manifest:
        return rows
    forest = json.loads((args.artifact / "cascade.json").read_text())
    return [row for row, values in zip(rows, features(rows, args.binary))
            if walk(forest, values) >= manifest["cascade"]["distinct_below"]]


def verdicts(probability: np.ndarray, thresholds: dict) -> np.ndarray:
    """0 distinct, 1 review, 2 duplicate."""
    return (probability >= thresholds["review"]).astype(int) + (probability >= thresholds["duplicate"])


def exits_of_queries(args, manifest: dict, network: Network) -> list:
    """Entries and exits of queries, in the order of the layers."""
    valid = read(args.prepared, "intent.valid")
    _, learnt, taught = network.learnt_queries(args.prepared)
    states, _, said = network.read("queries", valid, "intent.valid")
    labels, sources = (np.array([row[key] for row in valid]) for key in ("label", "source"))
    settled = settled_queries(args, manifest, valid, network.tokens)
    without = np.where(settled >= 0, settled, said.numpy().argmax(axis=1))
    predicted, left, found = without.copy(), settled >= 0, []
    specs = [exit for exit in EXITS if exit.kind == "queries"]
    for number, spec in enumerate(specs, start=1):
        exit = Exit(trained(learnt[spec.after], taught.softmax(-1), spec.width, COURSES["queries"]))
        says = exit.logits(states[spec.after]).softmax(-1).numpy()

        def is_good(leaves: np.ndarray) -> bool:
            then = np.where(leaves, says.argmax(axis=1), predicted)
            return is_faithful(then, without, labels, sources, FLIPS_SHARE * number / len(specs))

        settle_from = least_sure(says.max(axis=1), GRID, lambda enough: is_good(~left & enough))
        if settle_from is None:
            continue
        leaves = ~left & (says.max(axis=1) >= settle_from)
        predicted, left = np.where(leaves, says.argmax(axis=1), predicted), left | leaves
        found.append(({"kind": "queries", "after": spec.after, "settle_from": settle_from}, exit))
        reads = settled < 0
        print(f"queries after {spec.after}: settle_from {settle_from}, {leaves[reads].mean():.3f} of the {reads.sum()} that the network "
              f"reads leave, {(predicted != without).sum()} with another intent by now")
        for source in sorted(set(sources)):
            of = reads & (sources == source)
            print(f"    {source:12} {of.sum():5} queries  leave {leaves[of].mean():.3f}")
    before, after = (measures(p, labels, sources) for p in (without, predicted))
    for name, value in before.items():
        print(f"{name:24} network {value:.4f}  with the exits {after[name]:.4f}")
    return found


def learnt_pairs(args, manifest: dict, network: Network) -> tuple:
    """What the network makes of pairs to learn from, {layer: (rows, 2 hidden)}, and its probabilities (rows, 2)."""
    rng, found = random.Random(SEED), []
    for name in LEARNT:
        rows = open_pairs(args, manifest, read(args.prepared, f"{name}.train"))
        rows = [{**row, "label": row["label"] or 0} for row in rng.sample(rows, min(len(rows), PAIRS_MAX))]
        found.append(network.read("pairs", rows, f"{name}.train"))
    states = {after: torch.cat([of_set[after] for of_set, _, _ in found]) for after in found[0][0]}
    return states, torch.cat([pairs for _, pairs, _ in found]).softmax(-1)


class Judged(NamedTuple):
    """Validation pairs that the forest leaves, by rows."""

    # What the network makes of them, as `learnt_pairs` has it.
    states: dict
    verdicts: np.ndarray
    labels: np.ndarray
    sets: np.ndarray
    # Pairs of each set, with those that the forest settles.
    total: dict


def judged_pairs(args, manifest: dict, network: Network) -> Judged:
    sets, states, second, labels, total = [], [], [], [], {}
    for name in JUDGED:
        rows = read(args.prepared, f"{name}.valid")
        total[name], rows = len(rows), open_pairs(args, manifest, rows)
        of_set, pairs, _ = network.read("pairs", rows, f"{name}.valid")
        probability = pair_probabilities(network.model, rows, network.tokens, manifest, margin(pairs))
        sets += [name] * len(rows)
        states.append(of_set)
        second.append(verdicts(probability.numpy(), manifest["thresholds"]))
        labels += [row["label"] for row in rows]
    states = {after: torch.cat([of_set[after] for of_set in states]) for after in states[0]}
    return Judged(states, np.concatenate(second), np.array(labels), np.array(sets), total)


def exits_of_pairs(args, manifest: dict, network: Network) -> list:
    """Entries and exits of pairs, in the order of the layers."""
    temperature, review = manifest["temperature"], manifest["thresholds"]["review"]
    learnt, taught = learnt_pairs(args, manifest, network)
    states, second, labels, sets, total = judged_pairs(args, manifest, network)
    left, found = np.zeros(len(sets), dtype=bool), []
    specs = [exit for exit in EXITS if exit.kind == "pairs"]
    for number, spec in enumerate(specs, start=1):
        exit = Exit(trained(learnt[spec.after], taught, spec.width, COURSES["pairs"]))
        says = (exit.logits(states[spec.after]) / temperature).softmax(-1)[:, 1].numpy()

        def is_good(leaves: np.ndarray) -> bool:
            return keeps_verdicts(left | leaves, second, labels, sets, total, number / len(specs))

        grid = 1.0 - DISTINCT_BELOW[DISTINCT_BELOW < review][::-1]
        # Strictly below, as the worker has it.
        sure = least_sure(np.nextafter(1.0 - says.astype(float), 0.0), grid, is_good)
        if sure is None:
            continue
        distinct_below = round(1.0 - sure, 4)
        leaves = ~left & (says < distinct_below)
        left |= leaves
        found.append(({"kind": "pairs", "after": spec.after, "distinct_below": distinct_below}, exit))
        print(f"pairs after {spec.after}: distinct_below {distinct_below}, {leaves.mean():.3f} of the {len(sets)} that the network reads "
              f"leave, {(left & (second > 0)).sum()} with another verdict by now")
        for name in JUDGED:
            of = sets == name
            print(f"    {name:26} {of.sum():5} of {total[name]:5} pairs  leave {leaves[of].mean():.3f}")
    for name in JUDGED:
        of = sets == name
        said = second[of] == 2
        print(f"{name:28} F1 of what the network reads {f1(said, labels[of]):.4f}  with the exits {f1(said & ~left[of], labels[of]):.4f}")
    return found


def keeps_verdicts(left: np.ndarray, second: np.ndarray, labels: np.ndarray, sets: np.ndarray, total: dict, share: float) -> bool:
    """Whether all that `left` may be distinct in place of `second`, the network's verdict: of `total` pairs of each
    set, those included that the forest settles, and with this `share` of what may change."""
    flipped = left & (second > 0)
    if flipped.sum() > VERDICTS_MAX * share * sum(total.values()):
        return False
    for name, count in total.items():
        of = sets == name
        said = second[of] == 2
        if flipped[of].sum() > max(1, SET_VERDICTS_MAX * share * count):
            return False
        if f1(said, labels[of]) - f1(said & ~left[of], labels[of]) > F1_COST_MAX:
            return False
    return True


def log_odds(entry: dict, logits: torch.Tensor, temperature: float) -> tuple:
    """How sure an exit is of one row's logits, and how sure it has to be."""
    odds = lambda p: float(np.log(p) - np.log1p(-p))
    if entry["kind"] == "queries":
        rest = logits.clone()
        rest[logits.argmax()] = -torch.inf
        return float(logits.max() - rest.logsumexp(0)), odds(entry["settle_from"])
    return float((logits[0] - logits[1]) / temperature), odds(1.0 - entry["distinct_below"])


def goldens(network: Network, found: list, kind: str, temperature: float) -> list:
    """The rows of one kind in golden_texts.json that leave early whatever numbers are rounded to, one case each."""
    cases = []
    texts = json.loads((Path(__file__).parent / "golden_texts.json").read_text(encoding="utf-8"))
    for row in (row for case in texts[kind] for row in case["rows"] if "{" not in "".join(row)):
        given = {"text": row, "label": 0} if kind == "queries" else {"a": row[0], "b": row[1], "label": 0}
        states, _, _ = states_and_logits(network.model, [given], network.tokens, [entry["after"] for entry, _ in found])
        for entry, exit in found:
            said = exit.logits(states[entry["after"]])
            sure, due = log_odds(entry, said[0], temperature)
            if sure >= due + GOLDEN_MARGIN:
                cases.append(golden(kind, entry, row, said, network.tokens))
            if sure > due - GOLDEN_MARGIN:
                break
    return cases


def golden(kind: str, entry: dict, row, said: torch.Tensor, tokens: Tokens) -> dict:
    texts = [row] if kind == "queries" else list(in_order(*row))
    (ids, types), = tokens([row if kind == "queries" else tuple(texts)])
    return {"name": f"after {entry['after']}: {' | '.join(texts)}"[:80], "kind": kind, "length": len(ids), "texts": [texts],
            "input_ids": [ids], "token_types": [types], "logits": said.tolist()}


def as_they_are(args, manifest: dict, kind: str) -> tuple:
    """Entries, heads and goldens of one kind in the artifact."""
    content = json.loads((args.artifact / "early_exit.json").read_text(encoding="utf-8"))
    exits = [(entry, head) for entry, head in zip(manifest["early_exit"]["exits"], content["heads"]) if entry["kind"] == kind]
    return [entry for entry, _ in exits], [head for _, head in exits], [case for case in content["goldens"] if case["kind"] == kind]


def made(args, manifest: dict, network: Network, kind: str) -> tuple:
    """Entries, heads and goldens of one kind, anew."""
    found = {"queries": exits_of_queries, "pairs": exits_of_pairs}[kind](args, manifest, network)
    cases = goldens(network, found, kind, manifest["temperature"])
    if found and not cases:
        sys.exit(f"none of the golden {kind} leave early: the artifact is left as it was")
    return [entry for entry, _ in found], [exit.content() for _, exit in found], cases


def main():
    parser = of_artifact(__doc__)
    parser.add_argument("--only", choices=COURSES, help="train the exits of this kind, and leave the others as they are")
    args = parser.parse_args()
    manifest = json.loads((args.artifact / "manifest.json").read_text(encoding="utf-8"))
    network = Network(args, manifest)
    parts = [as_they_are(args, manifest, kind) if args.only not in (None, kind) else made(args, manifest, network, kind) for kind in COURSES]
    entries, heads, cases = (sum(of_kinds, []) for of_kinds in zip(*parts))
    if not entries:
        sys.exit("no exit is ever as good as the network: the artifact is left as it was")
    put(args.artifact, manifest, "early_exit", {"exits": entries}, {"heads": heads, "goldens": cases})
    print(json.dumps({"model_id": manifest["model_id"], **manifest["early_exit"], "goldens": len(cases)}))


if __name__ == "__main__":
    main()
