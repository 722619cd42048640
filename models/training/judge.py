"""What a network says of rows, and how good that is. Rows go to the device that the network is on."""

from pathlib import Path

import numpy as np
import torch

from drawn import Drawn, batches
from rows import Tokens, in_order, inputs_of

BATCH_TOKENS = 3072


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def encoded(rows: list, tokens: Tokens) -> Drawn:
    """Pairs and queries in the worker's order and spelling."""
    return Drawn.of(tokens([inputs_of(row, None) for row in rows]), ["text" in row for row in rows],
                    [row["label"] for row in rows])


@torch.no_grad()
def logits(model, drawn: Drawn, rows=None) -> tuple:
    """Pair logits (rows, 2) and intent logits (rows, 4), float32 on the CPU, in the order of `drawn`; of `rows`
    alone, which ascend, where they are named."""
    # A scripted module has no `device`, and no say in the mode it was saved in.
    on, training = next(model.parameters()).device, model.training
    model.eval()
    found = []
    plan = batches(drawn, range(len(drawn)) if rows is None else rows, BATCH_TOKENS)
    for batch in plan:
        # Nothing that is chosen by them may depend on which CPU was asked.
        with torch.autocast(on.type, dtype=torch.bfloat16, enabled=on.type == "cuda"):
            found.append([part.float().cpu() for part in model(*drawn.tensors(batch, on))])
    model.train(training)
    order = np.argsort(np.concatenate(plan), kind="stable")
    return tuple(torch.cat(parts)[order] for parts in zip(*found))


def pair_logits(model, rows: list, tokens: Tokens) -> torch.Tensor:
    """Logits (rows, 2) of pairs in the order of `rows`."""
    return logits(model, encoded(rows, tokens))[0]


def margin(logits: torch.Tensor) -> torch.Tensor:
    """Of `duplicate` over `distinct`, (rows, 2) to (rows,)."""
    return logits[:, 1] - logits[:, 0]


def turned(model, rows: list, tokens: Tokens, first: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """Margins (rows,) of pairs with the second text first, of those that are `asked`; `first` of the others."""
    again = asked.nonzero().flatten().tolist()
    texts = [in_order(rows[row]["a"], rows[row]["b"])[::-1] for row in again]
    found = first.clone()
    if again:
        found[again] = margin(logits(model, Drawn.of(tokens(texts), [False] * len(again), [0] * len(again)))[0])
    return found


def is_doubtful(first: torch.Tensor, manifest: dict) -> torch.Tensor:
    """Whether the worker reads a pair in both orders, by its margin in the first."""
    band = manifest.get("second_reading", {"above": 1.0, "below": 0.0})
    once = (first / manifest["temperature"]).sigmoid()
    return (band["above"] < once) & (once < band["below"])


def decided(first: torch.Tensor, second: torch.Tensor, manifest: dict) -> torch.Tensor:
    """Calibrated probability of each pair, as the worker makes it of its margins in both orders."""
    margins = torch.where(is_doubtful(first, manifest), (first + second) / 2, first)
    return (margins / manifest["temperature"]).sigmoid()


def pair_probabilities(model, rows: list, tokens: Tokens, manifest: dict, first: torch.Tensor | None = None) -> torch.Tensor:
    """What the worker says of pairs that the whole network judges; `first` are their margins, if they are known."""
    first = margin(pair_logits(model, rows, tokens)) if first is None else first
    return decided(first, turned(model, rows, tokens, first, is_doubtful(first, manifest)), manifest)


def intents(model, rows: list, tokens: Tokens) -> list:
    """Index of the intent of each query."""
    return logits(model, encoded(rows, tokens))[1].argmax(-1).tolist()


def f1_at(scores: list, labels: list, threshold: float) -> float:
    hit = sum(s >= threshold and y == 1 for s, y in zip(scores, labels))
    return 2 * hit / max(sum(s >= threshold for s in scores) + sum(labels), 1)


def macro_f1(predicted: list, labels: list) -> float:
    classes = sorted(set(labels))
    return sum(f1_at([float(p == c) for p in predicted], [int(y == c) for y in labels], 0.5) for c in classes) / len(classes)


def recall(predicted: list, labels: list, intent: int) -> float:
    """Share of the queries of `intent` that were taken for it."""
    of = [p == y for p, y in zip(predicted, labels) if y == intent]
    return sum(of) / max(len(of), 1)


def validation(model, sets: dict) -> dict:
    """F1 at 0.5 of each set of pairs, macro-F1 of queries; of sets that are drawn whole."""
    report = {}
    for name, drawn in sets.items():
        pair, intent = logits(model, drawn)
        labels = drawn.target.astype(int).tolist()
        report[name] = (macro_f1(intent.argmax(-1).tolist(), labels) if drawn.query.any()
                        else f1_at(pair.softmax(-1)[:, 1].tolist(), labels, 0.5))
    return {name: round(value, 4) for name, value in report.items()}


def weights_of(path: Path) -> dict:
    """The weights in a run's `averaged.pt`, or in an artifact's `model.ts`, as float32 on the CPU."""
    if path.suffix == ".ts":
        saved = torch.jit.load(str(path), map_location="cpu").state_dict()
    else:
        saved = torch.load(path, map_location="cpu")
    return {name: weight.float() for name, weight in saved.items()}
