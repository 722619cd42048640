"""Draws what `make bench-score` measured of int8 and bf16 as a roofline: what registers multiply at most, what a core
reads from each level of its caches, and where the whole network is between them.

    .venv-training/bin/python models/bench/roofline.py --criterion target/criterion
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend is chosen first

# Of the 6 layers' linear products, for each token.
MULTIPLICATIONS_A_TOKEN = 10.6e6
# Of the goldens that the bench repeats (`catalog-labels tokens`).
TOKENS_A_PAIR = 28.5
# Multiplications for each byte that comes from a level, as models/src/native has its blocks: what a step of a tile
# multiplies for what it loads; the rows of a block for each byte of a panel, which it takes once; and the tokens that go
# through a layer together (`tokens_at_once`) for each of its weights.
KERNELS = {
    "int8, avx512": ("int8", {"L1": 12 * 32 * 4 / (32 * 4 + 12 * 4), "L2": 24, "L3": 256}),
    "int8, amx": ("int8, amx", {"L1": 4 * 16 * 16 * 64 / (4 * 1024), "L2": 32, "L3": 512}),
    "bf16, amx": ("bf16, amx", {"L1": 4 * 16 * 16 * 32 / (4 * 1024), "L2": 16, "L3": 256}),
}
LEVELS = ["L1", "L2", "L3"]


def rates(criterion: Path) -> dict:
    """Elements or bytes a second of each bench, by its group and name."""
    found = {}
    for path in criterion.glob("*/*/new/benchmark.json"):
        bench, estimates = (json.loads(path.with_name(name).read_text()) for name in ("benchmark.json", "estimates.json"))
        (amount,) = bench["throughput"].values()
        found[bench["group_id"], bench["function_id"]] = amount / (estimates["mean"]["point_estimate"] * 1e-9)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--criterion", type=Path, default=Path("target/criterion"))
    parser.add_argument("--out", type=Path, default=Path("docs/img/score-roofline.svg"))
    args = parser.parse_args()
    found = rates(args.criterion)
    read = {level: found["peak", f"read, {level}"] for level in LEVELS}
    figure, axes = plt.subplots(figsize=(9, 5))
    print("| kernel | peak, billions/s | " + " | ".join(f"roof by {level}" for level in LEVELS) + " | whole network | share of the least roof |")
    print("|---|---:|" + "---:|" * (len(LEVELS) + 2))
    for kernel, (peak, by_level) in KERNELS.items():
        network = found["score", f"pairs, {kernel}"] * TOKENS_A_PAIR * MULTIPLICATIONS_A_TOKEN
        roofs = [read[level] * by_level[level] for level in LEVELS]
        least = min(found["peak", peak], *roofs)
        cells = [found["peak", peak], *roofs, network]
        print(f"| {kernel} | " + " | ".join(f"{cell / 1e9:,.0f}" for cell in cells) + f" | {network / least:.0%} |")
        (line,) = axes.plot([by_level[level] for level in LEVELS], [network] * len(LEVELS), "o", label=f"{kernel}: whole network")
        axes.axhline(found["peak", peak], color=line.get_color(), linestyle="--", linewidth=1)
        axes.text(900, found["peak", peak], f"peak, {kernel}", fontsize=7, ha="right", va="bottom")
    for level in LEVELS:
        axes.plot([1, 1000], [read[level], 1000 * read[level]], color="grey", linewidth=1)
        axes.text(1.1, 1.2 * read[level], f"{level}: {read[level] / 1e9:.0f} GB/s", fontsize=7)
    axes.set(xscale="log", yscale="log", xlim=(1, 1000), ylim=(5e10, 1e13), xlabel="multiplications for each byte",
             ylabel="multiplications a second", title="One core: points from left to right are L1, L2 and L3")
    axes.legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    figure.savefig(args.out)


if __name__ == "__main__":
    main()
