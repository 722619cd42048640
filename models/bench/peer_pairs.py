"""One run of a peer of `make bench-pairs` over tokenised pairs, on one thread.

Reads `[ids, types]` a line and writes `{"cpu_seconds", "logits"}`. Each batch is
padded to its longest row; with --sorted, rows are sorted by length first, the best order that
a user could give them. Tokenising is not counted.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

NAMES = ["input_ids", "attention_mask", "token_type_ids"]
WARM_UP_BATCHES = 3


def batches(rows, order, size):
    """(indices, inputs), each input an int64 array of shape (rows, longest)."""
    for start in range(0, len(order), size):
        indices = order[start:start + size]
        longest = max(len(rows[i][0]) for i in indices)
        inputs = {name: np.zeros((len(indices), longest), dtype=np.int64) for name in NAMES}
        for row, i in enumerate(indices):
            ids, types = rows[i]
            inputs["input_ids"][row, :len(ids)] = ids
            inputs["attention_mask"][row, :len(ids)] = 1
            inputs["token_type_ids"][row, :len(ids)] = types
        yield indices, inputs


def onnxruntime(models: Path, path: str):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(models / f"model.{path}.onnx", options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(["pair"], inputs)[0]


def openvino(models: Path, path: str):
    import openvino

    core = openvino.Core()
    quantised = models / "model.nncf.xml"
    # What is not quantised runs in bf16 where the CPU has it, and in fp32 elsewhere.
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "bf16"}
    if path == "fp32":
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    compiled = core.compile_model(quantised if path == "int8" else models / "model.fp32.onnx", "CPU", settings)
    request = compiled.create_infer_request()
    return lambda inputs: request.infer(inputs)["pair"].copy()


def quantise(models: Path, rows):
    """Writes what OpenVINO's users run in int8: weights and activations, by NNCF's recipe for
    transformers. Calibrated on the very rows of the bench, the best that it could have.
    """
    # NNCF would use any torch that it finds, and cannot use one as old as the export's.
    sys.modules["torch"] = None
    import nncf
    import openvino

    samples = [inputs for _, inputs in batches(rows, range(len(rows)), 1)]
    model = openvino.Core().read_model(models / "model.fp32.onnx")
    quantised = nncf.quantize(model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, subset_size=300)
    openvino.save_model(quantised, models / "model.nncf.xml", compress_to_fp16=False)


def pytorch(models: Path, path: str):
    import torch
    from export_onnx import shipped

    torch.set_num_threads(1)
    model = shipped(Path((models / "artifact.txt").read_text()))

    def run(inputs):
        with torch.inference_mode():
            return model(*(torch.from_numpy(inputs[name]) for name in NAMES))[0].numpy()

    return run


ENGINES = {"onnxruntime": onnxruntime, "openvino": openvino, "pytorch": pytorch}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=ENGINES)
    parser.add_argument("--path", choices=["fp32", "bf16", "int8", "int8-7bit"])
    parser.add_argument("--quantise", action="store_true", help="write OpenVINO's int8 network, and run nothing")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--rows-file", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--sorted", action="store_true")
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.rows_file.read_text().splitlines()]
    if args.quantise:
        return quantise(args.models, rows)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0])) if args.sorted else list(range(len(rows)))
    run = ENGINES[args.engine](args.models, args.path)
    for _, inputs in list(batches(rows, order, args.batch))[:WARM_UP_BATCHES]:
        run(inputs)
    logits = [None] * len(rows)
    started = time.process_time()
    for indices, inputs in batches(rows, order, args.batch):
        for i, answer in zip(indices, run(inputs)):
            logits[i] = [float(value) for value in answer]
    json.dump({"cpu_seconds": time.process_time() - started, "logits": logits}, sys.stdout)


if __name__ == "__main__":
    main()
