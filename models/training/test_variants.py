"""Tests of variants.py: what is made of queries and titles, and what is kept apart. `make test-training`."""

import json
import random
import tempfile
import unittest
from pathlib import Path

import variants
from rows import LSPC, TARGETS, WDC


class Variants(unittest.TestCase):
    def setUp(self):
        self.prepared = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for name in TARGETS + WDC + LSPC:
            rows = [{"a": f"red kettle {name} | 2 litres", "b": "wool scarf", "label": 0}]
            (self.prepared / f"{name}.train.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.train = [{"text": text, "label": 0, "source": source} for text, source in (
            ("play some jazz", "snips"), ("play the news now", "snips"), ("usb c cable", "queryner"), ("cable", "queryner"))]

    def test_a_variant_is_of_words_that_its_source_says(self):
        rng, others = random.Random(3), [["play", "the", "news", "now"]]
        seen = set()
        for _ in range(300):
            words = variants.variant(["play", "some", "jazz"], others, rng)
            self.assertTrue(words and set(words) <= {"play", "some", "jazz", "the", "news", "now"}, words)
            seen.add(" ".join(words))
        self.assertTrue({"play jazz", "some jazz", "play some jazz now"} <= seen)
        self.assertEqual({" ".join(variants.variant(["x"], [["x"]], rng)) for _ in range(50)}, {"x", "x x"})

    def test_titles_are_those_before_the_fields_and_come_once(self):
        found = variants.titles(self.prepared)
        self.assertEqual(len(found), len(TARGETS + WDC + LSPC) + 1)
        self.assertTrue(["wool", "scarf"] in found and not any("litres" in title for title in found))

    def test_no_query_comes_twice_or_is_one_that_judges(self):
        known = [{"text": "Jazz", "label": 1, "source": "snips"}, {"text": "red kettle", "label": 0, "source": "queryner"}]
        found = variants.unlabelled(self.prepared, self.train, known)
        texts = [row["text"].lower() for row in found]
        self.assertEqual(len(texts), len(set(texts)))
        self.assertFalse(set(texts) & {row["text"].lower() for row in self.train + known})
        self.assertEqual({row["source"] for row in found}, {"snips", "queryner", "titles"})
        self.assertEqual(found, variants.unlabelled(self.prepared, self.train, known))


if __name__ == "__main__":
    unittest.main()
