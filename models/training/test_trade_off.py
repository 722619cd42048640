"""Tests of trade_off.py: what is counted as settled, changed, right and wrong. `make test-training`."""

import unittest

import numpy as np

import trade_off


class TradeOff(unittest.TestCase):
    def test_counts_only_what_stands_without_the_network(self):
        # Sure of a wrong intent, sure of a right one that the network misses, and sure of neither.
        first = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4]])
        second, labels = np.array([1, 0, 1]), np.array([1, 1, 1])
        sources = np.array(["queryner", "other", "other"])
        found = trade_off.judged(0.8, first, second, labels, sources)
        self.assertAlmostEqual(found["settled"], 2 / 3)
        self.assertEqual((found["shopping"], found["changed"], found["right"], found["wrong"]), (1.0, 2, 1, 1))
        self.assertEqual(found["cost"], 0.0)
        self.assertEqual(trade_off.judged(0.5, first, second, labels, sources)["changed"], 3)

    def test_a_half_is_judged_by_what_the_other_chose(self):
        rng = np.random.default_rng(3)
        labels, sure = rng.integers(0, 2, 400), rng.uniform(0.5, 1.0, 400)
        sources = np.full(400, "queryner")
        rows = np.arange(400)
        first = np.empty((400, 2))
        first[rows, labels], first[rows, 1 - labels] = sure, 1.0 - sure
        faithful = trade_off.by_halves(first, labels, labels, sources)
        self.assertEqual(len(faithful["settled"]), trade_off.HALVES)
        self.assertTrue((faithful["changed"] == 0.0).all() and (faithful["settled"] > 0.3).all())
        # A network that says the contrary is stood for by none of the chosen half: only what is surer than all of it settles.
        other = trade_off.by_halves(first, 1 - labels, labels, sources)
        self.assertLess(other["settled"].mean(), 0.02)
        self.assertTrue((other["changed"] == other["settled"]).all())


if __name__ == "__main__":
    unittest.main()
