"""Tests of query_cascade.py: the rounded weights, and how sure the first stage has to be. `make test-training`."""

import base64
import json
import unittest

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix

import query_cascade as qc


class QueryCascade(unittest.TestCase):
    def setUp(self):
        # Hundreds of steps on few rows.
        original, qc.EPOCHS = qc.EPOCHS, 300
        self.addCleanup(setattr, qc, "EPOCHS", original)
        rng = np.random.default_rng(7)
        rows, self.said = np.arange(600), rng.integers(0, 4, 600)
        # Two intents are told apart by a piece, the others by a token.
        by_piece = np.where(self.said < 2, self.said, 2) * 10 + rng.integers(0, 10, 600)
        by_token = np.where(self.said >= 2, self.said, 0) * 10 + rng.integers(0, 10, 600)
        self.pieces = csr_matrix((np.ones(600), (rows, by_piece)), shape=(600, 2 * qc.BUCKETS))
        self.tokens = csr_matrix((np.ones(600), (rows, by_token)), shape=(600, 50))

    def trained(self) -> qc.Model:
        vectors = torch.randn(50, 16, generator=torch.Generator().manual_seed(3))
        return qc.trained(self.pieces, self.tokens, F.one_hot(torch.from_numpy(self.said), 4).float(), vectors)

    def test_rounded_weights_say_what_the_trained_ones_say(self):
        model = self.trained()
        exact = model(self.pieces, self.tokens).softmax(-1).detach().numpy()
        found = qc.probabilities(qc.FirstStage.of(model).logits(self.pieces, self.tokens))
        self.assertGreater((found.argmax(axis=1) == self.said).mean(), 0.98)
        self.assertLess(np.abs(found - exact).max(), 0.05)

    def test_training_is_the_same_each_time(self):
        one, other = (qc.FirstStage.of(self.trained()) for _ in range(2))
        self.assertTrue((one.vectors == other.vectors).all() and (one.weights == other.weights).all())

    def test_what_was_written_is_read_again(self):
        first_stage = qc.FirstStage.of(self.trained())
        original, qc.pieces = qc.pieces, lambda texts, _binary: csr_matrix((len(texts), 2 * qc.BUCKETS))
        self.addCleanup(setattr, qc, "pieces", original)
        content = first_stage.content("", lambda texts: [([1, 20 + n, 2], [0, 0, 0]) for n in range(len(texts))])
        written = np.frombuffer(base64.b64decode(content["weights"]), dtype=np.int8).reshape(2 * qc.BUCKETS, 4)
        self.assertTrue((written == first_stage.weights).all(), "the intents are innermost")
        self.assertEqual([golden["token_ids"] for golden in content["goldens"][:2]], [[20], [21]])
        again = qc.FirstStage.read(json.loads(json.dumps(content)))
        self.assertTrue((again.vectors == first_stage.vectors).all() and (again.hidden_weight == first_stage.hidden_weight).all())
        # To the last bit only where the CPU adds a matrix up in one order however it lies in memory.
        found = again.logits(self.pieces, self.tokens)
        self.assertLess(np.abs(found - first_stage.logits(self.pieces, self.tokens)).max(), 1e-9)

    def test_means_leave_special_tokens_out_and_count_what_comes_twice(self):
        tokens = lambda texts: [([1] + [5, 5, 6][:len(text)] + [2], []) for text in texts]
        found = qc.means(["abc", "", "a"], tokens, 8).toarray()
        self.assertEqual(found.round(3).tolist(), [[0, 0, 0, 0, 0, 0.667, 0.333, 0], [0] * 8, [0, 0, 0, 0, 0, 1, 0, 0]])

    def test_vectors_begin_as_the_directions_that_tell_most(self):
        generator = torch.Generator().manual_seed(3)
        vectors = torch.randn(300, 80, generator=generator) * 0.01
        vectors[:, 7] = 5 + torch.randn(300, generator=generator)
        narrow = qc.narrow(vectors)
        self.assertEqual(narrow.shape, (300, qc.INPUTS))
        along = np.corrcoef(narrow[:, 0].numpy(), vectors[:, 7].numpy())[0, 1]
        self.assertGreater(abs(along), 0.99)
        self.assertAlmostEqual(narrow.std().item(), 1.0, places=4)

    def test_the_least_probability_is_the_one_before_flips_or_costs(self):
        labels = np.arange(2000) % 2
        sure = np.linspace(0.5, 1.0, 2000)
        right = np.stack([np.where(labels == 0, sure, 1 - sure), np.where(labels == 1, sure, 1 - sure)], axis=1)
        sources = np.array(["a"] * 2000)
        self.assertEqual(qc.least(right, labels, labels, sources), qc.GRID[0])
        wrong = right.copy()
        wrong[:1700] = wrong[:1700, ::-1]
        settle_from = qc.least(wrong, labels, labels, sources)
        self.assertLessEqual((sure[:1700] >= settle_from).sum(), qc.FLIPS_MAX * 2000)
        self.assertGreater((sure[:1700] >= settle_from - 0.002).sum(), qc.FLIPS_MAX * 2000)
        self.assertIsNone(qc.least(right[:, ::-1], labels, labels, sources))

    def test_no_source_pays_for_the_others(self):
        labels, sources = np.arange(4000) % 2, np.array(["large"] * 3400 + ["small"] * 600)
        flipped = labels.copy()
        # An even and an odd one, so that no intent loses more than the other.
        flipped[3400:3402] ^= 1
        self.assertTrue(qc.is_faithful(flipped, labels, labels, sources), "two queries are no rate")
        self.assertFalse(qc.is_faithful(flipped, labels, labels, sources, 0.2), "two are more than a fifth of that")
        flipped[3402:3404] ^= 1
        self.assertFalse(qc.is_faithful(flipped, labels, labels, sources), "the small source has a rate of its own")

    def test_few_may_change_even_where_as_many_become_right(self):
        labels, sources = np.arange(4000) % 2, np.array(["large"] * 4000)
        for count, is_good in ((8, True), (12, False)):
            said, flipped = labels.copy(), labels.copy()
            said[:count // 2] ^= 1
            flipped[count // 2:count] ^= 1
            self.assertEqual(qc.is_faithful(flipped, said, labels, sources), is_good)
        flipped = labels.copy()
        flipped[:8] ^= 1
        self.assertFalse(qc.is_faithful(flipped, labels, labels, sources), "where none does, F1 falls")


if __name__ == "__main__":
    unittest.main()
