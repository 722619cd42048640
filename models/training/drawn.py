"""Encoded rows in arrays, and batches of them: all that training and judging need, so that neither
reads texts or calls the worker's binary, and a machine with a GPU needs torch alone."""

import random
from pathlib import Path

import numpy as np
import torch

POOL_ROWS = 4096
# Fold of a row that no fold leaves out.
NO_FOLD = -1
UNJUDGED = -1


class Drawn:
    """Rows in their order. Arrays, one element a row except for the first two:

    ids, types  int16 and uint8, of all rows one after the other
    ends        int64, where each row's tokens end
    query       bool, whether it is a query; otherwise a pair
    target      float32, a pair's label, not a number where it has none; or a query's intent
    part        int16, the epoch that draws it
    folds       int8, shape (rows, 2), the folds of a pair's products (folds.py)
    judged      int32, the place of the pair among those that teachers judge; UNJUDGED for others
    """

    ARRAYS = ("ids", "types", "ends", "query", "target", "part", "folds", "judged")

    def __init__(self, **arrays):
        for name in self.ARRAYS:
            setattr(self, name, arrays[name])

    @classmethod
    def of(cls, encodings: list, query: list, target: list, part: list | None = None, folds: list | None = None,
           judged: list | None = None):
        count = len(encodings)
        return cls(
            ids=np.array([i for ids, _ in encodings for i in ids], dtype=np.int16),
            types=np.array([t for _, types in encodings for t in types], dtype=np.uint8),
            ends=np.cumsum([len(ids) for ids, _ in encodings], dtype=np.int64),
            query=np.array(query, dtype=bool), target=np.array(target, dtype=np.float32),
            part=np.array(part if part else [0] * count, dtype=np.int16),
            folds=np.array(folds if folds else [(NO_FOLD, NO_FOLD)] * count, dtype=np.int8).reshape(count, 2),
            judged=np.array(judged if judged else [UNJUDGED] * count, dtype=np.int32))

    def save(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".part"), "wb") as file:
            np.savez_compressed(file, **{name: getattr(self, name) for name in self.ARRAYS})
        path.with_suffix(".part").rename(path)

    @classmethod
    def load(cls, path: Path):
        with np.load(path) as arrays:
            return cls(**{name: arrays[name] for name in cls.ARRAYS})

    def __len__(self) -> int:
        return len(self.ends)

    def first(self, count: int):
        """The first `count` rows."""
        ends = self.ends[:count]
        tokens = ends[-1] if len(ends) else 0
        return Drawn(ids=self.ids[:tokens], types=self.types[:tokens], ends=ends,
                     **{name: getattr(self, name)[:count] for name in self.ARRAYS[3:]})

    def lengths(self, rows: list) -> np.ndarray:
        """Tokens of each of `rows`."""
        rows = np.asarray(rows)
        return self.ends[rows] - np.where(rows > 0, self.ends[rows - 1], 0)

    def without(self, fold: int | None) -> np.ndarray:
        """Which rows are of no product of `fold`; all without a fold."""
        return np.ones(len(self), dtype=bool) if fold is None else (self.folds != fold).all(axis=1)

    def tensors(self, rows: list, device: torch.device) -> tuple:
        """Ids, mask and types, int64, padded to the longest of `rows`."""
        lengths = self.lengths(rows)
        mask = np.arange(lengths.max())[None, :] < lengths[:, None]
        ids, types = np.zeros(mask.shape, dtype=np.int64), np.zeros(mask.shape, dtype=np.int64)
        places = np.concatenate([np.arange(self.ends[r] - n, self.ends[r]) for r, n in zip(rows, lengths)])
        ids[mask], types[mask] = self.ids[places], self.types[places]
        return tuple(torch.from_numpy(array).to(device) for array in (ids, mask.astype(np.int64), types))


def batches(drawn: Drawn, rows: list, tokens_max: int, rng: random.Random | None = None) -> list:
    """`rows` in batches of at most `tokens_max` tokens, padding included, of one task and like
    length. With `rng` the batches of a pool of rows come in its order."""
    lengths, made = drawn.lengths(range(len(drawn))), []
    for start in range(0, len(rows), POOL_ROWS):
        order = sorted(rows[start:start + POOL_ROWS], key=lambda r: (drawn.query[r], lengths[r]))
        pool = [[order[0]]]
        for row in order[1:]:
            batch = pool[-1]
            if drawn.query[row] != drawn.query[batch[0]] or (len(batch) + 1) * lengths[row] > tokens_max:
                pool.append([])
            pool[-1].append(row)
        if rng is not None:
            rng.shuffle(pool)
        made += pool
    return made
