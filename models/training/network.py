"""What an artifact's network makes of queries and pairs, layer by layer; kept in `runs/exit`, since it takes minutes."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch

from drawn import batches
from export import load_weights
from judge import BATCH_TOKENS, encoded, logits
from model import pool
from rows import Tokens, backbone_folder, inputs_of, read
from stages import base
from variants import unlabelled

# After which layers the states of a row are kept: where it may have an exit.
LAYERS = {"queries": [2, 4], "pairs": [4]}
# Of a query's first words, after the token that begins it.
PLACES = slice(1, 8)


def states_and_logits(model, rows: list, tokens: Tokens, layers: list) -> tuple:
    """What the network makes of each row after each of `layers`, {layer: (rows, 2 hidden)}, and its pair and intent
    logits, (rows, 2) and (rows, 4)."""
    drawn, states = encoded(rows, tokens), {after: [] for after in layers}

    def keep(after: int, x: torch.Tensor, bias: torch.Tensor):
        # The bias of the attention is 0 where a token is real.
        states[after].append(pool(x, (bias[:, 0, 0] == 0).long()))

    hooks = [model.layers[after].register_forward_pre_hook(lambda _layer, given, after=after: keep(after, *given)) for after in layers]
    pairs, intents = logits(model, drawn)
    for hook in hooks:
        hook.remove()
    order = np.argsort(np.concatenate(batches(drawn, range(len(drawn)), BATCH_TOKENS)), kind="stable")
    return {after: torch.cat(parts)[order] for after, parts in states.items()}, pairs, intents


class Network:
    """The artifact's network, and what it made of the sets."""

    def __init__(self, args, manifest: dict):
        self.folder, self.name = args.prepared.parent / "exit", base(manifest)
        backbone = backbone_folder()
        self.model = load_weights([args.artifact / "model.ts"], backbone)
        self.tokens = Tokens(args.binary, backbone / "tokenizer.json")

    def read(self, kind: str, rows: list, name: str) -> tuple:
        """[`states_and_logits`] of a set, kept for these very rows; the states in float16, for there are gigabytes of them."""
        digest = hashlib.sha256(json.dumps([inputs_of(row, None) for row in rows]).encode()).hexdigest()
        kept = self.folder / f"{self.name}.{name}.{'-'.join(map(str, LAYERS[kind]))}.{digest[:8]}.pt"
        if not kept.exists():
            print(f"the network reads {len(rows)} rows of {name}: minutes", file=sys.stderr)
            states, pairs, intents = states_and_logits(self.model, rows, self.tokens, LAYERS[kind])
            found = {after: of_layer.half() for after, of_layer in states.items()}, pairs, intents
            kept.parent.mkdir(parents=True, exist_ok=True)
            torch.save(found, kept.with_suffix(".part"))
            kept.with_suffix(".part").rename(kept)
        return torch.load(kept)

    def learnt_queries(self, prepared: Path) -> tuple:
        """What a stage of queries learns from, the training queries and others that nobody labelled: rows, and their
        states and intent logits as [`states_and_logits`] has them."""
        train, *judging = (read(prepared, name) for name in ("intent.train", "intent.valid", "intent-hint3.valid"))
        sets = {"intent.train": train, "intent.unlabelled": unlabelled(prepared, train, sum(judging, []))}
        found = [self.read("queries", rows, name) for name, rows in sets.items()]
        states = {after: torch.cat([of_set[after] for of_set, _, _ in found]) for after in LAYERS["queries"]}
        return sum(sets.values(), []), states, torch.cat([intents for _, _, intents in found])

    def word_vectors(self) -> torch.Tensor:
        """(vocabulary, hidden): what the network begins with of each token, whatever the place where it stands."""
        with torch.no_grad():
            model = self.model
            place = model.positions.weight[PLACES].float().mean(0)
            return model.norm(model.words.weight.float() + place + model.types.weight[0].float())

