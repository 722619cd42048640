"""What int8 makes of an artifact, computed by the numbers that the worker's kernels multiply
(`models/src/native`), on any CPU: the largest difference of a golden logit, and how many verdicts of
validation pairs and intents of validation queries are other ones than without it.

The kernels' own error is a little larger or smaller, since they round in another order; `export.py
--int8-tolerance` leaves room for that. `make flips` counts with the kernels themselves, once the manifest states a tolerance.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F

from export import golden_error, load_weights
from judge import encoded, logits
from rows import Tokens, backbone_folder, read
from stages import of_artifact

SETS = ["abt-buy", "amazon-google"]
# Inputs that share a scale, as by AVX-512 and AMX; AVX2 has 64 and coarser steps.
SPAN = 384


class Bytes(torch.nn.Module):
    """A linear layer of int8 weights, a scale for each output, and unsigned int8 inputs, a scale and a
    zero point for each row; both for each span of inputs. Sums of integers this small are nearly exact in float32."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        weights = linear.weight.detach().split(SPAN, dim=1)
        self.scales = [weight.abs().amax(1).clamp(min=1e-38) / 127 for weight in weights]
        self.weights = [(weight / scale[:, None]).round() for weight, scale in zip(weights, self.scales)]
        self.bias = linear.bias.detach()

    def forward(self, x):
        total = self.bias
        for inputs, weight, scale in zip(x.split(SPAN, dim=-1), self.weights, self.scales):
            least, most = inputs.amin(-1, keepdim=True).clamp(max=0), inputs.amax(-1, keepdim=True).clamp(min=0)
            step = ((most - least) / 255).clamp(min=1e-38)
            zero = (-least / step).round()
            centred = (inputs / step + zero).clamp(0, 255).round() - zero
            total = total + F.linear(centred, weight) * step * scale
        return total


class Rounded(torch.nn.Module):
    """A linear layer of bfloat16 weights and inputs, which adds in float32."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight.detach().bfloat16().float(), linear.bias.detach()

    def forward(self, x):
        return F.linear(x.bfloat16().float(), self.weight, self.bias)


def quantised(model):
    """The network with int8 layers; the heads stay bfloat16, as in the worker."""
    for layer in model.layers:
        for name in ("qkv", "out", "up", "down"):
            setattr(layer, name, Bytes(getattr(layer, name)))
    for name in ("pair_hidden", "pair_out", "intent_hidden", "intent_out"):
        setattr(model, name, Rounded(getattr(model, name)))
    return model


def verdicts(pair: torch.Tensor, manifest: dict) -> torch.Tensor:
    """0 distinct, 1 review, 2 duplicate."""
    p = (pair / manifest["temperature"]).softmax(-1)[:, 1]
    return (p >= manifest["thresholds"]["review"]).long() + (p >= manifest["thresholds"]["duplicate"]).long()


def main():
    args = of_artifact(__doc__).parse_args()
    manifest = json.loads((args.artifact / "manifest.json").read_text())
    cases = json.loads((args.artifact / "goldens.json").read_text())["cases"]
    tokens = Tokens(args.binary, backbone_folder() / "tokenizer.json")
    exact, rough = (load_weights([args.artifact / "model.ts"], backbone_folder()) for _ in range(2))
    quantised(rough)
    texts = json.loads((Path(__file__).parent / "golden_texts.json").read_text(encoding="utf-8"))
    print(f"largest difference of a golden logit: {golden_error(rough, tokens, texts, cases):.4f}", flush=True)
    for name in [*SETS, "intent"]:
        drawn = encoded(read(args.prepared, f"{name}.valid"), tokens)
        (pair, intent), (rough_pair, rough_intent) = logits(exact, drawn), logits(rough, drawn)
        other = (intent.argmax(-1) != rough_intent.argmax(-1)) if name == "intent" else (verdicts(pair, manifest) != verdicts(rough_pair, manifest))
        print(f"{name:24} {len(drawn):5} rows, {other.float().mean().item():.4%} decided otherwise", flush=True)


if __name__ == "__main__":
    main()
