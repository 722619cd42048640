"""Writes ../../tests/data/faulty.ts: TorchScript without weights, for tests of faults.

Its scores of a row that holds the word "nan" are not finite, and a batch with the word
"hang" is never answered. Every other pair is a duplicate, every other query a product.
"""

from pathlib import Path

import torch
from torch import Tensor


class Faulty(torch.nn.Module):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor):
        # Ids of the two words in the shipped tokenizer.
        nan, hang = 16660, 6865
        spins = 0
        while bool((input_ids == hang).any()):
            spins += 1
        zero = torch.full([input_ids.size(0), 1], spins * 1.0)
        zero = zero.masked_fill((input_ids == nan).any(1, keepdim=True), float("nan"))
        return torch.cat([zero, zero + 4.0], 1), torch.cat([zero + 4.0, zero, zero, zero], 1)


if __name__ == "__main__":
    torch.jit.save(torch.jit.script(Faulty()), str(Path(__file__).parents[2] / "tests/data/faulty.ts"))
