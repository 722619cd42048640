"""Tests of cascade.py: the exported trees and the threshold. `make test-training`."""

import json
import unittest

import numpy as np

import cascade


class Cascade(unittest.TestCase):
    def test_exported_trees_say_what_the_trainer_says(self):
        rng = np.random.default_rng(7)
        x = rng.integers(0, 9, (600, 5)).astype(np.float32)
        y = ((x[:, 0] > 3) ^ (x[:, 2] * x[:, 4] > 12)).astype(int)
        model = cascade.trained(x, y)
        exported = json.loads(json.dumps(cascade.forest(model)))
        for row, expected in zip(x[:100], model.predict_proba(x[:100])[:, 1]):
            self.assertAlmostEqual(cascade.walk(exported, row), expected, places=9)

    def test_the_threshold_is_the_least_that_leaves_few_enough_runs_on_every_set(self):
        many = np.arange(1, 1001) / 1001
        sets = [(many, 100), (many[:3], 1)]
        threshold = cascade.least_threshold(sets)
        for probabilities, products in sets:
            self.assertLessEqual((probabilities >= threshold).sum(), cascade.RUNS_MAX * products)
        self.assertGreater((many >= threshold - 0.002).sum(), cascade.RUNS_MAX * 100)


if __name__ == "__main__":
    unittest.main()
