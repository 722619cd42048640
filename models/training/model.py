"""The network: one BERT encoder (MiniLM-L6 shape), a pair head and a query head.

Written with plain matrix products instead of a model library's classes, so that the
TorchScript export is small, has no version of its own, and compiles for a NeuronCore.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

INTENTS = ["product", "media", "help", "other"]
# As in models/src/mark.rs: what a token tells of the pair. A token's type is the number
# of its mark, plus their count in the second text.
MARKS = ["plain", "shared_word", "shared_number", "near_code", "own_word", "own_number", "own_code", "near_word",
         "rival_number", "rival_code", "rival_word"]


class LockedDropout(nn.Module):
    """Dropout with one mask for all positions of a row (Gal and Ghahramani 2016): on a
    CPU drawing a fresh mask for every position costs as much as the matrix products."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = torch.rand(x.size(0), 1, x.size(2), device=x.device) >= self.rate
        return x * (keep.to(x.dtype) / (1.0 - self.rate))


class Linear(nn.Linear):
    """Multiplies in the type of its weights and answers in that of its input: a module
    whose weights were cast to bfloat16 keeps residuals, norms and softmax in float32."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:  # autocast chooses the types
            return F.linear(x, self.weight, self.bias)
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """Normalises in the type of its input, see Linear."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class Layer(nn.Module):
    def __init__(self, hidden: int, heads: int, inner: int, dropout: float, eps: float):
        super().__init__()
        self.heads = heads
        self.qkv = Linear(hidden, 3 * hidden)
        self.out = Linear(hidden, hidden)
        self.norm1 = LayerNorm(hidden, eps=eps)
        self.up = Linear(hidden, inner)
        self.down = Linear(inner, hidden)
        self.norm2 = LayerNorm(hidden, eps=eps)
        self.dropout = LockedDropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        batch, length, hidden = x.shape
        split = self.qkv(x).view(batch, length, 3, self.heads, hidden // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.matmul(q, k.transpose(-1, -2)) * (hidden // self.heads) ** -0.5
        weights = torch.softmax(weights + bias, dim=-1)
        context = torch.matmul(weights, v).transpose(1, 2).reshape(batch, length, hidden)
        x = self.norm1(x + self.dropout(self.out(context)))
        return self.norm2(x + self.dropout(self.down(F.gelu(self.up(x)))))


def pool(x: Tensor, attention_mask: Tensor) -> Tensor:
    """The first token and the mean of the real ones, (batch, 2 hidden), of (batch, length, hidden)."""
    real = attention_mask[:, :, None].to(x.dtype)
    mean = (x * real).sum(1) / real.sum(1).clamp(min=1.0)
    return torch.cat([x[:, 0], mean], dim=-1)


class CatalogLabels(nn.Module):
    """`forward(input_ids, attention_mask, token_type_ids)`, each int64 of shape
    (batch, length), returns `(pair_logits, intent_logits)` of shapes (batch, 2) and
    (batch, 4): [distinct, duplicate] and INTENTS."""

    def __init__(self, config: dict, dropout: float = 0.1):
        super().__init__()
        hidden, eps = config["hidden_size"], config["layer_norm_eps"]
        self.words = nn.Embedding(config["vocab_size"], hidden)
        self.positions = nn.Embedding(config["max_position_embeddings"], hidden)
        self.types = nn.Embedding(2 * len(MARKS), hidden)
        self.norm = LayerNorm(hidden, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.locked = LockedDropout(dropout)
        self.layers = nn.ModuleList(
            Layer(hidden, config["num_attention_heads"], config["intermediate_size"], dropout, eps)
            for _ in range(config["num_hidden_layers"])
        )
        self.pair_hidden = Linear(2 * hidden, hidden)
        self.pair_out = Linear(hidden, 2)
        self.intent_hidden = Linear(2 * hidden, hidden)
        self.intent_out = Linear(hidden, len(INTENTS))

    def attention_bias(self, attention_mask: Tensor) -> Tensor:
        """What attention adds before its softmax, float32 and broadcast to (batch, heads, from, to)."""
        # Large and finite: a row of nothing but padding must not become NaN.
        return (1.0 - attention_mask[:, None, None, :].float()) * -10000.0

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor):
        positions = torch.arange(input_ids.size(1), device=input_ids.device)
        x = self.words(input_ids).float() + self.positions(positions).float() + self.types(token_type_ids).float()
        x = self.locked(self.norm(x))
        bias = self.attention_bias(attention_mask)
        for layer in self.layers:
            x = layer(x, bias)
        pooled = self.dropout(pool(x, attention_mask))
        pair = self.pair_out(self.dropout(F.gelu(self.pair_hidden(pooled))))
        intent = self.intent_out(self.dropout(F.gelu(self.intent_hidden(pooled))))
        return pair.float(), intent.float()


def load_backbone(folder: Path) -> CatalogLabels:
    """The network with the encoder weights of a Hugging Face BERT folder
    (config.json, model.safetensors); the heads start at random."""
    model = CatalogLabels(json.loads((folder / "config.json").read_text()))
    given = load_file(str(folder / "model.safetensors"))
    state = {"words.weight": given["embeddings.word_embeddings.weight"],
             "positions.weight": given["embeddings.position_embeddings.weight"],
             "types.weight": marked_types(given["embeddings.token_type_embeddings.weight"])}
    state.update(encoder_weights(given, len(model.layers), [f"attention.self.{n}" for n in ("query", "key", "value")],
                                 "attention.output.dense", "attention.output.LayerNorm"))
    model.load_state_dict({**model.state_dict(), **state})
    return model


def encoder_weights(given: dict, layers: int, qkv: list, out: str, norm1: str) -> dict:
    """Weights of the first norm and of all layers under our names. `qkv`, `out` and `norm1` are what
    a layer calls its query, key and value, the attention's last product, and the norm after it."""
    parts = {"out": out, "norm1": norm1, "up": "intermediate.dense", "down": "output.dense", "norm2": "output.LayerNorm"}
    state = {}
    for kind in ("weight", "bias"):
        state[f"norm.{kind}"] = given[f"embeddings.LayerNorm.{kind}"]
        for i in range(layers):
            theirs = f"encoder.layer.{i}"
            state[f"layers.{i}.qkv.{kind}"] = torch.cat([given[f"{theirs}.{name}.{kind}"] for name in qkv])
            state.update({f"layers.{i}.{ours}.{kind}": given[f"{theirs}.{name}.{kind}"] for ours, name in parts.items()})
    return state


def marked_types(sides: Tensor) -> Tensor:
    """A row for each mark and side, from BERT's one row a side; the marks start as small
    random directions that both sides share."""
    marks = 0.02 * torch.randn(len(MARKS), sides.size(1), generator=torch.Generator().manual_seed(1))
    marks[0] = 0.0
    return (sides[:, None] + marks[None]).flatten(0, 1)
