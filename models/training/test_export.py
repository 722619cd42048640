"""Tests of what export.py chooses. `make test-training`."""

import contextlib
import io
import tempfile
import unittest
from pathlib import Path

import torch

import export
from judge import margin, pair_logits
from rows import write


class Network(torch.nn.Module):
    """Its margin is the number that a pair's first text says, in tenths, and what its bias adds."""

    def __init__(self):
        super().__init__()
        self.pair_out = torch.nn.Linear(1, 2)
        torch.nn.init.zeros_(self.pair_out.bias)

    def forward(self, ids, types, mask):
        tenths = (ids[:, 0].float() - 1000) / 10
        return torch.stack([-tenths / 2, tenths / 2], 1) + self.pair_out.bias, torch.zeros(len(ids), 4)


def tokens(pairs: list) -> list:
    return [([1000 + int(a), 1], [0, 0]) for a, _ in pairs]


class Chosen(unittest.TestCase):
    def test_probabilities_hold_for_candidates_of_which_each_set_counts_alike(self):
        generator = torch.Generator().manual_seed(2)
        with tempfile.TemporaryDirectory() as folder:
            for name, count in zip(export.CANDIDATE_SETS, (600, 1200, 2400)):
                tenths = torch.randint(-60, 60, (count,), generator=generator)
                # What the network says is half as sure as it should be, and too low by one.
                truth = (2 * (tenths / 10 + 1)).sigmoid()
                labels = (torch.rand(count, generator=generator) < truth).long()
                # The second text is the later one in the order of bytes.
                write([{"a": str(t), "b": "z", "label": y, "weight": 1.0, "set": name}
                       for t, y in zip(tenths.tolist(), labels.tolist())], Path(folder) / f"candidates-{name}.valid.ndjson")
            model = Network()
            with contextlib.redirect_stdout(io.StringIO()):
                temperature = export.calibrate(model, Path(folder), tokens)
            rows, labels, weights = export.candidate_rows(Path(folder))
            probability = (margin(pair_logits(model, rows, tokens)) / temperature).sigmoid()
        self.assertAlmostEqual(temperature, 0.5, delta=0.05)
        self.assertAlmostEqual(margin(model.pair_out.bias[None]).item(), 1.0, delta=0.1)
        self.assertAlmostEqual((weights * probability).sum().item(), (weights * labels).sum().item(), places=2)
        self.assertAlmostEqual(weights[:600].sum().item(), weights[1800:].sum().item(), places=5)

    def test_without_a_shift_the_temperature_is_all_that_is_fitted(self):
        margins = torch.tensor([-2.0, -1.0, 1.0, 2.0] * 100)
        labels = torch.tensor([0, 1, 1, 1] * 100)
        weights = torch.full((400,), 1 / 400)
        self.assertEqual(export.platt(margins, labels, weights, shifted=False)[1], 0.0)
        self.assertGreater(export.platt(margins, labels, weights)[1], 0.1)

    def test_duplicates_are_precise_on_our_own_catalog_and_review_is_below(self):
        sure = (torch.tensor([0.9, 0.8, 0.7, 0.1]), torch.tensor([1, 1, 0, 0]))
        lax = (torch.tensor([0.75, 0.6, 0.3, 0.2]), torch.tensor([1, 1, 1, 0]))
        with contextlib.redirect_stdout(io.StringIO()):
            found = export.choose_thresholds({"catalogue": sure, "other": lax})
        self.assertTrue(0.7 < found["duplicate"] <= 0.75, found)
        self.assertTrue(0.2 < found["review"] <= 0.3, found)


if __name__ == "__main__":
    unittest.main()
