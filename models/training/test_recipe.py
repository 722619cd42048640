"""The recipe's steps one after the other, as `make models` lists them, on a few rows and tiny random
networks: `make test-training`. CATALOG_LABELS_BINARY names the binary that encodes texts."""

import functools
import json
import os
import subprocess
import tempfile
import unittest
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from safetensors.torch import save_file

import draw
import fit
import recipe
import rows
import teach
import teacher
import test_teacher
from drawn import UNJUDGED, Drawn
from folds import FOLDS
from judge import weights_of
from model import load_backbone

ROOT = Path(__file__).parent.parent.parent
BINARY = os.environ.get("CATALOG_LABELS_BINARY", str(ROOT / "target/release/catalog-labels"))
VOCABULARY = 30522


def write_backbone(folder: Path):
    """A random BERT of the names that the published weights have."""
    hidden, inner = 12, 24
    config = {"hidden_size": hidden, "vocab_size": VOCABULARY, "max_position_embeddings": 128, "num_hidden_layers": 1,
              "intermediate_size": inner, "num_attention_heads": 3, "layer_norm_eps": 1e-12}
    shapes = {"attention.output.dense": (hidden, hidden), "attention.output.LayerNorm": (hidden,), "intermediate.dense": (inner, hidden),
              "output.dense": (hidden, inner), "output.LayerNorm": (hidden,),
              **{f"attention.self.{n}": (hidden, hidden) for n in ("query", "key", "value")}}
    given = {f"embeddings.{n}_embeddings.weight": torch.randn(size, hidden)
             for n, size in (("word", VOCABULARY), ("position", 128), ("token_type", 2))}
    for name, shape in {"embeddings.LayerNorm": (hidden,), **{f"encoder.layer.0.{n}": s for n, s in shapes.items()}}.items():
        given[f"{name}.weight"], given[f"{name}.bias"] = torch.randn(shape), torch.randn(shape[0])
    folder.mkdir()
    save_file(given, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(config))


def write_prepared(folder: Path):
    """Twelve pairs a set, every third a duplicate; pairs without labels; queries."""
    folder.mkdir()
    for name in rows.TARGETS + rows.WDC + rows.LSPC + rows.NEIGHBOURS:
        for split in ("train", "valid"):
            pairs = [{"a": f"corlume kettle {i} l red", "b": f"corlume jug {i if i % 3 == 0 else i + 1} litre", "set": name,
                      "label": None if name in rows.NEIGHBOURS else int(i % 3 == 0),
                      "products": [f"{name}/left/{i}", f"{name}/right/{i if i % 3 == 0 else i + 1}"]} for i in range(12)]
            rows.write(pairs, folder / f"{name}.{split}.ndjson")
    for split in ("train", "valid"):
        rows.write([{"text": f"red kettle {i}", "label": i % 4, "source": "made"} for i in range(24)], folder / f"intent.{split}.ndjson")


def smaller(phase: dict) -> dict:
    return {**phase, "epochs": [{n: 6 if n in ("catalogue", "synthetic") else s for n, s in e.items()} for e in phase["epochs"]]}


class Steps(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        torch.manual_seed(1)
        write_prepared(self.folder / "prepared")
        write_backbone(self.folder / "minilm")
        (self.folder / "mpnet").mkdir()
        with mock.patch.dict(test_teacher.CONFIG, vocab_size=VOCABULARY + 5, max_position_embeddings=130):
            test_teacher.write_teacher(self.folder / "mpnet")

    def step(self, module, *arguments, **folders) -> str:
        options = [part for name, folder in folders.items() for part in (f"--{name}", str(self.folder / folder))]
        out = StringIO()
        with mock.patch("sys.argv", [module.__name__, *arguments, *options]), redirect_stdout(out), redirect_stderr(StringIO()):
            module.main()
        return out.getvalue()

    def test_from_prepared_rows_to_weights(self):
        with mock.patch.dict(recipe.PHASES, {name: smaller(phase) for name, phase in recipe.PHASES.items()}), \
                mock.patch.object(rows, "CATALOGUE_VALID_ROWS", 20):
            self.step(draw, "--binary", BINARY, prepared="prepared", out="drawn")
        quiet = functools.partial(subprocess.Popen, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with mock.patch.object(subprocess, "Popen", side_effect=quiet):
            self.step(teacher, "--threads", "1", run="run", drawn="drawn", backbone="mpnet")
        self.step(fit, "broad", "--threads", "1", run="run", drawn="drawn", backbone="minilm")
        with self.assertRaisesRegex(SystemExit, "taught-by-teacher.npy: no such file"):
            self.step(fit, "targets", "--threads", "1", run="run", drawn="drawn", backbone="minilm")
        report = self.step(teach, run="run", drawn="drawn")
        self.assertIn("abt-buy, not trained on                          12 pairs", report)
        self.assertIn("neighbours-offers                                12 pairs  without labels", report)
        self.step(fit, "targets", "--threads", "1", run="run", drawn="drawn", backbone="minilm")
        ends = [weights_of(self.folder / "run" / phase / "averaged.pt") for phase in ("broad", "targets")]
        model = load_backbone(self.folder / "minilm")
        for weights in ends:
            model.load_state_dict(weights)
        self.assertFalse(torch.equal(ends[0]["pair_out.weight"], ends[1]["pair_out.weight"]))
        self.check_what_teachers_taught()
        self.go_on_from(self.folder / "run" / "targets" / "averaged.pt")

    def go_on_from(self, weights: Path):
        """Teachers of one set, and the network that goes on as the teacher of the others."""
        quiet = functools.partial(subprocess.Popen, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with mock.patch.object(subprocess, "Popen", side_effect=quiet):
            self.step(teacher, "--phase", "specialist", "--threads", "1", run="run", drawn="drawn", backbone="mpnet")
        with self.assertRaisesRegex(SystemExit, "specialist does not judge all sets; name the network that goes on by --own"):
            self.step(teach, "--phase", "specialist", run="run", drawn="drawn")
        report = self.step(teach, "--phase", "specialist", run="run", drawn="drawn", backbone="minilm", own=weights)
        self.assertEqual([line.split()[0].rstrip(",") for line in report.splitlines()],
                         ["amazon-google", "amazon-google", "neighbours-amazon-google", "amazon-google"])
        taught = np.load(self.folder / "drawn" / "taught-by-specialist.npy")
        self.assertEqual(len(taught), 12 * len(rows.TAUGHT))
        self.assertTrue(np.isfinite(taught).all())
        with self.assertRaises(SystemExit):
            self.step(fit, "again", "--threads", "1", run="run", drawn="drawn", backbone="minilm")
        self.step(fit, "again", "--threads", "1", run="run", drawn="drawn", backbone="minilm", start=weights)
        self.assertFalse(torch.equal(weights_of(weights)["pair_out.weight"],
                                     weights_of(self.folder / "run" / "again" / "averaged.pt")["pair_out.weight"]))

    def check_what_teachers_taught(self):
        """A labelled pair has the word of the teachers that hold one of its products out, and the
        student's row leads to it."""
        judged, targets = (Drawn.load(self.folder / "drawn" / f"{name}.npz") for name in ("judged", "targets"))
        margins = [np.load(self.folder / "run" / f"teacher-without-{fold}" / "margins.npz")["judged"] for fold in range(FOLDS)]
        taught = np.load(self.folder / "drawn" / "taught-by-teacher.npy")
        self.assertEqual(len(taught), 12 * len(rows.TAUGHT))
        for row, (p, label, folds) in enumerate(zip(taught, judged.target, judged.folds.tolist())):
            asked = range(FOLDS) if np.isnan(label) else set(folds)
            self.assertAlmostEqual(p, 1 / (1 + np.exp(-np.mean([margins[fold][row] for fold in asked]))), places=5)
        asked = targets.judged != UNJUDGED
        self.assertTrue(0 < asked.sum() < len(targets))
        np.testing.assert_array_equal(targets.target[asked], judged.target[targets.judged[asked]])


if __name__ == "__main__":
    unittest.main()
