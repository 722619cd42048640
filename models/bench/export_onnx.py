"""Writes the shipped weights as ONNX for the peers: model.fp32.onnx, and model.int8.onnx and
model.int8-7bit.onnx with onnxruntime's dynamic quantisation (per channel).
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "models" / "training"))

from model import CatalogLabels  # noqa: E402


def shipped(artifact: Path) -> CatalogLabels:
    """The network in plain PyTorch with the artifact's weights in float32."""
    state = {name: weight.float() for name, weight in torch.jit.load(str(artifact / "model.ts")).state_dict().items()}
    hidden = state["words.weight"].shape[1]
    layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("layers."))
    model = CatalogLabels({
        "vocab_size": state["words.weight"].shape[0],
        "hidden_size": hidden,
        "max_position_embeddings": state["positions.weight"].shape[0],
        "intermediate_size": state["layers.0.up.weight"].shape[0],
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 32,
        "layer_norm_eps": 1e-12,
    })
    model.load_state_dict(state)
    return model.eval()


def check(model: CatalogLabels, artifact: Path):
    """The goldens of the artifact, so that both sides of a bench run one network."""
    for case in json.loads((artifact / "goldens.json").read_text())["cases"]:
        rows = case["input_ids"]
        ids, mask, types = (torch.zeros(len(rows), case["length"], dtype=torch.long) for _ in range(3))
        for i, row in enumerate(rows):
            ids[i, :len(row)], mask[i, :len(row)] = torch.tensor(row), 1
            types[i, :len(row)] = torch.tensor(case["token_types"][i])
        with torch.no_grad():
            found = model(ids, mask, types)[0 if case["kind"] == "pairs" else 1]
        worst = (found - torch.tensor(case["logits"])).abs().max().item()
        assert worst < 1e-2, f"{case['name']}: logits differ by {worst}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifact", type=Path, default=next((ROOT / "models" / "artifacts").iterdir()))
    parser.add_argument("--out", type=Path, default=ROOT / ".local" / "bench-models")
    args = parser.parse_args()
    model = shipped(args.artifact)
    check(model, args.artifact)
    args.out.mkdir(parents=True, exist_ok=True)
    fp32 = args.out / "model.fp32.onnx"
    example = tuple(torch.ones(2, 8, dtype=torch.long) for _ in range(3))
    names = ["input_ids", "attention_mask", "token_type_ids"]
    axes = {name: {0: "rows", 1: "length"} for name in names} | {"pair": {0: "rows"}, "intent": {0: "rows"}}
    torch.onnx.export(model, example, str(fp32), input_names=names, output_names=["pair", "intent"],
                      dynamic_axes=axes, opset_version=16)
    # Weights of 7 bits are what onnxruntime recommends for CPUs without VNNI, whose products of
    # bytes saturate otherwise.
    for name, reduce_range in (("int8", False), ("int8-7bit", True)):
        quantize_dynamic(fp32, args.out / f"model.{name}.onnx", per_channel=True, reduce_range=reduce_range,
                         weight_type=QuantType.QInt8)
    (args.out / "artifact.txt").write_text(str(args.artifact))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
