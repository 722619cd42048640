"""Tests of cascade.py: the exported trees, the threshold, and what is written. `make test-training`."""

import hashlib
import json
import tempfile
import unittest
from pathlib import Path

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

    def test_the_name_stands_for_forest_and_threshold_and_is_made_once(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "manifest.json"
            given = {"schema_version": 2, "model_id": "small-20260101-aaaaaaaa", "files": {"model.ts": {"sha256": "", "bytes": 1}}}
            path.write_text(json.dumps(given))

            def write(content: dict, threshold: float) -> dict:
                cascade.write(Path(folder), json.loads(path.read_text()), content, threshold)
                return json.loads(path.read_text())

            first = write({"base": 1}, 0.02)
            self.assertEqual(first["cascade"], {"distinct_below": 0.02, "of": given["model_id"]})
            self.assertEqual((first["schema_version"], first["files"]["model.ts"]), (3, given["files"]["model.ts"]))
            written = (Path(folder) / "cascade.json").read_bytes()
            self.assertEqual(first["files"]["cascade.json"], {"sha256": hashlib.sha256(written).hexdigest(), "bytes": len(written)})
            self.assertEqual(write({"base": 1}, 0.02), first)
            names = {first["model_id"], write({"base": 1}, 0.03)["model_id"], write({"base": 2}, 0.02)["model_id"], given["model_id"]}
            self.assertEqual(len(names), 4)
            self.assertTrue(all(name.startswith("small-20260101-") for name in names))


if __name__ == "__main__":
    unittest.main()
