"""Tests of early_exit.py: what the worker's weights say, and what is written. `make test-training`."""

import base64
import unittest

import numpy as np
import torch
import torch.nn.functional as F

import early_exit as ee
from network import states_and_logits

WIDTH = 256
# Hundreds of steps on few rows.
COURSE = ee.Course(150, 256, 1e-3)


class EarlyExit(unittest.TestCase):
    def setUp(self):
        generator = torch.Generator().manual_seed(3)
        states = torch.randn(600, 64, generator=generator) + 2.0
        self.states, self.said = states, (states[:, :4] * 3).softmax(-1)

    def test_a_head_learns_what_the_network_says_and_the_exit_says_what_the_head_does(self):
        head = ee.trained(self.states, self.said, WIDTH, COURSE)
        found = head(self.states)
        self.assertGreater((found.argmax(1) == self.said.argmax(1)).float().mean().item(), 0.9)
        exit = ee.Exit(head)
        # The hidden layer's weights are rounded to bf16.
        self.assertLess((exit.logits(self.states) - found).abs().max().item(), 0.1)

    def test_what_hardly_varies_is_not_enlarged(self):
        states = self.states.clone()
        # As much as bf16 rounds away at 100, and all that tells.
        states[:, :4] = 100.0 + 0.1 * (self.said.log() - self.said.log().mean(0))
        exit = ee.Exit(ee.trained(states, self.said, WIDTH, COURSE))
        rounded = states.bfloat16().float()
        self.assertLess((exit.logits(states) - exit.logits(rounded)).abs().max().item(), 1.0)

    def test_training_is_the_same_each_time(self):
        twice = [ee.Exit(ee.trained(self.states, self.said, WIDTH, COURSE)).hidden_weight for _ in range(2)]
        self.assertTrue(torch.equal(*twice))

    def test_weights_are_written_row_by_row(self):
        exit = ee.Exit(ee.Head(self.states, WIDTH, 4))
        content = exit.content()
        bits = np.frombuffer(base64.b64decode(content["hidden_weight"]), dtype="<u2").astype(np.uint32) << 16
        read = torch.from_numpy(bits.view(np.float32).reshape(WIDTH, 64).copy())
        self.assertTrue(torch.equal(read, exit.hidden_weight.float()))
        self.assertEqual((len(content["hidden_bias"]), len(content["out_weight"]), len(content["out_weight"][0])),
                         (WIDTH, 4, WIDTH))

    def test_states_are_those_after_the_layer_whatever_is_beside_a_row(self):
        config = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 4,
                  "vocab_size": 50, "max_position_embeddings": 16, "layer_norm_eps": 1e-12}
        from model import CatalogLabels, pool
        model = CatalogLabels(config).eval()
        rows = [{"text": str(n), "label": 0} for n in range(5)]
        encodings = [([1] + [2 + n] * (n + 1) + [3], [0] * (n + 3)) for n in range(5)]
        tokens = lambda texts: [encodings[int(text)] for text in texts]
        layers = [0, 3]
        together, pairs, said = states_and_logits(model, rows, tokens, layers)
        for n, row in enumerate(rows):
            alone, _, _ = states_and_logits(model, [row], tokens, layers)
            for after in layers:
                self.assertLess((alone[after][0] - together[after][n]).abs().max().item(), 1e-4)
        self.assertEqual((together[3].shape, pairs.shape, said.shape), ((5, 64), (5, 2), (5, 4)))
        self.assertFalse(any(layer._forward_pre_hooks for layer in model.layers))
        x = model.norm(model.words.weight[torch.tensor([1, 2, 3])] + model.positions.weight[:3] + model.types.weight[0])[None]
        for done, layer in enumerate(model.layers):
            if done in layers:
                self.assertLess((together[done][0] - torch.cat([x[0, 0], x[0].mean(0)])).abs().max().item(), 1e-4)
            x = layer(x, torch.zeros(1, 1, 1, 3))
        hidden = F.gelu(model.intent_hidden(torch.cat([x[0, 0], x[0].mean(0)])))
        self.assertLess((model.intent_out(hidden) - said[0]).abs().max().item(), 1e-4)
        self.assertEqual(pool(torch.ones(1, 3, 2), torch.tensor([[1, 1, 0]])).tolist(), [[1.0] * 4])

    def test_the_least_is_taken_before_the_first_that_is_not_good(self):
        sure, grid = np.array([0.99, 0.95, 0.9, 0.85]), np.array([0.8, 0.85, 0.9, 0.95])
        self.assertEqual(ee.least_sure(sure, grid, lambda enough: enough.sum() <= 3), 0.9)
        self.assertEqual(ee.least_sure(sure, grid, lambda enough: True), 0.8)
        self.assertIsNone(ee.least_sure(sure, grid, lambda enough: False))

    def test_verdicts_are_kept_in_all_and_of_each_set(self):
        self.assertEqual(ee.verdicts(np.array([0.01, 0.1, 0.9]), {"review": 0.1, "duplicate": 0.5}).tolist(), [0, 1, 2])
        sets = np.array(["a"] * 4 + ["b"] * 4)
        second, labels = np.array([0, 0, 1, 2] * 2), np.array([0, 0, 0, 1] * 2)
        leaving = lambda *rows: np.isin(np.arange(8), rows)
        total = {"a": 3000, "b": 3000}
        keeps = lambda left, share=1.0: ee.keeps_verdicts(left, second, labels, sets, total, share)
        self.assertTrue(keeps(leaving(0, 1, 4, 5)))
        # Two of 6,000 may be other than review.
        self.assertTrue(keeps(leaving(2, 6)))
        self.assertFalse(keeps(leaving(2, 6), share=0.1))
        # A duplicate less costs F1.
        self.assertFalse(keeps(leaving(3)))

    def test_certainty_is_log_odds(self):
        entry = {"kind": "queries", "settle_from": 0.9}
        sure, due = ee.log_odds(entry, torch.tensor([0.6, 0.2, 0.1, 0.1]).log(), 2.0)
        self.assertAlmostEqual(sure, np.log(0.6 / 0.4), places=5)
        self.assertAlmostEqual(due, np.log(9.0), places=5)
        sure, due = ee.log_odds({"kind": "pairs", "distinct_below": 0.1}, torch.tensor([3.0, 1.0]), 2.0)
        self.assertAlmostEqual(sure, 1.0, places=5)
        self.assertAlmostEqual(due, np.log(9.0), places=5)


if __name__ == "__main__":
    unittest.main()
