"""Text changes that keep or break what a shopper would call the same product.

The public sets say little about near misses (another colour, size, pack count or
model year), so some training rows are made from their texts: a rewritten twin is a
duplicate, a rewritten twin with one telling detail changed is not.
"""

import random
import re

COLOURS = ["black", "white", "silver", "red", "blue", "green", "pink", "grey", "gray", "gold", "purple", "yellow",
           "orange", "brown", "navy", "beige", "teal", "ivory"]
SIZES = ["small", "medium", "large", "xl", "xxl", "mini", "king", "queen", "twin", "xs"]
NUMBER = re.compile(r"^\d+(\.\d+)?$")
CODE = re.compile(r"^(?=.*\d)(?=.*[a-z])[a-z0-9][a-z0-9\-/.]{3,}$")
ACCESSORIES = ["case for {}", "replacement battery for {}", "{} screen protector", "charger for {}", "{} carrying bag",
               "cover for {}", "remote control for {}", "{} user manual"]
# Words that sellers write in two ways.
SAME = {"litre": "l", "watt": "w", "two": "2", "three": "3", "four": "4", "first": "1st", "third": "3rd",
        "black": "blk", "white": "wht", "stainless": "ss", "bluetooth": "bt", "with": "w/", "and": "&",
        "womens": "ladies", "edition": "ed", "pack": "pk", "grey": "gray"}
SAME.update({short: long for long, short in SAME.items()})
# Words that are not the same to a shopper.
OTHER = [("men's", "women's"), ("mens", "womens"), ("adult", "kids"), ("indoor", "outdoor"), ("left", "right"),
         ("wired", "wireless"), ("hardcover", "paperback"), ("with", "without"), ("standard", "deluxe"),
         ("single", "double"), ("full", "upgrade"), ("windows", "mac"), ("student", "professional")]
OTHER = dict(OTHER + [(b, a) for a, b in OTHER])
VARIANTS = ["pro", "plus", "max", "mini", "lite", "ultra", "xl", "se"]
MARKETING = ["brand new", "genuine", "free delivery", "best price", "original", "top quality", "hot deal", "in stock"]
VARY_SHARE = 0.15
CONDITIONS = ["refurbished", "used", "open box", "renewed"]


def rewrite(text: str, rng: random.Random) -> str:
    """The same product as another seller might write it: fields dropped or moved, a
    short span of plain words left out, codes joined or split."""
    fields = text.split(" | ")
    if len(fields) > 1 and rng.random() < 0.4:
        fields.pop(rng.randrange(1, len(fields)))
    if len(fields) > 1 and rng.random() < 0.2:
        rng.shuffle(fields)
    joined = (" | " if rng.random() < 0.7 else " ").join(fields)
    words = joined.split()
    plain = [i for i, w in enumerate(words) if w.isalpha() and w not in COLOURS and w not in SIZES]
    if len(plain) > 4 and rng.random() < 0.6:
        for i in sorted(rng.sample(plain, rng.randint(1, max(1, len(plain) // 4))), reverse=True):
            del words[i]
    for i, word in enumerate(words):
        if CODE.match(word) and rng.random() < 0.4:
            words[i] = respell_code(word, rng)
        elif word in SAME and rng.random() < 0.3:
            words[i] = SAME[word]
    if rng.random() < 0.4 and len(words) > 4:
        # A run of words moves, as a brand or a colour does in another seller's title.
        start = rng.randrange(len(words) - 2)
        run = [words.pop(start) for _ in range(rng.randint(1, 2))]
        at = rng.randrange(len(words) + 1)
        words[at:at] = run
    if rng.random() < 0.15:
        words.append(rng.choice(MARKETING))
    return " ".join(words)


def respell_code(code: str, rng: random.Random) -> str:
    """The same model code with its parts joined, or split between letters and digits."""
    joined = rng.choice(["", " "])
    if "-" in code:
        return code.replace("-", joined)
    return re.sub(r"(?<=[a-z])(?=\d{2})", rng.choice(["-", " "]), code, count=1)


def other_number(word: str, rng: random.Random) -> str:
    if "." in word:
        return f"{float(word) + rng.choice([-0.5, 0.5, 1, 2, 0.1]):.1f}"
    value = int(word[:12])
    choices = [value + 1, value + 2, value * 2, value // 2, value - 1, value + 10]
    choices = [c for c in choices if c > 0 and c != value]
    return str(rng.choice(choices or [value + 1]))


def other_code(word: str, rng: random.Random) -> str:
    i = rng.choice([i for i, c in enumerate(word) if c.isalnum()])
    pool = "0123456789" if word[i].isdigit() else "abcdefghijklmnopqrstuvwxyz"
    return word[:i] + rng.choice([c for c in pool if c != word[i]]) + word[i + 1:]


def break_one_detail(text: str, rng: random.Random):
    """The text with one telling detail changed, or None where it has none: a number,
    colour, size or model code changed, an accessory or another condition instead."""
    words = text.split()
    numbers = [i for i, w in enumerate(words) if NUMBER.match(w)]
    colours = [i for i, w in enumerate(words) if w in COLOURS]
    sizes = [i for i, w in enumerate(words) if w in SIZES]
    codes = [i for i, w in enumerate(words) if CODE.match(w)]
    others = [i for i, w in enumerate(words) if w in OTHER]
    kinds = [k for k in (numbers, colours, colours, sizes, codes, others, others) if k]
    if rng.random() < 0.12:
        at = rng.randint(1, max(1, min(4, len(words) - 1)))
        present = [i for i, w in enumerate(words) if w in VARIANTS]
        if present:
            del words[present[0]]
        else:
            words.insert(at, rng.choice(VARIANTS))
        return " ".join(words)
    if rng.random() < 0.15 or not kinds:
        title, *rest = text.split(" | ")
        if rng.random() < 0.7:
            title = rng.choice(ACCESSORIES).format(title)
        else:
            title = f"{rng.choice(CONDITIONS)} {title}" if rng.random() < 0.5 else f"{title} {rng.choice(CONDITIONS)}"
        return " | ".join([title, *rest])
    chosen = rng.choice(kinds)
    old = words[rng.choice(chosen)]
    if chosen is numbers:
        new = other_number(old, rng)
    elif chosen is colours:
        new = rng.choice([c for c in COLOURS if c != old and {c, old} != {"gray", "grey"}])
    elif chosen is others:
        new = OTHER[old]
    elif chosen is sizes:
        new = rng.choice([s for s in SIZES if s != old])
    else:
        new = other_code(old, rng)
    return " ".join(new if w == old else w for w in words)


def synthetic_pairs(texts: list, count: int, rng: random.Random) -> list:
    """Half twins, half near misses, of randomly chosen texts."""
    rows = []
    while len(rows) < count:
        a = rng.choice(texts)
        if len(a.split()) < 4:
            continue
        b = rewrite(a, rng)
        if rng.random() < 0.5:
            rows.append({"a": rewrite(a, rng) if rng.random() < 0.5 else a, "b": b, "label": 1, "set": "synthetic"})
        else:
            broken = break_one_detail(a, rng)
            rows.append({"a": a, "b": rewrite(broken, rng), "label": 0, "set": "synthetic"})
    return rows


def vary(text: str, rng: random.Random, share: float = VARY_SHARE) -> str:
    """Light augmentation of a labelled row: a field is left out of `share` of the texts, and a
    plain word of as many, so that the model can't lean on one of them."""
    if rng.random() < share:
        fields = text.split(" | ")
        if len(fields) > 1:
            fields.pop(rng.randrange(1, len(fields)))
        text = " | ".join(fields)
    if rng.random() < share:
        words = text.split()
        plain = [i for i, w in enumerate(words) if w.isalpha()]
        if len(plain) > 5:
            del words[rng.choice(plain)]
        text = " ".join(words)
    return text
