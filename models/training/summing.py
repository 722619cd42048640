"""Writes tests/data/summing.ts: TorchScript without weights, for tests of batching.

Of the sum S of a row's ids it answers [S, ln S] and [S, 0, 0, 0]: a row of zeros has a
score that is not finite, and any other row tells which one it was.
"""

from pathlib import Path

import torch
from torch import Tensor


class Summing(torch.nn.Module):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor):
        total = (input_ids * attention_mask).sum(1).float()
        zero = torch.zeros_like(total)
        return torch.stack([total, total.log()], dim=1), torch.stack([total, zero, zero, zero], dim=1)


if __name__ == "__main__":
    torch.jit.save(torch.jit.script(Summing()), str(Path(__file__).parent.parent / "tests/data/summing.ts"))
