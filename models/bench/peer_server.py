"""What a user would build instead of `catalog-labels serve`: the same network in
onnxruntime behind FastAPI, one run for each request, with onnxruntime's own threads.
"""

import argparse
import unicodedata
from pathlib import Path

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from tokenizers import Tokenizer

INTENTS = ["product", "media", "help", "other"]
QUERY_TOKENS_MAX = 32


class IntentRequest(BaseModel):
    query: str


def application(models: Path, path: str) -> FastAPI:
    session = onnxruntime.InferenceSession(models / f"model.{path}.onnx", providers=["CPUExecutionProvider"])
    artifact = Path((models / "artifact.txt").read_text())
    tokenizer = Tokenizer.from_file(str(artifact / "tokenizer.json"))
    tokenizer.enable_truncation(QUERY_TOKENS_MAX)
    tokenizer.no_padding()
    app = FastAPI()

    # Not async: FastAPI runs it on its thread pool, where onnxruntime leaves the GIL.
    @app.post("/v1/intent")
    def intent(request: IntentRequest):
        query = " ".join(unicodedata.normalize("NFKC", request.query).lower().split())
        ids = np.array([tokenizer.encode(query).ids], dtype=np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        logits = session.run(["intent"], inputs)[0][0]
        powers = np.exp(logits - logits.max())
        scores = powers / powers.sum()
        return {"intent": INTENTS[int(scores.argmax())], "probabilities": dict(zip(INTENTS, scores.tolist()))}

    @app.get("/readyz")
    def ready():
        return {}

    return app


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--models", type=Path, default=Path(".local/bench-models"))
    parser.add_argument("--path", choices=["fp32", "int8"], default="fp32")
    args = parser.parse_args()
    uvicorn.run(application(args.models, args.path), host="127.0.0.1", port=args.port, log_level="warning",
                access_log=False, loop="uvloop", http="httptools")


if __name__ == "__main__":
    main()
