"""Tests of as_read.py: what counts as a duplicate, which threshold is taken, and what the artifact is called after. `make test-training`."""

import json
import tempfile
import unittest
from pathlib import Path

import as_read
import catalogue
from stages import choose, put


def rows(*judged) -> as_read.Read:
    return as_read.Read([{"label": label, "probability": str(p), "rival": rival} for label, p, rival in judged])


class AsRead(unittest.TestCase):
    def test_a_contested_label_is_no_duplicate(self):
        found = rows(("1", 0.9, ""), ("0", 0.6, "0.9"), ("1", 0.2, ""))
        self.assertEqual(found.measures(0.5), {"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "error": 0.0})
        self.assertEqual(found.measures(0.1)["recall"], 1.0)

    def test_what_contests_gain_in_precision_is_spent_on_recall_and_no_more(self):
        own = rows(*[("1", 0.9, "")] * 9, ("0", 0.9, ""))
        # Alone, a fifth of what is called a duplicate from 0.5 on is none. Contests settle that, so that 0.3 is as
        # precise, and 0.1 is not.
        sure, doubtful, least = [("1", 0.6, "")] * 4 + [("0", 0.6, "0.9")], [("1", 0.35, "")] * 4 + [("0", 0.35, "")], [("0", 0.2, "")] * 6
        other = rows(*sure, *doubtful, *least)
        self.assertEqual(as_read.best({"own": own, "other": rows(*sure)}, {"own": own}, "own", 0.05), 0.6)
        self.assertEqual(as_read.best({"own": own, "other": other}, {"own": own}, "own", 0.05), 0.35)

    def test_a_floor_is_no_sharper_than_the_set_that_gives_it(self):
        own = rows(*[("1", 0.9, "")] * 9, ("0", 0.9, ""))
        # Alone 16 of 20 are right from 0.6 on, give or take 0.09. From 0.3 on it is 19 of 25, but for what is contested.
        sure, contested = [("1", 0.6, "")] * 16 + [("0", 0.6, "")] * 4, [("0", 0.3, "0.9")] * 10
        within, beyond = [("1", 0.3, "")] * 3 + [("0", 0.3, "")] * 2, [("0", 0.2, "")] * 8
        self.assertEqual(as_read.best({"own": own, "other": rows(*sure, *contested, *within, *beyond)}, {"own": own}, "own", 0.05), 0.3)
        # Of ten times as many rows no less than 0.77 may be right.
        self.assertEqual(as_read.best({"own": own, "other": rows(*10 * [*sure, *contested, *within, *beyond])}, {"own": own}, "own", 0.05), 0.6)

    def test_no_threshold_is_taken_at_which_the_stages_cost_too_much(self):
        own, pairs = rows(*[("1", 0.9, "")] * 9, ("0", 0.9, "")), [("1", 0.6, ""), ("1", 0.3, "")]
        # The stages hide a match that the network gives 0.4.
        found, whole = rows(*pairs, ("1", 0.0, "")), rows(*pairs, ("1", 0.4, ""))
        self.assertEqual(as_read.best({"own": own, "other": found}, {"own": own}, "own", 0.05), 0.3)
        self.assertEqual(as_read.best({"own": own, "other": found}, {"own": own, "other": whole}, "own", 0.05), 0.6)

    def test_where_our_own_catalog_is_never_precise_no_threshold_is_taken(self):
        imprecise = rows(("0", 0.99, ""), ("1", 0.99, ""))
        self.assertIsNone(as_read.best({"own": imprecise}, {"own": imprecise}, "own", 0.05))

    def test_each_product_of_our_own_catalog_is_listed_twice_beside_a_near_miss(self):
        left, right, pairs = catalogue.tables(50, "seed")
        self.assertEqual((len(pairs), sum(label for *_, label in pairs), len(left) + len(right)), (100, 50, 150))
        self.assertEqual((left, right, pairs), catalogue.tables(50, "seed"))
        self.assertTrue(all(a < len(left) and b < len(right) for a, b, _ in pairs))
        with tempfile.TemporaryDirectory() as folder:
            as_read.own_catalog(Path(folder))
            header = (Path(folder) / "tableA.csv").read_text(encoding="utf-8").splitlines()[0]
        self.assertEqual(header, "id,title,brand,model_number,product_type,description")

    def test_a_chosen_threshold_renames_the_artifact_and_keeps_its_stages(self):
        with tempfile.TemporaryDirectory() as folder:
            artifact = Path(folder)
            manifest = {"model_id": "m-1-aaaaaaaa", "schema_version": 2, "files": {}, "thresholds": {"duplicate": 0.5, "review": 0.1}}
            put(artifact, manifest, "cascade", {"distinct_below": 0.02}, {})
            before = json.loads(json.dumps(manifest))
            choose(artifact, manifest, {"thresholds": {"duplicate": 0.3, "review": 0.1}})
            written = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
        self.assertEqual((written["thresholds"]["duplicate"], written["cascade"]["distinct_below"]), (0.3, 0.02))
        self.assertNotEqual(written["model_id"], before["model_id"])
        self.assertEqual(written["files"], before["files"])
        # The stage is of the model with its new threshold.
        self.assertNotIn(written["cascade"]["of"], (before["cascade"]["of"], written["model_id"]))


if __name__ == "__main__":
    unittest.main()
