"""Tests of the teachers: their network, their folds, and what becomes of what they say. `make test-training`."""

import json
import math
import random
import tempfile
import unittest
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import candidates
import draw
import neighbours
import recipe
import rows
import teach
import teacher
from folds import FOLDS, fold_of, folds_of
from mpnet import Mpnet, distance_buckets, load_teacher

CONFIG = {"hidden_size": 12, "vocab_size": 127, "max_position_embeddings": 34, "num_hidden_layers": 2, "intermediate_size": 24,
          "num_attention_heads": 3, "layer_norm_eps": 1e-5, "relative_attention_num_buckets": 32}


def write_teacher(folder: Path) -> dict:
    """A random MPNet of the names that the published weights have."""
    torch.manual_seed(2)
    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    given = {"embeddings.word_embeddings.weight": torch.randn(CONFIG["vocab_size"], hidden),
             "embeddings.position_embeddings.weight": torch.randn(CONFIG["max_position_embeddings"], hidden),
             "embeddings.LayerNorm.weight": torch.randn(hidden), "embeddings.LayerNorm.bias": torch.randn(hidden),
             "encoder.relative_attention_bias.weight": torch.randn(32, 3)}
    for i in range(CONFIG["num_hidden_layers"]):
        shapes = {**{f"attention.attn.{n}": (hidden, hidden) for n in "qkvo"}, "intermediate.dense": (inner, hidden),
                  "output.dense": (hidden, inner), "attention.LayerNorm": (hidden,), "output.LayerNorm": (hidden,)}
        for name, shape in shapes.items():
            given[f"encoder.layer.{i}.{name}.weight"] = torch.randn(shape)
            given[f"encoder.layer.{i}.{name}.bias"] = torch.randn(shape[0])
    save_file(given, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return given


def attention_by_hand(given: dict, x: torch.Tensor) -> torch.Tensor:
    """The first layer's attention over (length, hidden) as MPNet's paper and code define it."""
    def dense(name, value):
        return value @ given[f"encoder.layer.0.attention.attn.{name}.weight"].T + given[f"encoder.layer.0.attention.attn.{name}.bias"]

    length, heads, size = len(x), 3, 4
    q, k, v = (dense(n, x).view(length, heads, size) for n in "qkv")
    out = torch.zeros(length, heads, size)
    for head in range(heads):
        for at in range(length):
            scores = torch.tensor([
                float(q[at, head] @ k[to, head]) / math.sqrt(size)
                + float(given["encoder.relative_attention_bias.weight"][(16 if to > at else 0) + abs(to - at), head]) for to in range(length)])
            out[at, head] = scores.softmax(0) @ v[:, head]
    return dense("o", out.reshape(length, -1))


class Network(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.given = write_teacher(self.folder)
        self.model = load_teacher(self.folder).eval()

    def test_ids_and_positions_are_those_of_bert(self):
        words = self.given["embeddings.word_embeddings.weight"]
        ours = self.model.words.weight.detach()
        self.assertEqual(len(ours), CONFIG["vocab_size"] - 5)
        for bert, mpnet in {0: 1, 101: 0, 102: 2, 100: 104, 7: 11, 121: 125}.items():
            self.assertTrue(torch.equal(ours[bert], words[mpnet]), bert)
        self.assertTrue(torch.equal(self.model.positions.weight, self.given["embeddings.position_embeddings.weight"][2:]))

    def test_distances_share_buckets_from_eight_on(self):
        distance = torch.tensor([0, -1, 1, -7, 7, -8, -16, 64, -500, 500])
        self.assertEqual(distance_buckets(distance, 32).tolist(), [0, 1, 17, 7, 23, 8, 10, 30, 15, 31])

    def test_attention_is_that_of_mpnet(self):
        x, mask = torch.randn(5, 12), torch.ones(1, 5, dtype=torch.int64)
        layer, seen = self.model.layers[0], []
        layer.norm1.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
        layer(x[None], self.model.attention_bias(mask))
        expected = x + attention_by_hand(self.given, x)
        self.assertLess((seen[0][0] - expected).abs().max().item(), 1e-4)

    def test_padding_changes_nothing(self):
        ids = torch.tensor([[101, 5, 6, 102]])
        alone = self.model(ids, torch.ones_like(ids), torch.zeros_like(ids))[0]
        longer = torch.nn.functional.pad(ids, (0, 9))
        padded = self.model(longer, (longer > 0).long(), torch.zeros_like(longer))[0]
        self.assertLess((alone - padded).abs().max().item(), 1e-5)


class Folds(unittest.TestCase):
    def pairs(self) -> list:
        rng = random.Random(4)
        made = [{"products": [f"t/left/{rng.randrange(80)}", f"t/right/{rng.randrange(80)}"], "label": 0} for _ in range(300)]
        return made + [{"products": [f"t/left/{i}", f"t/right/{i}"], "label": 1} for i in range(80)] + [
            {"products": ["t/left/1", "t/right/2"], "label": 1}]

    def test_duplicates_lie_in_one_fold_and_every_fold_has_some(self):
        folds = folds_of(self.pairs())
        for row in self.pairs():
            if row["label"]:
                self.assertEqual(*(folds[key] for key in row["products"]))
        self.assertEqual(folds["t/left/1"], folds["t/right/2"])
        self.assertEqual(set(folds.values()), set(range(FOLDS)))

    def test_folds_do_not_depend_on_the_order_or_the_process(self):
        self.assertEqual(folds_of(self.pairs()), folds_of(self.pairs()[::-1]))
        self.assertEqual(fold_of("t/left/1"), 2)

    def test_no_product_of_a_fold_is_in_its_training(self):
        folds = folds_of(self.pairs())
        drawn = draw.Drawn.of([([1], [0])] * 381, [False] * 381, [0] * 381, folds=[draw.folds_of_row(r, folds) for r in self.pairs()])
        for fold in range(FOLDS):
            kept = [row for row, keep in zip(self.pairs(), drawn.without(fold)) if keep]
            self.assertTrue(kept)
            self.assertNotIn(fold, {folds[key] for row in kept for key in row["products"]})

    def test_a_teacher_has_no_say_about_what_it_trained_on(self):
        margins = np.array([[1.0, 9.0, 4.0], [9.0, 3.0, 4.0], [9.0, 5.0, 4.0], [9.0, 9.0, 8.0]])
        found = teach.unseen_mean(margins, np.array([[0, 0], [1, 2], [-1, -1]]))
        self.assertEqual(found.tolist(), [1.0, 4.0, 5.0])
        self.assertAlmostEqual(teach.probability(found)[0], 1 / (1 + math.exp(-1)), places=12)

    def test_what_goes_on_speaks_of_what_no_teacher_judges_and_of_pairs_without_labels(self):
        said, own = np.array([2.0, 2.0, np.nan, np.nan]), np.array([4.0, 4.0, 4.0, 4.0])
        found = teach.with_own(said, own, np.array([1.0, np.nan, 0.0, np.nan]))
        self.assertEqual(found.tolist(), [2.0, 3.0, 4.0, 4.0])


class Draws(unittest.TestCase):
    def test_an_epoch_draws_whole_sets_and_a_share_of_the_last(self):
        sets = {"abt-buy": [{"a": str(i), "b": "x", "label": 0, "set": "abt-buy"} for i in range(10)],
                "intent": [{"text": str(i), "label": 0, "source": "clinc150"} for i in range(1000)]}
        found = draw.epoch_rows(sets, {"abt-buy": 2.5, "intent": 0.1}, "seed", "")
        self.assertEqual(found, draw.epoch_rows(sets, {"abt-buy": 2.5, "intent": 0.1}, "seed", ""))
        self.assertNotEqual(found, draw.epoch_rows(sets, {"abt-buy": 2.5, "intent": 0.1}, "other", ""))
        pairs = [row["a"] for row in found if "a" in row]
        self.assertEqual(len(pairs), 25)
        self.assertTrue(all(2 <= pairs.count(str(i)) <= 3 for i in range(10)))
        self.assertTrue(60 < len(found) - 25 < 140)

    def test_a_varied_pair_swaps_its_sides_and_the_catalog_loses_no_word(self):
        text = " ".join(f"word{'abcdefghij'[i]}" for i in range(10)) + " | field"
        row = {"a": text, "b": "b", "set": "abt-buy"}
        found = {rows.inputs_of(row, random.Random(i), 0.5) for i in range(40)}
        self.assertTrue(any(a == "b" for a, _ in found) and any(b == "b" for _, b in found))
        self.assertTrue(any(len(a + b) < len(text) + 1 for a, b in found))
        kept = {rows.inputs_of({**row, "set": "catalogue"}, random.Random(i), 0.5) for i in range(40)}
        self.assertEqual(kept, {(text, "b"), ("b", text)})
        self.assertEqual(rows.inputs_of({"a": "b", "b": "a", "set": "x"}, None), ("a", "b"))


class Recipe(unittest.TestCase):
    def test_every_phase_draws_sets_that_a_step_writes_and_starts_from_a_phase(self):
        written = rows.TARGETS + rows.WDC + rows.LSPC + rows.NEIGHBOURS + ["intent"]
        for name, phase in recipe.PHASES.items():
            self.assertLessEqual(set(recipe.drawn_sets(phase)), set(written), name)
            self.assertIn(phase["start"], [None, recipe.GIVEN, *recipe.PHASES])
            self.assertIn(phase.get("taught_by", "teacher"), [of for of, other in recipe.PHASES.items() if "judges" in other])
            if any(source in rows.NEIGHBOURS for source in recipe.drawn_sets(phase)):
                self.assertGreater(phase["taught_share"], 0, "pairs without labels need a teacher")
        self.assertEqual(rows.NEIGHBOURS, [f"neighbours-{name}" for name in [*candidates.SETS, "offers"]])

    def test_only_a_phase_that_reads_nothing_judged_is_trained_once_for_all_folds(self):
        self.assertEqual([teacher.chain(phase) for phase in ("teacher", "targets")], [["teacher-broad", "teacher"], ["broad", "targets"]])
        self.assertEqual([teacher.folds_to_train(phase) for phase in recipe.PHASES], [[None]] + 5 * [[0, 1, 2, 3]])

    def test_offers_are_taken_by_whole_clusters(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "offers.csv"
            path.write_text("".join(f"{i},offer {i},1,{i // 3},label,2,Phones\n" for i in range(90)))
            taken = neighbours.offers(path)
        self.assertEqual({len([i for i in taken if int(i) // 3 == cluster]) for cluster in {int(i) // 3 for i in taken}}, {3})
        self.assertTrue(0 < len(taken) < 60)


if __name__ == "__main__":
    unittest.main()
