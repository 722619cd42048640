"""Tests of the one training loop, on tiny random networks: `make test-training`."""

import json
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F

import fit
import judge
from drawn import Drawn, batches
from model import CatalogLabels
from mpnet import Mpnet

CONFIG = {"hidden_size": 24, "vocab_size": 50, "max_position_embeddings": 64, "num_hidden_layers": 2,
          "intermediate_size": 48, "num_attention_heads": 4, "layer_norm_eps": 1e-12, "relative_attention_num_buckets": 8}
PHASE = {"epochs": [{}, {}], "batch_tokens": 60, "learning_rate": 3e-3, "average_decay": 0.9, "smoothing": 0.1}
CPU = torch.device("cpu")


def drawn_rows(count: int = 60) -> Drawn:
    """Rows of 3 to 12 tokens in two epochs, every fifth a query; a pair is a duplicate if its
    tokens' type is odd. Products lie in folds 0 to 3."""
    generator = torch.Generator().manual_seed(3)
    encodings = []
    for i in range(count):
        ids = torch.randint(3, 50, (3 + i % 10,), generator=generator).tolist()
        encodings.append((ids, [i % 22] * len(ids)))
    query = [i % 5 == 4 for i in range(count)]
    target = [i % 4 if is_query else i % 22 % 2 for i, is_query in enumerate(query)]
    return Drawn.of(encodings, query, target, [i * 2 // count for i in range(count)], [(i % 4, i // 4 % 4) for i in range(count)])


def network(kind=CatalogLabels):
    torch.manual_seed(5)
    return kind(CONFIG)


class Fit(unittest.TestCase):
    def setUp(self):
        torch.set_num_threads(1)
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.scratch = Path(scratch.name)
        self.drawn = drawn_rows()

    def fit(self, name: str, kind=CatalogLabels, **options) -> Path:
        judged = options.pop("judged", lambda model: {"weight": float(model.pair_out.weight[0, 0])})
        with mock.patch.object(fit, "tqdm"):
            fit.fit(network(kind), self.drawn, self.drawn.target, PHASE, self.scratch / name, judged, CPU, **options)
        return self.scratch / name

    def cut_off(self, name: str, steps: int, kind=CatalogLabels):
        """A training that ends with an error in the step after `steps`."""
        with mock.patch.object(fit, "loss_of", side_effect=self.after(steps)), self.assertRaises(InterruptedError):
            self.fit(name, kind, checkpoint_minutes=0)

    @staticmethod
    def after(steps: int):
        real, left = fit.loss_of, iter(range(steps))

        def loss_of(*arguments):
            if next(left, None) is None:
                raise InterruptedError
            return real(*arguments)
        return loss_of

    def assert_same(self, first: Path, second: Path):
        a, b = (torch.load(folder / "checkpoint.pt") for folder in (first, second))
        for kind in ("weights", "average"):
            for name, weight in a[kind].items():
                self.assertTrue(torch.equal(weight, b[kind][name]), f"{kind} {name}")
        for name in ("loss.ndjson", "log.ndjson", "averaged.pt"):
            self.assertEqual((first / name).read_bytes(), (second / name).read_bytes(), name)

    def test_a_run_cut_off_in_the_middle_of_an_epoch_ends_as_an_unbroken_one(self):
        steps = len(batches(self.drawn, range(30), PHASE["batch_tokens"]))
        self.assertGreater(steps, 5)
        for kind in (CatalogLabels, Mpnet):
            whole = self.fit(f"{kind.__name__}-whole", kind)
            self.cut_off(f"{kind.__name__}-cut", 3, kind)
            self.cut_off(f"{kind.__name__}-cut", steps - 1, kind)
            self.assert_same(whole, self.fit(f"{kind.__name__}-cut", kind))

    def test_what_a_checkpoint_leaves_out_would_be_noticed(self):
        """Without the optimizer's moments a resumed run ends elsewhere, so the test above can fail."""
        whole = self.fit("whole")
        self.cut_off("cut", 3)
        with mock.patch.object(torch.optim.AdamW, "load_state_dict"):
            self.fit("cut")
        with self.assertRaises(AssertionError):
            self.assert_same(whole, self.scratch / "cut")

    def test_another_seed_is_another_run(self):
        with self.assertRaises(AssertionError):
            self.assert_same(self.fit("seven"), self.fit("eight", seed=8))

    def test_it_learns_and_logs(self):
        self.drawn = drawn_rows(300)
        before = judge.logits(network(), self.drawn)[0].softmax(-1)[:, 1]
        folder = self.fit("run")
        model = network()
        model.load_state_dict(judge.weights_of(folder / "averaged.pt"))
        after = judge.logits(model, self.drawn)[0].softmax(-1)[:, 1]
        pairs, target = torch.tensor(~self.drawn.query), torch.tensor(self.drawn.target)
        loss = [F.binary_cross_entropy(p[pairs], target[pairs]).item() for p in (before, after)]
        self.assertLess(loss[1], 0.9 * loss[0])
        rows = [json.loads(line) for line in (folder / "log.ndjson").read_text().splitlines()]
        self.assertEqual([row["epoch"] for row in rows], [0, 1])
        self.assertTrue((folder / "loss.ndjson").read_text())

    def test_word_vectors_stay_and_the_judge_sees_the_average(self):
        seen = []
        folder = self.fit("run", judged=lambda model: seen.append(model.pair_out.weight.clone()) or {})
        saved = torch.load(folder / "checkpoint.pt")
        self.assertTrue(torch.equal(seen[-1], saved["average"]["pair_out.weight"]))
        self.assertFalse(torch.equal(seen[-1], saved["weights"]["pair_out.weight"]))
        self.assertTrue(torch.equal(torch.load(folder / "averaged.pt")["words.weight"], network().words.weight.bfloat16()))

    def test_a_fold_is_left_out(self):
        seen = set()

        def loss_of(model, inputs, *rest):
            seen.update(tuple(ids[mask == 1].tolist()) for ids, mask, _ in zip(*inputs))
            return real(model, inputs, *rest)
        real = fit.loss_of
        with mock.patch.object(fit, "loss_of", side_effect=loss_of):
            self.fit("run", fold=2)
        ends = [0, *self.drawn.ends.tolist()]
        texts = [tuple(self.drawn.ids[a:b].tolist()) for a, b in zip(ends, ends[1:])]
        expected = {text for text, folds in zip(texts, self.drawn.folds.tolist()) if 2 not in folds}
        self.assertEqual(seen, expected)
        self.assertLess(len(expected), len(texts))

    def test_loss_of_pairs_is_towards_a_share_and_of_queries_towards_an_intent(self):
        model = network().eval()
        inputs = self.drawn.tensors([0, 1], CPU)
        pair, intent = model(*inputs)
        targets = torch.tensor([0.25, 1.0])
        p = pair.log_softmax(-1)
        by_hand = -((1 - targets) * p[:, 0] + targets * p[:, 1]).mean()
        self.assertAlmostEqual(fit.loss_of(model, inputs, targets, False, 0.1).item(), by_hand.item(), places=6)
        q = intent.log_softmax(-1)
        by_hand = -(0.9 * q[[0, 1], [3, 1]] + 0.1 * q.mean(-1)).mean()
        self.assertAlmostEqual(fit.loss_of(model, inputs, torch.tensor([3.0, 1.0]), True, 0.1).item(), by_hand.item(), places=6)

    def test_targets_are_labels_smoothed_and_mixed_with_what_teachers_think(self):
        drawn = Drawn.of([([1], [0])] * 5, [False] * 4 + [True], [1, 0, None, 0, 3], judged=[-1, 1, 0, -1, -1])
        phase, path = {"smoothing": 0.1, "taught_share": 0.0}, self.scratch / "taught-by-some.npy"
        own = fit.targets_of(drawn, phase, self.scratch)
        np.testing.assert_allclose(own, [0.95, 0.05, np.nan, 0.05, 3], rtol=1e-6)
        phase |= {"taught_share": 0.7, "taught_by": "some"}
        with self.assertRaisesRegex(SystemExit, "taught-by-some.npy: no such file; teach.py"):
            fit.targets_of(drawn, phase, self.scratch)
        np.save(path, np.array([0.4], dtype=np.float32))
        with self.assertRaisesRegex(SystemExit, "of fewer pairs"):
            fit.targets_of(drawn, phase, self.scratch)
        np.save(path, np.array([0.4, 0.8], dtype=np.float32))
        np.testing.assert_allclose(fit.targets_of(drawn, phase, self.scratch), [0.95, 0.3 * 0.05 + 0.7 * 0.8, 0.4, 0.05, 3], rtol=1e-6)

    def test_a_second_phase_starts_from_its_own_fold_if_there_is_one(self):
        (self.scratch / "broad").mkdir()
        self.assertEqual(fit.start_of(self.scratch, "broad", 1), self.scratch / "broad" / "averaged.pt")
        (self.scratch / "broad-without-1").mkdir()
        (self.scratch / "broad-without-1" / "averaged.pt").touch()
        self.assertEqual(fit.start_of(self.scratch, "broad", 1), self.scratch / "broad-without-1" / "averaged.pt")


class Batches(unittest.TestCase):
    def test_every_row_once_in_batches_of_one_task_and_few_enough_tokens(self):
        drawn = drawn_rows()
        plan = batches(drawn, range(len(drawn)), 40)
        self.assertEqual(sorted(row for rows in plan for row in rows), list(range(len(drawn))))
        for rows in plan:
            self.assertEqual(len({bool(drawn.query[row]) for row in rows}), 1)
            self.assertLessEqual(len(rows) * max(drawn.lengths(rows)), 40)

    def test_tensors_hold_each_row_and_a_mask(self):
        drawn = Drawn.of([([5, 6, 7], [1, 1, 12]), ([8], [3])], [False, False], [0, 1])
        ids, mask, types = drawn.tensors([1, 0], CPU)
        self.assertEqual(ids.tolist(), [[8, 0, 0], [5, 6, 7]])
        self.assertEqual(mask.tolist(), [[1, 0, 0], [1, 1, 1]])
        self.assertEqual(types.tolist(), [[3, 0, 0], [1, 1, 12]])

    def test_a_file_holds_all_of_it(self):
        drawn = drawn_rows()
        with tempfile.TemporaryDirectory() as folder:
            drawn.save(Path(folder) / "new" / "x.npz")
            loaded = Drawn.load(Path(folder) / "new" / "x.npz")
        for name in Drawn.ARRAYS:
            self.assertEqual(getattr(loaded, name).tolist(), getattr(drawn, name).tolist(), name)
        few = loaded.first(7)
        self.assertEqual((len(few), few.tensors([6], CPU)[0].tolist()), (7, drawn.tensors([6], CPU)[0].tolist()))

    def test_logits_come_in_the_order_of_the_rows(self):
        drawn, model = drawn_rows(), network().eval()
        together = judge.logits(model, drawn)
        for row in (0, 4, 13, 59):
            alone = model(*drawn.tensors([row], CPU))
            for head in (0, 1):
                self.assertLess((together[head][row] - alone[head][0]).abs().max().item(), 1e-5)


if __name__ == "__main__":
    unittest.main()
