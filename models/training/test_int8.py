"""Tests of int8.py, against integers by hand: `make test-training`."""

import unittest

import torch

import int8
from model import CatalogLabels
from test_fit import CONFIG


class Int8(unittest.TestCase):
    def test_a_layer_multiplies_integers_span_by_span(self):
        torch.manual_seed(3)
        inputs = int8.SPAN + 6
        linear, x = torch.nn.Linear(inputs, 4), torch.randn(5, inputs)
        # Each span has a range of its own.
        x[:, int8.SPAN:] *= 20
        found = int8.Bytes(linear)(x)
        for r, row in enumerate(x):
            expected = linear.bias.tolist()
            for span in (slice(0, int8.SPAN), slice(int8.SPAN, inputs)):
                values = row[span].tolist()
                low, high = min(*values, 0.0), max(*values, 0.0)
                step = (high - low) / 255
                zero = round(-low / step)
                numbers = [min(max(round(v / step + zero), 0), 255) - zero for v in values]
                for o, weights in enumerate(linear.weight[:, span].tolist()):
                    scale = max(map(abs, weights)) / 127
                    expected[o] += sum(round(w / scale) * i for w, i in zip(weights, numbers)) * step * scale
            for o, value in enumerate(expected):
                self.assertAlmostEqual(found[r, o].item(), value, places=3)
        self.assertGreater((found - linear(x)).abs().max().item(), 1e-3, "int8 is not exact")

    def test_the_heads_stay_bfloat16(self):
        model = int8.quantised(CatalogLabels(CONFIG).eval())
        kinds = {name: type(module) for name, module in model.named_modules() if isinstance(module, (int8.Bytes, int8.Rounded))}
        self.assertEqual({name for name, kind in kinds.items() if kind is int8.Bytes},
                         {f"layers.{i}.{name}" for i in range(2) for name in ("qkv", "out", "up", "down")})
        self.assertEqual(len(kinds), 12)

    def test_a_verdict_is_one_of_three(self):
        manifest = {"temperature": 2.0, "thresholds": {"review": 0.4, "duplicate": 0.6}}
        pair = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 0.7], [0.0, 0.9]])
        self.assertEqual(int8.verdicts(pair, manifest).tolist(), [0, 1, 1, 2])


if __name__ == "__main__":
    unittest.main()
