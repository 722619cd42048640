"""Puts an early exit into an artifact's network: a head on what its first layers make of a query, trained
to say what the whole network says of the training queries (Hinton et al. 2015; Xin et al. 2020).

Writes `early_exit.json` into the artifact and turns it on in the manifest. An intent of at least
`settle_from` stands without the later layers: the least such probability at which few enough of the
validation queries get another intent than the network's, by the rule of query_cascade.py. Queries that
the first stage settles are left out of it. Where there is none, nothing is written.

Takes some ten minutes on 2 cores, most of them for what the network says, which is kept in `runs/`.
"""

import base64
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from drawn import batches
from export import load_weights
from judge import BATCH_TOKENS, encoded, logits
from model import INTENTS, pool
from query_cascade import Linear, least, measures, pieces, probabilities
from rows import Tokens, backbone_folder, read
from stages import base, of_artifact, put

# Of six. After two, fewer queries leave, and about as many layers are run in all (docs/adr/0030).
AFTER = 3
# Outputs of the head's hidden layer.
WIDTH = 256
SEED, EPOCHS, ROWS, RATE, DECAY, DROPOUT = 7, 20, 256, 1e-3, 0.1, 0.1
# Of what a number of the states varies by: the head must not live on what bf16 and int8 round away.
NOISE = 0.1
# A query vouches for the exit where numbers of int8 would let it leave as well.
GOLDEN_FROM = 0.97


class Head(nn.Module):
    """(rows, 2 hidden) after AFTER layers to (rows, 4)."""

    def __init__(self, states: torch.Tensor):
        super().__init__()
        self.register_buffer("mean", states.mean(0))
        # Some numbers of the first token are nearly the same in all queries. Enlarged, the little by which
        # they differ would be what bf16 and int8 round away.
        self.register_buffer("deviation", states.std(0).clamp(min=states.std(0).mean().item()))
        self.hidden = nn.Linear(states.size(1), WIDTH)
        self.out = nn.Linear(WIDTH, len(INTENTS))
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
        hidden = F.gelu(F.linear(states, self.hidden_weight.float(), self.hidden_bias))
        return F.linear(hidden, self.out_weight, self.out_bias)

    def content(self, goldens: list) -> dict:
        bits = self.hidden_weight.view(torch.int16).numpy().astype("<i2").tobytes()
        return {"after": AFTER, "hidden_weight": base64.b64encode(bits).decode(), "hidden_bias": self.hidden_bias.tolist(),
                "out_weight": self.out_weight.tolist(), "out_bias": self.out_bias.tolist(), "goldens": goldens}


def trained(states: torch.Tensor, said: torch.Tensor) -> Head:
    """A head that gives the probabilities `said`, (rows, 4)."""
    torch.manual_seed(SEED)
    head = Head(states)
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=DECAY)
    steps = EPOCHS * max(len(states) // ROWS, 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    for step in range(steps):
        rows = torch.randint(len(states), (ROWS,))
        given = states[rows]
        noisy = given + NOISE * head.deviation * torch.randn(given.shape)
        loss = F.cross_entropy(head(noisy), said[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 500 == 0:
            print(f"step {step} of {steps}  loss {loss.item():.4f}", file=sys.stderr)
    return head.eval()


def states_and_logits(model, rows: list, tokens: Tokens) -> tuple:
    """What the network makes of each query after AFTER layers, (rows, 2 hidden), and says in the end, (rows, 4)."""
    drawn, states = encoded(rows, tokens), []
    # The bias of the attention is 0 where a token is real.
    keep = lambda _layer, given, x: states.append(pool(x, (given[1][:, 0, 0] == 0).long()))
    hook = model.layers[AFTER - 1].register_forward_hook(keep)
    _, intent = logits(model, drawn)
    hook.remove()
    order = np.argsort(np.concatenate(batches(drawn, range(len(drawn)), BATCH_TOKENS)), kind="stable")
    return torch.cat(states)[order], intent


def of_split(args, model, manifest: dict, rows: list, split: str, tokens: Tokens) -> tuple:
    """[`states_and_logits`], kept, since they take minutes."""
    kept = args.prepared.parent / "exit" / f"{base(manifest)}.{AFTER}.{split}.pt"
    if not kept.exists():
        print(f"the network reads {len(rows)} queries: minutes", file=sys.stderr)
        found = states_and_logits(model, rows, tokens)
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save(found, kept.with_suffix(".part"))
        kept.with_suffix(".part").rename(kept)
    return torch.load(kept)


def before(args, manifest: dict, rows: list) -> np.ndarray:
    """Intent of each query that the first stage settles, and -1 of the others."""
    if "query_cascade" not in manifest:
        return np.full(len(rows), -1)
    linear = Linear.read(json.loads((args.artifact / "query_cascade.json").read_text()))
    found = probabilities(linear.logits(pieces([row["text"] for row in rows], args.binary)))
    return np.where(found.max(axis=1) >= manifest["query_cascade"]["settle_from"], found.argmax(axis=1), -1)


def goldens(model, exit: Exit, tokens: Tokens) -> list:
    """The queries of golden_texts.json that leave early, one case each."""
    cases = []
    texts = json.loads((Path(__file__).parent / "golden_texts.json").read_text(encoding="utf-8"))
    for text in [row for case in texts["queries"] for row in case["rows"] if "{" not in row]:
        states, _ = states_and_logits(model, [{"text": text, "label": 0}], tokens)
        said = exit.logits(states)
        if said.softmax(-1).max().item() >= GOLDEN_FROM:
            (ids, types), = tokens([text])
            cases.append({"name": f"early: {text}", "kind": "queries", "length": len(ids), "texts": [[text]],
                          "input_ids": [ids], "token_types": [types], "logits": said.tolist()})
    return cases


def main():
    args = of_artifact(__doc__).parse_args()
    manifest = json.loads((args.artifact / "manifest.json").read_text(encoding="utf-8"))
    backbone = backbone_folder()
    model, tokens = load_weights([args.artifact / "model.ts"], backbone), Tokens(args.binary, backbone / "tokenizer.json")
    train, valid = (read(args.prepared, f"intent.{split}") for split in ("train", "valid"))
    states, said = of_split(args, model, manifest, train, "train", tokens)
    exit = Exit(trained(states, said.softmax(-1)))

    labels, sources = (np.array([row[key] for row in valid]) for key in ("label", "source"))
    states, said = of_split(args, model, manifest, valid, "valid", tokens)
    settled = before(args, manifest, valid)
    without = np.where(settled >= 0, settled, said.numpy().argmax(axis=1))
    # What is settled already leaves nowhere.
    found = np.where(settled[:, None] >= 0, 0.0, exit.logits(states).softmax(-1).numpy())
    settle_from = least(found, without, labels, sources)
    if settle_from is None:
        sys.exit("at no probability is the exit as good as the network: the artifact is left as it was")
    leaves, reads = found.max(axis=1) >= settle_from, settled < 0
    predicted = np.where(leaves, found.argmax(axis=1), without)
    print(f"settle_from {settle_from}: {leaves[reads].mean():.3f} of the {reads.sum()} queries that the network reads leave after "
          f"{AFTER} of its {len(model.layers)} layers, {(predicted != without).sum()} with another intent")
    for source in sorted(set(sources)):
        of = reads & (sources == source)
        print(f"{source:12} {of.sum():5} queries  leave {leaves[of].mean():.3f}")
    first, second = (measures(p, labels, sources) for p in (without, predicted))
    for name, value in first.items():
        print(f"{name:24} network {value:.4f}  with the exit {second[name]:.4f}")
    cases = goldens(model, exit, tokens)
    if not cases:
        sys.exit("no golden query leaves early: the artifact is left as it was")
    put(args.artifact, manifest, "early_exit", {"settle_from": settle_from}, exit.content(cases))
    print(json.dumps({"model_id": manifest["model_id"], **manifest["early_exit"], "goldens": len(cases)}))


if __name__ == "__main__":
    main()
