"""Tests of the second reading: what is read again, what decides, and what is chosen. `make test-training`."""

import contextlib
import io
import unittest
from unittest import mock

import torch

import judge
import second_reading as sr


class Network(torch.nn.Module):
    """Its margin is the number in the first text of a pair, plus a tenth of the second's."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, ids, types, mask):
        margin = ids[:, 0].float() / 100 + ids[:, 1].float() / 1000 - 20
        return torch.stack([-margin / 2, margin / 2], 1), torch.zeros(len(ids), 4)


def tokens(pairs: list) -> list:
    return [([2000 + round(100 * float(a)), round(100 * float(b))], [0, 0]) for a, b in pairs]


def row(a: float, b: float) -> dict:
    """In the worker's order if the first text is the smaller one."""
    return {"a": str(a), "b": str(b), "label": 0}


BAND = {"above": 0.1, "below": 0.9}


class SecondReading(unittest.TestCase):
    def test_only_the_asked_are_read_with_the_second_text_first(self):
        rows, network = [row(1.0, 2.0), row(4.0, 3.0), row(1.0, 5.0)], Network()
        first = judge.margin(judge.pair_logits(network, rows, tokens))
        # In the order of their bytes, whichever way round they come.
        self.assertTrue(torch.allclose(first, torch.tensor([1.2, 3.4, 1.5]), atol=1e-4))
        found = judge.turned(network, rows, tokens, first, torch.tensor([True, True, False]))
        self.assertTrue(torch.allclose(found, torch.tensor([2.1, 4.3, 1.5]), atol=1e-4))
        none = judge.turned(network, rows, tokens, first, torch.zeros(3, dtype=torch.bool))
        self.assertTrue(torch.equal(none, first))

    def test_the_mean_decides_where_one_reading_is_in_doubt_by_the_temperature(self):
        first, second = torch.tensor([1.0, 3.0, -3.0, -1.0]), torch.tensor([3.0, -3.0, 3.0, -3.0])
        once = {"temperature": 1.0}
        self.assertTrue(torch.allclose(judge.decided(first, second, once), first.sigmoid()))
        twice = {"temperature": 1.0, "second_reading": BAND}
        self.assertEqual(judge.is_doubtful(first, twice).tolist(), [True, False, False, True])
        self.assertTrue(torch.allclose(judge.decided(first, second, twice), torch.tensor([2.0, 3.0, -3.0, -2.0]).sigmoid()))
        # At twice the temperature all four are.
        warmer = {"temperature": 2.0, "second_reading": BAND}
        self.assertTrue(torch.allclose(judge.decided(first, second, warmer), torch.tensor([1.0, 0.0, 0.0, -1.0]).sigmoid()))

    def test_probabilities_are_those_of_both_readings(self):
        rows, manifest = [row(1.0, 2.0), row(1.0, 80.0)], {"temperature": 1.0, "second_reading": BAND}
        found = judge.pair_probabilities(Network(), rows, tokens, manifest)
        self.assertTrue(torch.allclose(found, torch.tensor([1.65, 9.0]).sigmoid(), atol=1e-4))

    def test_the_temperature_is_of_what_both_readings_say(self):
        generator = torch.Generator().manual_seed(5)
        margins = torch.randn(4000, generator=generator) * 3
        labels = (torch.rand(4000, generator=generator) < margins.sigmoid()).long()
        # One order adds what the other one takes away: alone it would be too sure or too unsure.
        skew = torch.randn(4000, generator=generator)
        weights = torch.full((4000,), 1 / 4000)
        found = sr.calibrated(margins + skew, margins - skew, labels, weights, {"above": 0.0001, "below": 0.9999})
        self.assertAlmostEqual(found, 1.0, delta=0.1)
        alone = sr.calibrated(margins + 3 * skew, margins - 3 * skew, labels, weights, {"above": 0.4999, "below": 0.5001})
        self.assertGreater(alone, 1.2)

    def test_what_is_chosen_is_judged_by_both_readings(self):
        first, second = torch.tensor([4.0, 1.0, -1.0, -4.0] * 50), torch.tensor([4.0, -3.0, 3.0, -4.0] * 50)
        labels = torch.tensor([1, 0, 1, 0] * 50)
        candidates = (first, second, labels, torch.full((200,), 1 / 200))
        sets = {"catalogue": (first, second, labels)}
        with self.assertRaisesRegex(SystemExit, "margins beyond 4.2 in doubt"):
            sr.chosen(0.02, candidates, sets)
        with contextlib.redirect_stdout(io.StringIO()) as printed, mock.patch.object(sr, "MARGIN_MAX", 20.0):
            choices, f1 = sr.chosen(0.02, candidates, sets)
            # Within this edge there is nothing, so the first reading stands.
            _, alone = sr.chosen(0.499, candidates, sets)
        self.assertEqual((choices["second_reading"], f1), ({"above": 0.02, "below": 0.98}, 1.0))
        self.assertEqual(set(choices), {"second_reading", "temperature", "thresholds"})
        self.assertAlmostEqual(alone, 2 / 3)
        self.assertIn("edge 0.02: temperature 2.3", printed.getvalue())

    def test_the_narrowest_bounds_that_are_good_enough_are_taken(self):
        self.assertEqual(sr.taken([("a", 0.850), ("b", 0.8495), ("c", 0.848)]), "b")
        self.assertEqual(sr.taken([("a", 0.849), ("b", 0.85), ("c", 0.8485)]), "b")
        self.assertEqual(sr.taken([("a", 0.85), ("b", 0.84), ("c", 0.8495)]), "c")


if __name__ == "__main__":
    unittest.main()
