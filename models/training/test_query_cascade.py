"""Tests of query_cascade.py: the rounded weights, and how sure the first stage has to be. `make test-training`."""

import base64
import unittest

import numpy as np
from scipy.sparse import csr_matrix

import query_cascade as qc


class QueryCascade(unittest.TestCase):
    def linear(self) -> tuple:
        rng = np.random.default_rng(7)
        said = rng.integers(0, 4, 400)
        columns = said * 10 + rng.integers(0, 12, 400)
        x = csr_matrix((np.ones(400), (np.arange(400), columns)), shape=(400, 2 * qc.BUCKETS))
        return x, said, qc.Linear.trained(x, said)

    def test_rounded_weights_say_what_the_trained_ones_say(self):
        x, said, linear = self.linear()
        self.assertEqual((np.abs(linear.weights).max(axis=1) == qc.STEPS).tolist(), [True] * 4)
        exact = qc.LogisticRegression(C=qc.STRENGTH, max_iter=qc.ITERATIONS).fit(x, said)
        self.assertLess(np.abs(qc.probabilities(linear.logits(x)) - exact.predict_proba(x)).max(), 0.02)

    def test_weights_are_written_with_the_intents_innermost(self):
        _, _, linear = self.linear()
        original, qc.pieces = qc.pieces, lambda texts, _binary: csr_matrix((len(texts), 2 * qc.BUCKETS))
        self.addCleanup(setattr, qc, "pieces", original)
        content = linear.content("")
        written = np.frombuffer(base64.b64decode(content["weights"]), dtype=np.int8).reshape(2 * qc.BUCKETS, 4)
        self.assertTrue((written == linear.weights.T).all())
        self.assertEqual(content["goldens"][0]["logits"], linear.bias.tolist())
        again = qc.Linear.read(content)
        self.assertTrue((again.weights == linear.weights).all() and (again.scale == linear.scale).all())

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
        flipped[3400] ^= 1
        self.assertTrue(qc.is_faithful(flipped, labels, labels, sources), "one query is no rate")
        flipped[3402] ^= 1
        self.assertFalse(qc.is_faithful(flipped, labels, labels, sources))
        flipped = labels.copy()
        flipped[:4] ^= 1
        self.assertTrue(qc.is_faithful(flipped, labels, labels, sources))


if __name__ == "__main__":
    unittest.main()
