"""Pairs of listings from a catalog of our own making.

The public sets teach which records mean one entity; they say little about what a
shopper would mind: another colour, size, pack count, edition or model year, an
accessory or a refurbished one instead. Here one invented product is listed twice in
the ways of two sellers (a duplicate), or beside one that differs in one telling
detail (a near miss). Listings are products as JSON; they become texts through
`catalog-labels texts`, as all training data does.
"""

import random
import string
from dataclasses import dataclass, field, replace

from catalogue_attributes import ATTRIBUTES
from catalogue_words import FILLERS, HARMLESS, MAKERS, MARKETING, PLACES, REFURBISHED, SYLLABLES, THINGS, TYPES

# Types that have a title and an author instead of a brand and a line.
TITLED = {"cookbook", "novel", "textbook", "travel guide", "tv series", "album", "video game", "board game", "jigsaw puzzle"}
# Attributes that make another product even where a listing does not spell them out.
NEVER_LEFT_OUT = {"variant", "generation", "condition", "audience", "kit", "pack", "compat", "platform", "edition_nth", "season", "binding", "volume_book", "tier", "media", "year"}
# Every tenth type is for validation alone.
TYPES_TRAIN = [t for i, t in enumerate(TYPES) if i % 10 != 5]
TYPES_VALID = [t for i, t in enumerate(TYPES) if i % 10 == 5]


@dataclass(frozen=True)
class Item:
    """One invented product. `values` maps an attribute to its spellings."""
    nouns: tuple
    categories: tuple
    brand: str
    line: str
    code: str
    values: dict
    features: tuple
    parts: tuple = ()
    titled: bool = False
    # Attributes whose value the model code repeats.
    coded: tuple = ()
    # "" or the product that this one is a part for.
    whole: str = ""
    notes: tuple = field(default=())


def coined(rng: random.Random) -> str:
    """An invented name of two or three syllables."""
    return "".join(rng.sample(SYLLABLES, rng.choice([2, 2, 2, 3])))


def coined_code(brand: str, rng: random.Random) -> str:
    letters = rng.choice([brand[:2], brand[:1], brand[:3], "".join(rng.choices(string.ascii_lowercase, k=rng.randint(1, 3)))])
    digits = str(rng.choice([rng.randint(1, 9), rng.randint(10, 99), rng.randint(10, 99) * 10, rng.randint(100, 999), rng.randint(1000, 9999)]))
    tail = rng.choice(["", "", "", rng.choice(string.ascii_lowercase), "".join(rng.choices(string.ascii_lowercase, k=2)), str(rng.randint(1, 9)) + rng.choice(string.ascii_lowercase)])
    return rng.choice([f"{letters}-{digits}{tail}", f"{letters}{digits}{tail}", f"{letters}-{digits}-{tail}".rstrip("-"), f"{digits}{letters}{tail}"])


def item(types: list, rng: random.Random) -> Item:
    nouns, telling, features, parts, categories = rng.choice(types)
    titled = nouns[0] in TITLED
    brand = f"{coined(rng)} {coined(rng)}" if titled else coined(rng)
    if titled:
        line = f"{rng.choice(['the ', '', ''])}{rng.choice(PLACES)} {rng.choice(THINGS)}"
    else:
        line = rng.choice(["", "", coined(rng), f"{coined(rng)} {rng.choice(THINGS)}", f"{rng.choice(string.ascii_lowercase)}{rng.randint(1, 90)}"])
    chosen = rng.sample(telling, rng.randint(max(1, len(telling) - 1), len(telling)))
    values = {name: rng.choice(ATTRIBUTES[name]) for name in chosen}
    code = "" if titled or rng.random() < 0.25 else coined_code(brand, rng)
    coded = tuple(name for name in chosen if rng.random() < 0.3) if code else ()
    return Item(nouns, tuple(categories), brand, line, code, values, tuple(rng.sample(features, rng.randint(1, len(features)))), tuple(parts), titled, coded)


def full_code(it: Item) -> str:
    """The model code with what it repeats of the attributes, as in "kx20-bk"."""
    code = it.code
    for name in it.coded:
        spelling = it.values.get(name, ("",))[0]
        digits = "".join(c for c in spelling if c.isdigit())
        letters = "".join(c for c in spelling if c.isalpha() and c not in "aeiou")[:2]
        code += f"-{digits or letters}" if digits or letters else ""
    return code


def part_for(it: Item, rng: random.Random) -> Item:
    """A spare part or an accessory, by the maker or by another."""
    part = rng.choice(it.parts)
    whole = " ".join(filter(None, (it.brand, it.line if rng.random() < 0.6 else "", full_code(it) if rng.random() < 0.8 else "")))
    values = {"pack": rng.choice(ATTRIBUTES["pack"])} if rng.random() < 0.5 else {}
    values.update({name: value for name, value in it.values.items() if name == "colour" and rng.random() < 0.4})
    brand = it.brand if rng.random() < 0.3 else coined(rng)
    code = coined_code(brand, rng) if rng.random() < 0.3 else ""
    return Item((part, f"replacement {part}", f"{part} replacement", f"spare {part}"), it.categories, brand, "", code, values, (), whole=f"{whole} {rng.choice(it.nouns)}")


def respelled_code(code: str, rng: random.Random) -> str:
    how = rng.random()
    if how < 0.4:
        return code
    return code.replace("-", "" if how < 0.85 else " ")


def respelled(phrase: str, rng: random.Random) -> str:
    """Words joined or split, an apostrophe lost, a letter mistyped."""
    how = rng.random()
    if " " in phrase and how < 0.1:
        return phrase.replace(" ", "-", 1)
    if " " in phrase and how < 0.15 and not any(c.isdigit() for c in phrase):
        return phrase.replace(" ", "", 1)
    if "-" in phrase and how < 0.4:
        return phrase.replace("-", " ")
    if "'" in phrase and how < 0.5:
        return phrase.replace("'", "")
    if phrase.isalpha() and len(phrase) > 6 and how > 0.975:
        at = rng.randrange(1, len(phrase) - 1)
        return phrase[:at] + phrase[at + 1:]
    if phrase.isalpha() and len(phrase) > 3 and how > 0.93:
        return phrase[:-1] if phrase.endswith("s") else phrase + "s"
    return phrase


def written_brand(it: Item, rng: random.Random) -> str:
    if it.titled:
        first, last = it.brand.split(" ")
        return rng.choice([it.brand, f"by {it.brand}", f"{first[0]}. {last}", f"{last}, {first}", f"{last} {first[0]}"])
    return f"{it.brand} {rng.choice(MAKERS)}" if rng.random() < 0.06 else it.brand


def written_attributes(it: Item, keep: set, droppable: bool, rng: random.Random) -> list:
    written = []
    for name, spellings in it.values.items():
        left_out = rng.random() < 0.15 and droppable and name not in keep and name not in NEVER_LEFT_OUT
        spelling = respelled(rng.choice(spellings), rng) if rng.random() < 0.7 else spellings[0]
        if spelling and not left_out:
            written.append((name, spelling))
    if rng.random() < 0.6:
        rng.shuffle(written)
    return written


def listing(it: Item, keep: set, rng: random.Random) -> dict:
    """The product as one seller lists it: a `product` object of an upsert event. What
    `keep` names is always said. One seed gives one style."""
    product = {}
    code, code_in = respelled_code(full_code(it), rng), rng.choice(["title", "title", "field", "none"])
    attributes = written_attributes(it, keep, code_in != "none", rng)
    # A variant or a generation stands behind the name, the rest where the seller likes.
    name = " ".join([it.line, *(s for n, s in attributes if n in ("variant", "generation"))]).strip()
    rest = [s for n, s in attributes if n not in ("variant", "generation")]
    brand = written_brand(it, rng)
    noun = respelled(rng.choice(it.nouns), rng)
    said = [respelled(rng.choice(f), rng) for f in it.features if rng.random() < 0.55]
    told = [rng.choice(f) for f in it.features if rng.random() < 0.6]
    if it.whole:
        noun = rng.choice([f"{noun} for {it.whole}", f"{noun} for {it.whole}", f"{it.whole} {noun}", f"{noun} fits {it.whole}", f"{noun} compatible with {it.whole}"])
    code_title = code if code_in == "title" else ""
    cut = rng.randint(0, len(rest))
    chunks = rng.choice([
        [brand, name, code_title, noun, *rest, *said], [brand, code_title, name, noun, *said, *rest],
        [brand, name, *said, noun, *rest, code_title], [name, noun, *rest, *said, brand, code_title],
        [brand, noun, name, code_title, *rest, *said], [*rest[:cut], brand, name, noun, *rest[cut:], *said, code_title],
        [*said, noun, *rest, code_title, f"by {brand}" if not it.titled else brand], [code_title, brand, name, *rest, noun, *said],
        [brand, name, *rest, noun], [name, *rest, brand, noun] if it.titled else [noun, brand, name, code_title, *rest],
    ])
    if it.titled and rng.random() < 0.6:
        # A title says what it is only now and then.
        chunks = [c for c in chunks if c != noun]
    if rng.random() < 0.25:
        chunks.insert(rng.choice([0, len(chunks), len(chunks)]), rng.choice(MARKETING))
    if rng.random() < 0.25:
        chunks.append(rng.choice(HARMLESS))
    separator = rng.choice([" ", " ", " ", ", ", " - "])
    product["title"] = separator.join(c for c in chunks if c)
    if rng.random() < 0.5 and not it.titled:
        product["brand"] = it.brand
        if rng.random() < 0.1 and it.brand in product["title"]:
            product["title"] = product["title"].replace(it.brand, "", 1)
    if code and code_in == "field":
        product["model_number"] = code
    if rng.random() < 0.6:
        product["product_type"] = rng.choice(it.categories)
    if rng.random() < 0.5:
        facts = told + [rng.choice(FILLERS) for _ in range(rng.randint(0, 3))]
        rng.shuffle(facts)
        product["description"] = rng.choice([", ", ". ", " and "]).join([*facts, *it.notes])
    return product


def other_value(it: Item, name: str, rng: random.Random) -> tuple:
    """Another value of the attribute, more often a neighbour than a far one."""
    values = ATTRIBUTES[name]
    mine = it.values[name]
    others = [v for v in values if not set(v) & set(mine)]
    if mine in values and rng.random() < 0.5:
        at = values.index(mine)
        near = [v for v in values[max(0, at - 2):at + 3] if v in others]
        others = near or others
    return rng.choice(others)


def other_code(code: str, rng: random.Random) -> str:
    """A code of the same make: one of its digits, or its last letter, is another."""
    at = [i for i, c in enumerate(code) if c.isdigit()]
    i = rng.choice(at[-2:])
    return code[:i] + rng.choice([d for d in "123456789" if d != code[i]]) + code[i + 1:]


def near_miss(it: Item, rng: random.Random):
    """A product that differs in one telling detail, and the attributes that tell."""
    kinds = ["value"] * (7 if it.values else 0) + ["condition"] + (["code"] * 2 if it.code else []) + (["line"] if it.line else []) + (["part", "part", "bundle"] if it.parts else [])
    kind = rng.choice(kinds)
    if kind == "condition":
        changed = replace(it, values={**{n: v for n, v in it.values.items() if n != "condition"}, "state": (rng.choice(REFURBISHED),)})
        return replace(it, values={n: v for n, v in it.values.items() if n != "condition"}), changed, {"state"}
    if kind == "bundle":
        part = rng.choice(it.parts)
        spellings = (f"bundle with {part}", f"{part} bundle", f"kit incl {part} and {rng.choice(it.parts)}", f"+ extra {part}")
        return it, replace(it, values={**it.values, "bundle": spellings}), {"bundle"}
    if kind == "part":
        return it, part_for(it, rng), set()
    if kind == "code":
        changed = replace(it, code=other_code(it.code, rng))
        extra = [n for n in it.values if rng.random() < 0.3]
        return it, replace(changed, values={n: other_value(it, n, rng) if n in extra else v for n, v in it.values.items()}), {"code"}
    if kind == "line":
        line = f"{rng.choice(PLACES)} {rng.choice(THINGS)}" if it.titled else coined(rng)
        return it, replace(it, line=line, code=other_code(it.code, rng) if it.code else ""), set()
    name = rng.choice(list(it.values))
    changed = replace(it, values={**it.values, name: other_value(it, name, rng)})
    return it, changed, {name}


def pair(types: list, rng: random.Random) -> tuple:
    """(listing, listing, label): 1 for one product listed twice."""
    it = item(types, rng)
    if it.parts and rng.random() < 0.08:
        it = part_for(it, rng)
    seeds = rng.random(), rng.random()
    if rng.random() < 0.47:
        return listing(it, set(), random.Random(seeds[0])), listing(it, set(), random.Random(seeds[1])), 1
    if rng.random() < 0.1:
        # The same kind of thing by somebody else.
        other = replace(item(types, rng), nouns=it.nouns, categories=it.categories, values=it.values, features=it.features, coded=())
        return listing(it, set(), random.Random(seeds[0])), listing(other, set(), random.Random(rng.choice(seeds))), 0
    if it.values or it.code:
        it, other, keep = near_miss(it, rng)
    else:
        other, keep = replace(it, whole=f"{it.whole} {rng.randint(2, 9)}"), set()
    # Variants of one product are mostly listed by one seller in one way.
    second = seeds[0] if rng.random() < 0.55 else seeds[1]
    a, b = listing(it, keep, random.Random(seeds[0])), listing(other, keep, random.Random(second))
    if "code" in keep:
        # Two codes tell apart only where both are said.
        a, b = ({**p, "model_number": full_code(i)} for p, i in ((a, it), (b, other)))
    return (a, b, 0) if rng.random() < 0.5 else (b, a, 0)


def pairs(count: int, seed: str, types: list = TYPES_TRAIN) -> list:
    rng = random.Random(seed)
    made = []
    while len(made) < count:
        a, b, label = pair(types, rng)
        if a["title"].strip() and b["title"].strip() and not (label == 0 and a == b):
            made.append((a, b, label))
    return made


def family(types: list, rng: random.Random) -> tuple:
    """Listings of one product in two tables, and of a near miss of it in one of them: (left, right)."""
    it = item(types, rng)
    if it.parts and rng.random() < 0.08:
        it = part_for(it, rng)
    seeds = rng.random(), rng.random()
    it, other, keep = near_miss(it, rng) if it.values or it.code else (it, replace(it, whole=f"{it.whole} {rng.randint(2, 9)}"), set())
    # Variants of one product are mostly listed by one seller in one way.
    third = rng.choice(seeds) if rng.random() < 0.55 else rng.random()
    one, two, near = (listing(of, keep, random.Random(seed)) for of, seed in ((it, seeds[0]), (it, seeds[1]), (other, third)))
    if "code" in keep:
        one, two, near = ({**p, "model_number": full_code(of)} for p, of in ((one, it), (two, it), (near, other)))
    return ([one, near], [two]) if rng.random() < 0.5 else ([one], [two, near])


def tables(count: int, seed: str, types: list = TYPES_VALID) -> tuple:
    """Two tables of `count` families, and the labelled pairs across them by their places: (left, right, label)."""
    rng = random.Random(seed)
    left, right, pairs = [], [], []
    while len(pairs) < 2 * count:
        of_left, of_right = family(types, rng)
        if not all(listed["title"].strip() for listed in of_left + of_right):
            continue
        pairs += [(len(left) + i, len(right) + j, int(i == j == 0)) for i in range(len(of_left)) for j in range(len(of_right))]
        left, right = left + of_left, right + of_right
    return left, right, pairs
