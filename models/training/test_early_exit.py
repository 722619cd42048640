"""Tests of early_exit.py: what the worker's weights say, and what is written. `make test-training`."""

import base64
import unittest

import numpy as np
import torch

import early_exit as ee


class EarlyExit(unittest.TestCase):
    def setUp(self):
        # Hundreds of steps on these few rows.
        original, ee.EPOCHS = ee.EPOCHS, 150
        self.addCleanup(setattr, ee, "EPOCHS", original)
        generator = torch.Generator().manual_seed(3)
        states = torch.randn(600, 64, generator=generator) + 2.0
        self.states, self.said = states, (states[:, :4] * 3).softmax(-1)

    def test_a_head_learns_what_the_network_says_and_the_exit_says_what_the_head_does(self):
        head = ee.trained(self.states, self.said)
        found = head(self.states)
        self.assertGreater((found.argmax(1) == self.said.argmax(1)).float().mean().item(), 0.9)
        exit = ee.Exit(head)
        # The hidden layer's weights are rounded to bf16.
        self.assertLess((exit.logits(self.states) - found).abs().max().item(), 0.1)

    def test_what_hardly_varies_is_not_enlarged(self):
        states = self.states.clone()
        # As much as bf16 rounds away at 100, and all that tells.
        states[:, :4] = 100.0 + 0.1 * (self.said.log() - self.said.log().mean(0))
        exit = ee.Exit(ee.trained(states, self.said))
        rounded = states.bfloat16().float()
        self.assertLess((exit.logits(states) - exit.logits(rounded)).abs().max().item(), 1.0)

    def test_training_is_the_same_each_time(self):
        twice = [ee.Exit(ee.trained(self.states, self.said)).hidden_weight for _ in range(2)]
        self.assertTrue(torch.equal(*twice))

    def test_weights_are_written_row_by_row(self):
        exit = ee.Exit(ee.Head(self.states))
        content = exit.content([])
        bits = np.frombuffer(base64.b64decode(content["hidden_weight"]), dtype="<u2").astype(np.uint32) << 16
        read = torch.from_numpy(bits.view(np.float32).reshape(ee.WIDTH, 64).copy())
        self.assertTrue(torch.equal(read, exit.hidden_weight.float()))
        self.assertEqual((len(content["hidden_bias"]), len(content["out_weight"]), len(content["out_weight"][0])),
                         (ee.WIDTH, 4, ee.WIDTH))

    def test_states_are_those_after_the_layer_whatever_is_beside_a_row(self):
        config = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 4,
                  "vocab_size": 50, "max_position_embeddings": 16, "layer_norm_eps": 1e-12}
        from model import CatalogLabels, pool
        model = CatalogLabels(config).eval()
        rows = [{"text": str(n), "label": 0} for n in range(5)]
        encodings = [([1] + [2 + n] * (n + 1) + [3], [0] * (n + 3)) for n in range(5)]
        tokens = lambda texts: [encodings[int(text)] for text in texts]
        together, said = ee.states_and_logits(model, rows, tokens)
        for n, row in enumerate(rows):
            alone, _ = ee.states_and_logits(model, [row], tokens)
            self.assertLess((alone[0] - together[n]).abs().max().item(), 1e-4)
        self.assertEqual((together.shape, said.shape), ((5, 64), (5, 4)))
        # Of the last layer they are what the heads read.
        self.assertFalse(any(layer._forward_hooks for layer in model.layers))
        self.assertEqual(pool(torch.ones(1, 3, 2), torch.tensor([[1, 1, 0]])).tolist(), [[1.0] * 4])


if __name__ == "__main__":
    unittest.main()
