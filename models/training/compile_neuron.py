"""Compiles an artifact for a NeuronCore of inf1: one static module for each bucket of
(batch, length), each checked against the artifact's golden outputs.

Runs on an inf1 instance, or any Linux machine, that has torch-neuron 1.13.1 and
neuron-cc. It never ran on one here: `--trace-only` takes the same path with
`torch.jit.trace` in the compiler's place, so that everything but the compiler's own call
is run on a CPU, with golden parity at every bucket. `models/src/neuron.rs` loads what
it writes: the manifest's `static` lists the modules.
"""

import argparse
import hashlib
import json
import shutil
import sys
from importlib import metadata
from pathlib import Path

import torch

from model import CatalogLabels

# (batch, length), as `catalog-labels evaluate grid` chose them for nine modules, from the
# candidates of three public sets and 2,000 queries a second (docs/BENCHMARKS.md).
BUCKETS = [(4, 16), (8, 24), (32, 24), (2, 40), (19, 40), (16, 48), (12, 64), (9, 80), (6, 128)]
# Matrix products in bfloat16; all else of the graph in float32.
COMPILER_ARGS = ["--fp32-cast", "all"]
# BERT-base-sized modules that fit in the memory of a core, by their parameters.
CORE_PARAMETERS_MAX = 9 * 110_000_000


def parse_bucket(given: str) -> tuple:
    try:
        batch, length = (int(part) for part in given.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{given!r} is no bucket; write BATCHxLENGTH, such as 8x32") from None
    if batch < 1 or length < 5:
        raise argparse.ArgumentTypeError(f"{given!r}: a bucket has at least 1 row of 5 tokens")
    return batch, length


def load_network(artifact: Path, heads: int) -> CatalogLabels:
    """The artifact's weights, in float32, in the network that they were trained in. A
    scripted module can't be compiled: the compiler follows Python calls."""
    state = {name: weight.float() for name, weight in torch.jit.load(str(artifact / "model.ts")).state_dict().items()}
    layers = {name.split(".")[1] for name in state if name.startswith("layers.")}
    config = {
        "hidden_size": state["words.weight"].size(1), "vocab_size": state["words.weight"].size(0),
        "max_position_embeddings": state["positions.weight"].size(0), "num_hidden_layers": len(layers),
        "intermediate_size": state["layers.0.up.weight"].size(0), "num_attention_heads": heads,
        "layer_norm_eps": 1e-12,
    }
    model = CatalogLabels(config)
    model.load_state_dict(state)
    return model.eval()


def neuron_trace(model, inputs: tuple):
    """Compiles for one core. Without a fallback an operator that the compiler does not
    know is an error, and not a silent trip to the CPU."""
    import torch_neuron  # noqa: F401, registers torch.neuron

    return torch.neuron.trace(model, inputs, compiler_args=COMPILER_ARGS, fallback=False)


def cpu_trace(model, inputs: tuple):
    return torch.jit.trace(model, inputs, check_trace=False)


def padded(rows: list, batch: int, length: int) -> tuple:
    """Ids, mask and types of at most `batch` rows of at most `length` tokens."""
    def filled(values):
        full = [list(row) + [0] * (length - len(row)) for row in values]
        return torch.tensor(full + [[0] * length] * (batch - len(full)), dtype=torch.int64)

    ids, types = zip(*rows) if rows else ((), ())
    return filled(ids), filled([[1] * len(row) for row in ids]), filled(types)


def cases_of(cases: list, batch: int, length: int) -> list:
    """The golden rows that a bucket has room for, as its own cases of one batch each; the
    expected logits do not depend on the padding."""
    found = []
    for case in cases:
        fits = [i for i, ids in enumerate(case["input_ids"]) if len(ids) <= length]
        for start in range(0, len(fits), batch):
            part = fits[start:start + batch]
            rows = {key: [case[key][i] for i in part] for key in ("texts", "input_ids", "token_types", "logits")}
            name = f"{case['name']}, rows from {part[0]} in {batch}x{length}"
            found.append({"name": name, "kind": case["kind"], "length": length, **rows})
    return found


@torch.no_grad()
def largest_error(module, cases: list, batch: int) -> float:
    """Largest difference of any logit from the goldens; NaN if any is."""
    largest = 0.0
    for case in cases:
        rows = list(zip(case["input_ids"], case["token_types"]))
        logits = module(*padded(rows, batch, case["length"]))[0 if case["kind"] == "pairs" else 1]
        expected = torch.tensor(case["logits"])
        error = (logits[:len(rows)] - expected).abs().max().item()
        largest = error if not error <= largest else largest
    return largest


def compile_bucket(model, batch: int, length: int, cases: list, trace, tolerance: float):
    """The module of one bucket, after it gave the golden outputs."""
    cases = cases_of(cases, batch, length)
    if not cases:
        sys.exit(f"bucket {batch}x{length}: no golden row has at most {length} tokens, so nothing vouches for it")
    module = trace(model, padded([], batch, length))
    error = largest_error(module, cases, batch)
    print(f"bucket {batch}x{length}: {sum(len(c['texts']) for c in cases)} golden rows, largest error {error:.2g}")
    if not error <= tolerance:
        sys.exit(f"bucket {batch}x{length}: a logit is {error:.3g} off, and {tolerance:.3g} is allowed; "
                 "this compiler does not compute this model")
    return module, cases


def versions(trace_only: bool) -> dict:
    """What the modules were made with, and what must load them."""
    made = {"torch": torch.__version__}
    if not trace_only:
        made.update(torch_neuron=metadata.version("torch-neuron"), neuron_cc=metadata.version("neuron-cc"),
                    runtime=f"the libnrt that torch-neuron {metadata.version('torch-neuron')} carries")
    return made


def write(artifact: Path, out: Path, modules: dict, cases: list, trace_only: bool):
    """The artifact of static modules; the manifest last, since it vouches for the rest."""
    out.mkdir(parents=True)
    manifest = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    files = []
    for (batch, length), module in modules.items():
        name = f"model.{batch}x{length}.ts"
        torch.jit.save(module, str(out / name))
        files.append({"batch": batch, "length": length, "file": name})
    (out / "goldens.json").write_text(json.dumps({"cases": cases}, ensure_ascii=False) + "\n", encoding="utf-8")
    kept = [name for name in manifest["files"] if name not in ("model.ts", "goldens.json")]
    for name in kept:
        shutil.copyfile(artifact / name, out / name)
    manifest["static"] = {"device": "cpu" if trace_only else "neuron", "buckets": files,
                          "compiler_args": [] if trace_only else COMPILER_ARGS, "versions": versions(trace_only)}
    manifest["files"] = {name: {"sha256": hashlib.sha256((out / name).read_bytes()).hexdigest(),
                                "bytes": (out / name).stat().st_size}
                         for name in [*(file["file"] for file in files), "goldens.json", *kept]}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifact", type=Path, default=Path("models/artifacts/minilm-l6-v6"))
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--buckets", type=parse_bucket, nargs="+", default=BUCKETS, metavar="BATCHxLENGTH")
    parser.add_argument("--heads", type=int, default=12, help="attention heads, which weights do not tell")
    parser.add_argument("--trace-only", action="store_true", help="trace for a CPU where there is no compiler")
    args = parser.parse_args()
    if args.out.exists():
        sys.exit(f"{args.out} exists; name a folder to make")
    manifest = json.loads((args.artifact / "manifest.json").read_text(encoding="utf-8"))
    longest = max(length for _, length in args.buckets)
    if longest < manifest["pair_tokens_max"]:
        sys.exit(f"--buckets: the longest is {longest}, and pairs have up to {manifest['pair_tokens_max']} tokens")
    model = load_network(args.artifact, args.heads)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if not args.trace_only and parameters * len(args.buckets) > CORE_PARAMETERS_MAX:
        sys.exit(f"--buckets: {len(args.buckets)} modules of {parameters} parameters do not fit in a core")

    trace = cpu_trace if args.trace_only else neuron_trace
    tolerance = manifest["golden_tolerance"]["fp32" if args.trace_only else "bf16"]
    goldens = json.loads((args.artifact / "goldens.json").read_text(encoding="utf-8"))["cases"]
    modules, cases = {}, []
    for batch, length in sorted(set(args.buckets)):
        modules[batch, length], found = compile_bucket(model, batch, length, goldens, trace, tolerance)
        cases += found
    write(args.artifact, args.out, modules, cases, args.trace_only)
    print(f"{args.out}: {len(modules)} buckets")


if __name__ == "__main__":
    main()
