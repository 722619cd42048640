"""The floor that the query head has to beat: TF-IDF of words and letters with a logistic
regression, trained on the same queries. Prints both, by source, and the difference of
their media F1 on real shopping queries with a 95% interval (paired bootstrap)."""

import argparse
import random
from pathlib import Path

import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

from export import load_weights
from model import INTENTS
from judge import f1_at, intents, macro_f1, recall
from rows import Tokens, backbone_folder, read

RESAMPLES = 1000
MEDIA = INTENTS.index("media")
HARD = "queryner"


def floor(train: list, valid: list) -> list:
    """Index of the intent of each of `valid`."""
    features = make_union(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
                          TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, min_df=3))
    classifier = make_pipeline(features, LogisticRegression(C=10, max_iter=300))
    classifier.fit([row["text"] for row in train], [row["label"] for row in train])
    return classifier.predict([row["text"] for row in valid]).tolist()


def media_f1(predicted: list, labels: list) -> float:
    return f1_at([float(p == MEDIA) for p in predicted], [int(y == MEDIA) for y in labels], 0.5)


def difference(ours: list, theirs: list, labels: list) -> str:
    """Media F1 of `ours` less that of `theirs`, and its 2.5th and 97.5th percentile over rows
    drawn again, the same for both."""
    rng, rows = random.Random(7), list(zip(ours, theirs, labels))

    def of(drawn):
        a, b, y = zip(*drawn)
        return media_f1(a, y) - media_f1(b, y)

    drawn = sorted(of(rng.choices(rows, k=len(rows))) for _ in range(RESAMPLES))
    return f"{of(rows):.3f} ({drawn[RESAMPLES // 40]:.3f} to {drawn[-RESAMPLES // 40]:.3f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="`averaged.pt` of a run, or `model.ts` of an artifact")
    parser.add_argument("--prepared", type=Path, default=Path("models/training/runs/prepared"))
    parser.add_argument("--binary", default="target/release/catalog-labels")
    args = parser.parse_args()
    train, valid = (read(args.prepared, f"intent.{split}") for split in ("train", "valid"))
    kept = read(args.prepared, "intent-hint3.valid")
    labels = [row["label"] for row in valid]
    tokens = Tokens(args.binary, backbone_folder() / "tokenizer.json")
    both = {"TF-IDF": floor(train, valid + kept),
            "model": intents(load_weights(args.weights, backbone_folder()), valid + kept, tokens)}
    found = {name: predicted[:len(valid)] for name, predicted in both.items()}
    for source in ["", *sorted({row["source"] for row in valid})]:
        of = [i for i, row in enumerate(valid) if source in ("", row["source"])]
        y = [labels[i] for i in of]
        for name, predicted in found.items():
            p = [predicted[i] for i in of]
            print(f"{source or 'all':12} {name:7} {len(of):5} queries  accuracy {sum(a == b for a, b in zip(p, y)) / len(y):.4f}  "
                  f"macro-F1 {macro_f1(p, y):.4f}  media F1 {media_f1(p, y):.4f}")
    for name, predicted in both.items():
        help_recall = recall(predicted[len(valid):], [row["label"] for row in kept], INTENTS.index("help"))
        print(f"hint3, kept from training, {name}: {len(kept)} queries, help recall {help_recall:.4f}")
    hard = [i for i, row in enumerate(valid) if row["source"] == HARD]
    print(f"media F1 on {HARD}, model less TF-IDF: "
          f"{difference(*([v[i] for i in hard] for v in (found['model'], found['TF-IDF'], labels)))}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
