"""Tests of stages.py: what is written into an artifact. `make test-training`."""

import hashlib
import json
import tempfile
import unittest
from pathlib import Path

from stages import base, put, start_over


class Stages(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.given = {"schema_version": 2, "model_id": "small-20260101-aaaaaaaa", "files": {"model.ts": {"sha256": "", "bytes": 1}}}
        (self.folder / "manifest.json").write_text(json.dumps(self.given))

    def manifest(self) -> dict:
        return json.loads((self.folder / "manifest.json").read_text())

    def put(self, stage: str, entry: dict, content: dict) -> dict:
        put(self.folder, self.manifest(), stage, entry, content)
        return self.manifest()

    def test_the_manifest_vouches_for_the_file_and_keeps_the_rest(self):
        made = self.put("cascade", {"distinct_below": 0.02}, {"base": 1})
        self.assertEqual(made["cascade"], {"distinct_below": 0.02, "of": self.given["model_id"]})
        self.assertEqual((made["schema_version"], made["files"]["model.ts"]), (3, self.given["files"]["model.ts"]))
        written = (self.folder / "cascade.json").read_bytes()
        self.assertEqual(made["files"]["cascade.json"], {"sha256": hashlib.sha256(written).hexdigest(), "bytes": len(written)})

    def test_the_name_stands_for_each_stage_and_its_threshold_and_is_made_once(self):
        steps = [("cascade", {"distinct_below": 0.02}, {"base": 1}), ("cascade", {"distinct_below": 0.03}, {"base": 1}),
                 ("cascade", {"distinct_below": 0.03}, {"base": 2}), ("query_cascade", {"settle_from": 0.9}, {"bias": 1}),
                 ("query_cascade", {"settle_from": 0.8}, {"bias": 1}), ("early_exit", {"exits": [{"after": 3}]}, {"heads": 1}),
                 ("early_exit", {"exits": [{"after": 2}]}, {"heads": 1}), ("cascade", {"distinct_below": 0.04}, {"base": 2})]
        names = {self.given["model_id"]}
        for step in steps:
            made = self.put(*step)
            self.assertEqual(self.put(*step), made)
            self.assertEqual(base(made), self.given["model_id"])
            names.add(made["model_id"])
        self.assertEqual(len(names), len(steps) + 1)
        self.assertTrue(all(name.startswith("small-20260101-") for name in names))
        self.assertEqual((made["schema_version"], made["query_cascade"]["settle_from"]), (6, 0.8))

    def test_to_start_over_takes_the_stages_out_under_a_name_of_its_own(self):
        self.put("cascade", {"distinct_below": 0.02}, {"base": 1})
        start = lambda temperature: start_over(self.folder, self.manifest(), self.given["model_id"], {"temperature": temperature})
        start(0.9)
        made = self.manifest()
        self.assertEqual((made["files"], made["temperature"]), (self.given["files"], 0.9))
        self.assertFalse((self.folder / "cascade.json").exists() or "cascade" in made)
        self.assertTrue(made["model_id"].startswith("small-20260101-") and made["model_id"] != self.given["model_id"])
        start(0.8)
        self.assertNotEqual(self.manifest()["model_id"], made["model_id"])
        start(0.9)
        self.assertEqual(self.manifest(), made)
        self.assertEqual(base(self.put("cascade", {"distinct_below": 0.02}, {"base": 1})), made["model_id"])


if __name__ == "__main__":
    unittest.main()
