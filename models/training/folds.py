"""Folds of products, for teachers that judge what they did not see.

Duplicates lie in one fold, and so do the two variants of Walmart-Amazon, which list the same products.
A fold's training leaves out every pair with a product of that fold, so that a pair of two folds is
in the training of neither: both may judge it, each knowing one product from other pairs at most.
"""

import zlib

FOLDS = 4


def groups(rows: list) -> dict:
    """The least product key of each product's group; pairs of label 1 join their products."""
    above = {}

    def top(key: str) -> str:
        while above.setdefault(key, key) != key:
            above[key] = above[above[key]]
            key = above[key]
        return key

    for row in rows:
        tops = sorted(top(key) for key in row["products"])
        if row["label"] == 1:
            above[tops[1]] = tops[0]
    return {key: top(key) for key in above}


def fold_of(group: str) -> int:
    """The same for one group on every machine."""
    return zlib.crc32(group.encode()) % FOLDS


def folds_of(rows: list) -> dict:
    """Fold of each product key in `rows`, pairs with "products" (two keys) and "label"."""
    return {key: fold_of(group) for key, group in groups(rows).items()}
