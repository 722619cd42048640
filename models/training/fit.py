"""Trains a phase on what `draw.py` drew: one loop for the network that ships and for its teachers,
on a GPU where there is one.

Resumable: a checkpoint is written every few minutes, and the same command goes on where it stopped,
within an epoch, to the weights of an unbroken run, bit for bit on one machine. It reads no text
and calls no binary: `runs/drawn` and the backbone's folder are all that another machine needs.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from drawn import UNJUDGED, Drawn, batches
from folds import FOLDS
from judge import device, validation, weights_of
from model import load_backbone
from mpnet import load_teacher
from recipe import GIVEN, PHASES, drawn_sets, run_name, taught_name
from rows import VALIDATED, backbone_folder

# Rows of each set that are judged after each epoch; `report.py` judges all.
VALIDATED_ROWS = 1000
# Steps between two rows of the loss in the log.
LOSS_EVERY = 25
TEACHER = Path("models/training/runs/all-mpnet-base-v2")
LOADERS = {"minilm": load_backbone, "mpnet": load_teacher}


def has_bf16(on: torch.device) -> bool:
    """Whether the device multiplies bfloat16; a CPU that doesn't emulates it, and is slow."""
    return on.type == "cuda" or "avx512_bf16" in Path("/proc/cpuinfo").read_text()


def autocast(on: torch.device):
    return torch.autocast(on.type, dtype=torch.bfloat16, enabled=has_bf16(on))


def loss_of(model, inputs: tuple, targets: torch.Tensor, query: bool, smoothing: float) -> torch.Tensor:
    """Mean cross-entropy of a batch of one task. `targets` is float32 (rows), from `targets_of`; only
    queries are smoothed here."""
    pair, intent = model(*inputs)
    if query:
        return F.cross_entropy(intent, targets.long(), label_smoothing=smoothing)
    return F.cross_entropy(pair, torch.stack([1 - targets, targets], dim=1))


def targets_of(drawn: Drawn, phase: dict, folder: Path) -> np.ndarray:
    """What each row is trained towards, float32: a pair's label, smoothed, mixed with what the teachers
    think of it, by their file in `folder`, in phases that learn from them, and theirs alone where it has no
    label; a query's intent."""
    own = np.where(drawn.query, drawn.target, (1 - phase["smoothing"]) * drawn.target + phase["smoothing"] / 2).astype(np.float32)
    if not phase["taught_share"]:
        return own
    taught = folder / taught_name(phase["taught_by"])
    if not taught.exists():
        raise SystemExit(f"{taught}: no such file; teach.py writes it, and this phase learns from it")
    given, asked = np.load(taught), drawn.judged != UNJUDGED
    if drawn.judged.max() >= len(given):
        raise SystemExit(f"{taught} is of fewer pairs than this phase draws; run teacher.py and teach.py again")
    said = given[drawn.judged[asked]]
    mixed = (1 - phase["taught_share"]) * own[asked] + phase["taught_share"] * said
    own[asked] = np.where(np.isnan(own[asked]), said, mixed)
    return own


class Run:
    """Weights in training, their average, and all that the next step depends on."""

    def __init__(self, model, phase: dict, steps_total: int, seed: int):
        self.model, self.phase, self.steps_total, self.seed = model, phase, steps_total, seed
        # A large share of all weights are word vectors. They were learnt on far more text than is
        # here, and leaving them alone saves a sixth of each step.
        model.words.weight.requires_grad_(False)
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.average = {n: p.detach().clone() for n, p in self.trained.items()}
        self.optimizer = torch.optim.AdamW(self.groups(), lr=phase["learning_rate"])
        self.bases = [group["lr"] for group in self.optimizer.param_groups]
        self.step, self.loss, self.losses, self.reports = 0, None, [], []

    def groups(self) -> list:
        marks = self.model.types.weight
        others = [p for p in self.trained.values() if p is not marks]
        # The marks are new to a network that knows the rest.
        return [{"params": [p for p in others if p.dim() > 1], "weight_decay": 0.01},
                {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0},
                {"params": [marks], "weight_decay": 0.0, "lr": 10 * self.phase["learning_rate"]}]

    def rate(self) -> float:
        """Share of the learning rate: up within a twentieth of all steps, then down along a cosine."""
        done = self.step / self.steps_total
        return min(20 * (self.step + 1) / self.steps_total, 0.5 + 0.5 * math.cos(math.pi * done) + 0.02)

    def advance(self, inputs: tuple, targets: torch.Tensor, query: bool):
        # Dropout draws from the step's own seed: a resumed run draws what an unbroken one would.
        torch.manual_seed(self.seed * 1_000_003 + self.step)
        for group, base in zip(self.optimizer.param_groups, self.bases):
            group["lr"] = base * self.rate()
        with autocast(targets.device):
            loss = loss_of(self.model, inputs, targets, query, self.phase["smoothing"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.trained.values() if p.grad is not None], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(self.phase["average_decay"], (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, parameter in self.trained.items():
                self.average[name].lerp_(parameter, 1 - decay)
            self.loss = loss.detach() if self.loss is None else self.loss.lerp(loss.detach(), 0.02)
        if self.step % LOSS_EVERY == 0:
            self.losses.append({"step": self.step, "loss": round(self.loss.item(), 4)})

    def judged(self, judge) -> dict:
        """What `judge` says of the averaged weights."""
        current = {n: p.detach().clone() for n, p in self.trained.items()}
        self.model.load_state_dict(self.average, strict=False)
        report = judge(self.model)
        self.model.load_state_dict(current, strict=False)
        return report

    def save(self, folder: Path):
        state = {"step": self.step, "loss": self.loss, "losses": self.losses, "reports": self.reports, "average": self.average,
                 "weights": {n: p.detach() for n, p in self.trained.items()}, "optimizer": self.optimizer.state_dict()}
        torch.save(state, folder / "checkpoint.part")
        (folder / "checkpoint.part").rename(folder / "checkpoint.pt")
        for name, rows in (("loss", self.losses), ("log", self.reports)):
            (folder / f"{name}.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def load(self, folder: Path, on: torch.device):
        # The optimizer counts steps on the CPU, and takes the rest to where its weights are.
        saved = torch.load(folder / "checkpoint.pt", map_location="cpu")
        self.model.load_state_dict(saved["weights"], strict=False)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.losses, self.reports = (saved[name] for name in ("step", "losses", "reports"))
        self.loss = saved["loss"].to(on)
        self.average = {name: weight.to(on) for name, weight in saved["average"].items()}


def fit(model, drawn: Drawn, targets: np.ndarray, phase: dict, folder: Path, judge, on: torch.device, seed: int = 7,
        fold: int | None = None, checkpoint_minutes: float = 4):
    """Trains `model`, which is on the device `on`, on `drawn` towards `targets`, and writes `averaged.pt`
    (bfloat16) into `folder`. `judge(model)` is asked after each epoch; `fold` leaves that fold's products out."""
    kept = drawn.without(fold)
    plan = [(epoch, rows) for epoch in range(len(phase["epochs"])) for rows in batches(
        drawn, ((drawn.part == epoch) & kept).nonzero()[0], phase["batch_tokens"], random.Random(f"{seed}-{epoch}"))]
    run = Run(model.train(), phase, len(plan), seed)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "checkpoint.pt").exists():
        run.load(folder, on)
    bar, saved_at = tqdm(total=len(plan), initial=run.step, desc=folder.name, unit="step"), time.monotonic()
    for epoch, rows in plan[run.step:]:
        run.advance(drawn.tensors(rows, on), torch.from_numpy(targets[rows]).to(on), bool(drawn.query[rows[0]]))
        bar.update()
        if run.step == len(plan) or plan[run.step][0] != epoch:
            run.reports.append({"step": run.step, "epoch": epoch, "loss": round(run.loss.item(), 4), **run.judged(judge)})
            bar.write(json.dumps(run.reports[-1]))
        elif time.monotonic() - saved_at < 60 * checkpoint_minutes:
            continue
        run.save(folder)
        saved_at = time.monotonic()
    bar.close()
    model.load_state_dict(run.average, strict=False)
    torch.save({n: w.bfloat16().cpu() for n, w in model.state_dict().items()}, folder / "averaged.pt")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phase", choices=PHASES)
    parser.add_argument("--fold", type=int, choices=range(FOLDS), help="leave this fold's products out")
    parser.add_argument("--run", type=Path, default=Path("models/training/runs/main"))
    parser.add_argument("--drawn", type=Path, default=Path("models/training/runs/drawn"))
    parser.add_argument("--backbone", type=Path, help="folder with config.json and model.safetensors; as installed without it")
    parser.add_argument("--start", type=Path, help="`averaged.pt` or `model.ts` to start from; the phase before without it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    phase, on = PHASES[args.phase], device()
    model = LOADERS[phase["network"]](args.backbone or backbone_of(phase["network"]))
    if phase["start"] == GIVEN and not args.start:
        parser.error(f"{args.phase} goes on from weights: name them by --start")
    start = args.start or phase["start"] and start_of(args.run, phase["start"], args.fold)
    if start:
        model.load_state_dict(weights_of(start))
    names = [name for name in VALIDATED if name in phase.get("judges", VALIDATED)] + [name for name in ["intent"] if name in drawn_sets(phase)]
    sets = {name: Drawn.load(args.drawn / f"valid-{name}.npz").first(VALIDATED_ROWS) for name in names}
    drawn = Drawn.load(args.drawn / f"{args.phase}.npz")
    fit(model.to(on), drawn, targets_of(drawn, phase, args.drawn), phase,
        args.run / run_name(args.phase, args.fold), lambda judged: validation(judged, sets), on, args.seed, args.fold)


def backbone_of(network: str) -> Path:
    """Where `scripts/install-teacher.sh` and `make training-env` put the public weights."""
    return TEACHER if network == "mpnet" else backbone_folder()


def start_of(run: Path, phase: str, fold: int | None) -> Path:
    """Weights that the phase before left: of the same fold, where that phase knows folds."""
    own = run / run_name(phase, fold) / "averaged.pt"
    return own if own.exists() else run / phase / "averaged.pt"


if __name__ == "__main__":
    main()
