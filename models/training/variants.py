"""Queries that nobody labelled, for stages that learn what the network says: training queries with words left out,
exchanged or added, and spans of product titles. A stage that saw the training queries alone has seen few of the
words that shoppers say, and the network is surer of its own training queries than of any others."""

import random

from rows import LSPC, TARGETS, WDC, read

SEED = 11
# Of each training query. Shoppers' own queries are short and few, and what they name is endless.
VARIANTS, OF_SHOPPERS = 2, 10
SHOPPERS = {"queryner", "magnetic", "hint3-curekart", "hint3-sofmattress"}
TITLES_MAX = 40_000
# Words of a title, as often as queries have so many.
SPANS = [1, 2, 2, 3, 3, 4, 5]


def variant(words: list, others: list, rng: random.Random) -> list:
    """`words` with one change, by what another query of the same source says where that takes one."""
    words, other, kind = list(words), rng.choice(others), rng.random()
    if kind < 0.3 and len(words) > 1:
        words.pop(rng.randrange(len(words)))
    elif kind < 0.5 and len(words) > 2:
        return span(words, rng.randint(2, len(words) - 1), rng)
    elif kind < 0.75:
        return (words[:rng.randint(0, len(words))] + other[rng.randint(0, len(other)):]) or words
    elif kind < 0.9:
        words[rng.randrange(len(words))] = rng.choice(other)
    else:
        words.insert(rng.randint(0, len(words)), rng.choice(other))
    return words


def span(words: list, count: int, rng: random.Random) -> list:
    start = rng.randrange(len(words) - count + 1)
    return words[start:start + count]


def titles(prepared) -> list:
    """Of the training pairs' products, each once, in words."""
    found = {row[side].split(" | ")[0]: None for name in TARGETS + WDC + LSPC
             for row in read(prepared, f"{name}.train") for side in ("a", "b")}
    return [title.split() for title in found if title.split()]


def unlabelled(prepared, train: list, known: list) -> list:
    """Rows of queries, each once, none of them among `train` or the `known` ones."""
    rng, by_source = random.Random(SEED), {}
    for row in train:
        by_source.setdefault(row["source"], []).append(row["text"].split() or [""])
    seen, found = {row["text"].lower() for row in train + known}, []

    def add(words: list, source: str):
        text = " ".join(words).strip()
        if text and text.lower() not in seen:
            seen.add(text.lower())
            found.append({"text": text, "label": 0, "source": source})

    for source, queries in by_source.items():
        for words in queries:
            for _ in range(OF_SHOPPERS if source in SHOPPERS else VARIANTS):
                add(variant(words, queries, rng), source)
    of_products = titles(prepared)
    for words in rng.sample(of_products, min(len(of_products), TITLES_MAX)):
        # Its first words as often as any others: that is where a title says what it is of.
        count = min(len(words), rng.choice(SPANS))
        add(words[:count] if rng.random() < 0.5 else span(words, count, rng), "titles")
    return found
