"""Tests of compile_neuron.py on a small random network: `make test-training`."""

import hashlib
import json
import sys
import tempfile
import types
import unittest
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

import torch

import compile_neuron
from model import CatalogLabels

CONFIG = {"hidden_size": 24, "vocab_size": 50, "max_position_embeddings": 64, "num_hidden_layers": 2,
          "intermediate_size": 48, "num_attention_heads": 12, "layer_norm_eps": 1e-12}


def write_artifact(folder: Path):
    """A random network with golden rows of 3 to 30 tokens."""
    torch.manual_seed(1)
    model = CatalogLabels(CONFIG).eval().to(torch.bfloat16)
    torch.jit.save(torch.jit.script(model), str(folder / "model.ts"))
    model = model.float()
    cases = []
    for head, kind in enumerate(("pairs", "queries")):
        ids = [[1 + (i * n) % 49 for i in range(n)] for n in (3, 8, 17, 30)]
        logits = [model(*compile_neuron.padded([(row, [0] * len(row))], 1, 32))[head][0].tolist() for row in ids]
        cases.append({"name": kind, "kind": kind, "length": 32, "texts": [["x"]] * 4, "input_ids": ids,
                      "token_types": [[0] * len(row) for row in ids], "logits": logits})
    (folder / "goldens.json").write_text(json.dumps({"cases": cases}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "manifest.json").write_text(json.dumps({
        "model_id": "tiny", "pair_tokens_max": 32, "golden_tolerance": {"fp32": 1e-4, "bf16": 0.1},
        "files": {name: {} for name in ("model.ts", "goldens.json", "tokenizer.json")}}))


class CompileNeuron(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.artifact, self.out = Path(scratch.name) / "artifact", Path(scratch.name) / "out"
        self.artifact.mkdir()
        write_artifact(self.artifact)

    def compile(self, *arguments):
        argv = ["compile_neuron.py", "--artifact", str(self.artifact), "--out", str(self.out), *arguments]
        with mock.patch.object(sys, "argv", argv), redirect_stdout(StringIO()):
            compile_neuron.main()

    def refusal(self, *arguments) -> str:
        with self.assertRaises(SystemExit) as refused:
            self.compile(*arguments)
        self.assertFalse((self.out / "manifest.json").exists(), "nothing vouches for a half-made artifact")
        return str(refused.exception)

    def test_every_traced_bucket_gives_the_goldens_from_disk(self):
        self.compile("--trace-only", "--buckets", "1x8", "3x16", "2x32")
        manifest = json.loads((self.out / "manifest.json").read_text())
        self.assertEqual(manifest["static"]["device"], "cpu")
        buckets = {(b["batch"], b["length"]): b["file"] for b in manifest["static"]["buckets"]}
        self.assertEqual(set(buckets), {(1, 8), (3, 16), (2, 32)})
        cases = json.loads((self.out / "goldens.json").read_text())["cases"]
        for (batch, length), file in buckets.items():
            module = torch.jit.load(str(self.out / file))
            own = [case for case in cases if case["length"] == length]
            self.assertEqual({case["kind"] for case in own}, {"pairs", "queries"})
            self.assertTrue(all(len(case["texts"]) <= batch for case in own))
            self.assertLess(compile_neuron.largest_error(module, own, batch), 1e-4)
        for name, entry in manifest["files"].items():
            self.assertEqual(hashlib.sha256((self.out / name).read_bytes()).hexdigest(), entry["sha256"])
        self.assertNotIn("model.ts", manifest["files"])

    def test_the_compiler_is_asked_for_one_core_and_no_fallback(self):
        asked = []

        def trace(model, inputs, **options):
            asked.append(([tuple(i.shape) for i in inputs], [i.dtype for i in inputs], options))
            return compile_neuron.cpu_trace(model, inputs)

        neuron = types.SimpleNamespace(trace=trace)
        with mock.patch.object(torch, "neuron", neuron, create=True), \
                mock.patch.dict(sys.modules, {"torch_neuron": types.ModuleType("torch_neuron")}), \
                mock.patch.object(compile_neuron.metadata, "version", lambda name: f"{name} 1"):
            self.compile("--buckets", "2x32")
        options = {"compiler_args": ["--fp32-cast", "all"], "fallback": False}
        self.assertEqual(asked, [([(2, 32)] * 3, [torch.int64] * 3, options)])
        static = json.loads((self.out / "manifest.json").read_text())["static"]
        self.assertEqual(static["device"], "neuron")
        self.assertEqual(static["versions"]["neuron_cc"], "neuron-cc 1")
        self.assertEqual(static["versions"]["torch_neuron"], "torch-neuron 1")

    def test_a_compiler_that_computes_something_else_is_refused(self):
        for wrong in (0.5, float("nan")):
            class Wrong(torch.nn.Module):
                def forward(self, ids, mask, types):
                    return torch.full((ids.size(0), 2), wrong), torch.full((ids.size(0), 4), wrong)

            with mock.patch.object(compile_neuron, "cpu_trace", lambda model, inputs: Wrong()):
                self.assertIn("2x32", self.refusal("--trace-only", "--buckets", "2x32"))

    def test_grids_of_no_use_are_refused(self):
        self.assertIn("pairs have up to 32", self.refusal("--trace-only", "--buckets", "2x16"))
        with mock.patch.object(compile_neuron, "CORE_PARAMETERS_MAX", 10):
            self.assertIn("do not fit", self.refusal("--buckets", "2x32"))
        for given in ("8", "8x", "0x32", "8x2", "axb"):
            with self.assertRaises(compile_neuron.argparse.ArgumentTypeError):
                compile_neuron.parse_bucket(given)
        self.out.mkdir()
        self.assertIn("exists", self.refusal("--trace-only"))


if __name__ == "__main__":
    unittest.main()
