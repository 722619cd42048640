"""Tests of prepare.py: what it writes, and what it says of bad data. `make test-training`.

CATALOG_LABELS_BINARY names the binary whose `texts` is the serialiser."""

import gzip
import json
import os
import tempfile
import unittest
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

import prepare

ROOT = Path(__file__).parent.parent.parent
BINARY = os.environ.get("CATALOG_LABELS_BINARY", str(ROOT / "target/release/catalog-labels"))
OFFERS = {"title_left": "Corlume kettle 1.5 L", "title_right": "corlume jug kettle", "brand_left": None, "label": 1}


def write_data(folder: Path):
    """Data sets of one or two rows each, in the shape of the real ones."""
    pairs = folder / "pairs"
    for name in prepare.TABLES:
        (pairs / name).mkdir(parents=True)
        (pairs / name / "tableA.csv").write_text("id,title,price\n0,\"Corlume kettle, 1.5 L\",20\n")
        (pairs / name / "tableB.csv").write_text("id,title,price\n7,corlume jug kettle,21\n")
        for split in ("train", "valid"):
            (pairs / name / f"{split}.csv").write_text("ltable_id,rtable_id,label\n0,7,1\n")
    wdc = pairs / "wdc-products-80cc"
    wdc.mkdir()
    for name in ("train_small", "train_medium", "valid_medium"):
        (wdc / f"{name}.jsonl.gz").write_bytes(gzip.compress(json.dumps(OFFERS).encode() + b"\n"))
    (wdc / "train_large_titles_only.csv").write_text("title_left,title_right,label\na kettle,a lid,0\n")
    for category, size in prepare.LSPC_SIZES.items():
        (pairs / "wdc-lspc" / category).mkdir(parents=True)
        for split in ("train", "valid"):
            row = 'COL title VAL "a kettle"@en\tCOL title VAL "a lid"@en\t0\n'
            (pairs / "wdc-lspc" / category / f"{split}.txt.{size}.gz").write_bytes(gzip.compress(row.encode()))
    (folder / "intent").mkdir()
    for split in ("train", "valid"):
        (folder / "intent" / f"{split}.tsv").write_text("text\tlabel\tsource\nred kettle\tproduct\tmade\n")


class Prepare(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.data, self.out = Path(scratch.name) / "data", Path(scratch.name) / "out"
        write_data(self.data)

    def run_it(self):
        arguments = ["prepare.py", "--data", str(self.data), "--out", str(self.out), "--binary", BINARY]
        with mock.patch("sys.argv", arguments), redirect_stdout(StringIO()):
            prepare.main()

    def refused(self, path: str, content, said: str):
        """With `content` in the file `path`, it ends with what `said` tells, and wrote nothing."""
        content = content if isinstance(content, bytes) else content.encode()
        (self.data / path).write_bytes(gzip.compress(content) if path.endswith(".gz") and content[:2] != b"\x1f\x8b" else content)
        with self.assertRaises(SystemExit) as ended:
            self.run_it()
        self.assertIn(f"{self.data / path}{said}", str(ended.exception.code))
        self.assertFalse(self.out.exists(), "something was written")

    def test_every_set_is_written(self):
        self.run_it()
        rows = [json.loads(line) for line in (self.out / "abt-buy.train.ndjson").read_text().splitlines()]
        self.assertEqual(rows, [{"a": "corlume kettle 1.5 l", "b": "corlume jug kettle", "label": 1, "set": "abt-buy",
                                 "products": ["abt-buy/left/0", "abt-buy/right/7"]}])
        rows = [json.loads(line) for line in (self.out / "intent.valid.ndjson").read_text().splitlines()]
        self.assertEqual(rows, [{"text": "red kettle", "label": 0, "source": "made"}])
        self.assertEqual(list(self.out.glob("*.part")), [])

    def test_one_product_has_one_key_in_all_sets(self):
        self.run_it()

        def products(name: str) -> list:
            return json.loads((self.out / f"{name}.train.ndjson").read_text())["products"]
        self.assertEqual(products("walmart-amazon"), products("walmart-amazon-dirty"))
        self.assertNotEqual(products("walmart-amazon"), products("abt-buy"))
        self.assertEqual(products("wdc-products-titles"), ["offer/a kettle", "offer/a lid"])
        self.assertEqual(products("lspc-shoes"), products("wdc-products-titles"))

    def test_a_quarter_of_hint3_is_kept_from_training(self):
        texts = [f"where is my order {i}" for i in range(40)]
        (self.data / "intent" / "train.tsv").write_text(
            "text\tlabel\tsource\n" + "".join(f"{text}\thelp\t{source}\n" for text in texts for source in ("bitext", "hint3-x")))
        self.run_it()
        found = {name: [json.loads(line) for line in (self.out / f"{name}.ndjson").read_text().splitlines()]
                 for name in ("intent.train", "intent-hint3.valid")}
        trained = {row["text"] for row in found["intent.train"] if row["source"] == "hint3-x"}
        kept = {row["text"] for row in found["intent-hint3.valid"]}
        self.assertEqual((trained | kept, trained & kept), (set(texts), set()))
        self.assertTrue(3 < len(kept) < 20)
        self.assertEqual(sum(row["source"] == "bitext" for row in found["intent.train"]), 40)

    def test_a_missing_column(self):
        self.refused("pairs/abt-buy/train.csv", "ltable_id,label\n0,1\n", ":1: column rtable_id: missing from the header")

    def test_a_missing_column_of_queries(self):
        self.refused("intent/valid.tsv", "text\tsource\nx\ty\n", ":1: column label: missing from the header")

    def test_an_empty_file(self):
        self.refused("intent/valid.tsv", "", ":1: column text: missing from the header")

    def test_a_label_outside_the_set(self):
        self.refused("pairs/abt-buy/valid.csv", "ltable_id,rtable_id,label\n0,7,1\n0,7,2\n", ":3: column label: '2' is neither 0 nor 1")

    def test_an_intent_outside_the_set(self):
        self.refused("intent/train.tsv", "text\tlabel\tsource\nx\tshopping\ty\n", ":2: column label: 'shopping' is none of product")

    def test_a_broken_row(self):
        self.refused("pairs/abt-buy/tableB.csv", "id,title,price\n7,kettle\n", ":2: column *: 2 cells where the header has 3")

    def test_a_broken_row_of_offers(self):
        self.refused("pairs/wdc-products-80cc/valid_medium.jsonl.gz", json.dumps(OFFERS) + "\n{\"title_left\"", ":2: column *: no JSON")

    def test_an_offer_without_a_title(self):
        self.refused("pairs/wdc-products-80cc/train_small.jsonl.gz", "{\"title_left\": \"x\", \"label\": 0}", ":1: column title_right: missing")

    def test_a_broken_row_of_titles(self):
        self.refused("pairs/wdc-lspc/shoes/train.txt.large.gz", "COL title VAL x\t0\n", ":1: column *: 2 cells where 3 are needed")

    def test_a_file_that_ends_early(self):
        whole = gzip.compress(json.dumps(OFFERS).encode() + b"\n")
        self.refused("pairs/wdc-products-80cc/valid_medium.jsonl.gz", whole[:-9], ":")

    def test_text_that_is_no_utf8(self):
        self.refused("pairs/abt-buy/tableA.csv", b"id,title,price\n0,caf\xe9,1\n", ":1: column *: cannot be read")

    def test_a_pair_of_an_unknown_product(self):
        self.refused("pairs/abt-buy/train.csv", "ltable_id,rtable_id,label\n0,8,1\n", ":2: column rtable_id: '8' is in no table")

    def test_an_id_that_occurs_twice(self):
        self.refused("pairs/abt-buy/tableA.csv", "id,title,price\n0,a,1\n0,b,1\n", ":3: column id: '0' occurs twice")

    def test_a_missing_file(self):
        (self.data / "intent" / "train.tsv").unlink()
        with self.assertRaises(SystemExit) as ended:
            self.run_it()
        self.assertIn("train.tsv: no such file", str(ended.exception.code))
        self.assertFalse(self.out.exists(), "something was written")


if __name__ == "__main__":
    unittest.main()
