"""The teacher's network: MPNet-base (12 layers, hidden size 768) with the marks and heads of the
network that ships, so that both train in one loop on the same token ids.

MPNet differs from BERT in what attention adds for the distance of two tokens, and in its ids:
its vocabulary is BERT's, moved by four, with special tokens of its own in front.
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from model import CatalogLabels, encoder_weights, marked_types

# Distances have a bucket each up to a quarter of them, a direction, and share them up to this one.
DISTANCE_MAX = 128
# BERT's id of a special token, and the row of MPNet's word vectors that plays its part.
SPECIAL = {0: 1, 101: 0, 102: 2}  # [PAD] <pad>, [CLS] <s>, [SEP] </s>
WORDS_BEFORE = 4
# MPNet counts the positions of a text from two.
POSITIONS_BEFORE = 2


class Mpnet(CatalogLabels):
    """As `CatalogLabels`, with a learnt bias for the distance between two tokens."""

    def __init__(self, config: dict, dropout: float = 0.1):
        super().__init__(config, dropout)
        self.distances = nn.Embedding(config["relative_attention_num_buckets"], config["num_attention_heads"])

    def attention_bias(self, attention_mask: Tensor) -> Tensor:
        places = torch.arange(attention_mask.size(1), device=attention_mask.device)
        buckets = distance_buckets(places[None, :] - places[:, None], self.distances.num_embeddings)
        return super().attention_bias(attention_mask) + self.distances(buckets).permute(2, 0, 1)[None].float()


def distance_buckets(distance: Tensor, buckets: int) -> Tensor:
    """Bucket of each signed distance (place attended to, less place that attends): half of the
    buckets lie behind; of each half, near distances have their own and far ones share, by logarithm."""
    half = buckets // 2
    near, far = half // 2, distance.abs()
    shared = near + (torch.log(far.clamp(min=1) / near) / math.log(DISTANCE_MAX / near) * (half - near)).long()
    return (distance > 0).long() * half + torch.where(far < near, far, shared.clamp(max=half - 1))


def load_teacher(folder: Path) -> Mpnet:
    """The network with the encoder weights of a Hugging Face MPNet folder (config.json,
    model.safetensors), its rows in the order of BERT's ids and positions; heads start at random."""
    config = json.loads((folder / "config.json").read_text())
    given = load_file(str(folder / "model.safetensors"))
    words = given["embeddings.word_embeddings.weight"]
    # The last row is <mask>, which BERT's [MASK] stands for already.
    ours = words[WORDS_BEFORE:-1].clone()
    for bert, mpnet in SPECIAL.items():
        ours[bert] = words[mpnet]
    positions = given["embeddings.position_embeddings.weight"][POSITIONS_BEFORE:]
    model = Mpnet({**config, "vocab_size": len(ours), "max_position_embeddings": len(positions)})
    state = {"words.weight": ours, "positions.weight": positions,
             # MPNet has no types: both sides start alike, and the marks as in the other network.
             "types.weight": marked_types(torch.zeros(2, words.size(1))),
             "distances.weight": given["encoder.relative_attention_bias.weight"]}
    state.update(encoder_weights(given, len(model.layers), [f"attention.attn.{n}" for n in "qkv"], "attention.attn.o",
                                 "attention.LayerNorm"))
    model.load_state_dict({**model.state_dict(), **state})
    return model
