#!/usr/bin/env python3
"""Computes docs/COST.md, what labels cost, from the figures below.

`python3 scripts/cost.py` writes the page; with `--check`, as `make test` calls it, it fails where
the page is another one. Every figure stands here once, with its source; what was measured is read
from docs/BENCHMARKS.md, so that a newer measurement there asks for a newer page.
"""

import re
import sys
from dataclasses import dataclass
from math import ceil
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "COST.md"
HOURS_A_MONTH = 730
MILLION = 1_000_000

# What the fleet is planned for.
PAIRS_PER_SECOND = 8_800
QUERIES_PER_SECOND = 16_000


@dataclass(frozen=True)
class Figure:
    """A number of which others are computed, and where it comes from."""

    value: float
    what: str
    source: str


@dataclass(frozen=True)
class Machine:
    """An instance type: dollars an hour, and rows a second while it is busy."""

    name: str
    dollars_an_hour: float
    pairs_per_second: float
    queries_per_second: float


def benchmark(row: str, column: int) -> float:
    """The number in a column, counted from 0, of the one row of docs/BENCHMARKS.md that begins so."""
    rows = [line for line in (DOCS / "BENCHMARKS.md").read_text(encoding="utf-8").splitlines() if line.startswith(f"| {row}")]
    if len(rows) != 1:
        sys.exit(f"docs/BENCHMARKS.md has {len(rows)} rows that begin with {row!r}; scripts/cost.py reads one")
    return float(re.sub("[^0-9.]", "", rows[0].split("|")[column + 1]))


MEASURED = "2026-11-24, 2 cores, AMD EPYC with AVX512-BF16"
LISTED = "us-east-1, on demand, Linux: aws.amazon.com/ec2/pricing/on-demand"

CHIP_PAIRS = Figure(1_181, "sequences/s of one Inferentia chip: BERT-base, 128 tokens, batch 6",
                    "published by AWS for inf1.xlarge; the shipped network has an eighth of that arithmetic; never run here")
CHIP_PAIRS_IN_GRID = Figure(4 * benchmark("chosen for all three, 9", 3), "pairs/s of the same chip, BERT-base as well, in shapes chosen for real pairs instead of 128 tokens each",
                            "docs/BENCHMARKS.md, `catalog-labels evaluate grid`; by the same public figures, never run here")
GPU_PAIRS = Figure(730, "sequences/s of a g4dn.xlarge: BERT-base, 128 tokens",
                   "published by AWS as $0.20 a million at $0.526 an hour (Machine Learning Blog, BERT inference on G4); never run here")
SHORT_ROWS = Figure(8, "queries for each sequence of 128 tokens on inf1 and g4dn",
                    "assumed: a bucket of 8 tokens has a sixteenth of the tokens, and half of that gain is counted")
CORE_PAIRS = Figure(benchmark("`bf16` (packed, see", 1), "pairs/s of one core, the shipped network in bf16",
                    f"docs/BENCHMARKS.md, the packed network on Amazon-Google; {MEASURED}")
CORE_QUERIES = Figure(10, "queries for each pair, by CPU time",
                      "`time catalog-labels evaluate pairs --no-cascade` (300 of Abt-Buy: 17.5 s) and `evaluate queries --no-cascade` (1,000: 5.6 s), "
                      f"`--replicas 1`, dev profile, machine busy; {MEASURED}")

SQS_REQUEST = Figure(0.40 / MILLION, "dollars for a request of SQS", "aws.amazon.com/sqs/pricing, us-east-1, standard queues")
WRITE_UNIT = Figure(0.625 / MILLION, "dollars for a write request unit", "aws.amazon.com/dynamodb/pricing/on-demand, us-east-1, since November 2024")
READ_UNIT = Figure(0.125 / MILLION, "dollars for a read request unit", WRITE_UNIT.source)

REQUESTS = Figure(0.35, "requests of SQS an event",
                  "at most 0.25 to consume it (tests/tests/cost.rs holds that), and a tenth to send it in batches of ten")
CATALOG = "100,000 | shipped |"
NEW_WRITES = Figure(benchmark(CATALOG, 7), "write units of an event that brings a new text, in a catalog of 100,000 products, with the shipped key epoch",
                    "docs/BENCHMARKS.md, `make bench-store`; 2026-11-25, 2 cores, Intel Xeon with AVX512-BF16 and AMX")
NEW_READS = Figure(benchmark(CATALOG, 6), "read units of such an event", NEW_WRITES.source)
CANDIDATES = Figure(benchmark(CATALOG, 3), "candidate pairs of such an event", NEW_WRITES.source)
FEW_WRITES = Figure(12.1, "write units of an event in the sample catalog, where products have few look-alikes",
                    f"`catalog-labels demo`, which prints it; {MEASURED}")
FEW_READS = Figure(12.4, "read units of such an event", FEW_WRITES.source)
FEW_CANDIDATES = Figure(661 / 356, "pairs scored for such an event", FEW_WRITES.source)
KEPT_WRITES = Figure(2, "write units of an event that changes no text", "its state and its marker, an item under 1 KB each time")
KEPT_READS = Figure(1, "read units of such an event", "one look at an item under 4 KB")
QUERY_WRITES = Figure(1, "write units of a new query", "one intent item under 1 KB")
QUERY_READS = Figure(1, "read units of a query", "one look for a live intent")
UNCHANGED = Figure(0.8, "of the events of a catalog change no text (prices, stock)",
                   "assumed; `events_total{outcome=\"unchanged\"}` says it of yours")
CASCADE = Figure(0.43, "of the candidates are left to the encoder by the cascade",
                 "docs/MODELS.md, Abt-Buy, Amazon-Google and Walmart-Amazon together; not measured on the catalog of the other rows")
READ_AGAIN = Figure(0.025, "of the candidates are read in the other order as well, by all layers",
                    "docs/MODELS.md, blocking's candidates of the three sets, each counting alike")
QUERY_CASCADE = Figure(0.203, "of the queries are left to the network by the first stage for queries",
                       "docs/MODELS.md, the real shopping queries of the validation set; of all of its queries 0.120")
PAIR_EXITS = Figure(0.78, "of the network's layers are run for a pair that the cascade leaves, with the early exit, on cores",
                    "docs/MODELS.md, blocking's candidates: 67% leave after 4 of 6 layers")
QUERY_EXITS = Figure(0.63, "of the network's layers are run for a query that the first stage leaves, with the early exits, on cores",
                     "docs/MODELS.md, the real shopping queries: 3.8 of 6 layers on the mean")
TOKENS = Figure(36, "tokens of a product pair, of the 128 that padding pays for",
                f"mean over the titles of Abt-Buy's 1,916 validation pairs, `catalog-labels tokens`; {MEASURED}")

FIGURES = [CHIP_PAIRS, CHIP_PAIRS_IN_GRID, GPU_PAIRS, SHORT_ROWS, CORE_PAIRS, CORE_QUERIES, SQS_REQUEST, WRITE_UNIT, READ_UNIT, REQUESTS, NEW_WRITES,
           NEW_READS, CANDIDATES, FEW_WRITES, FEW_READS, FEW_CANDIDATES, KEPT_WRITES, KEPT_READS, QUERY_WRITES, QUERY_READS, UNCHANGED, CASCADE, READ_AGAIN, QUERY_CASCADE, PAIR_EXITS,
           QUERY_EXITS, TOKENS]


def on_accelerator(name: str, dollars_an_hour: float, rows: float) -> Machine:
    return Machine(name, dollars_an_hour, rows, rows * SHORT_ROWS.value)


def on_cores(name: str, dollars_an_hour: float, cores: int) -> Machine:
    pairs = cores * CORE_PAIRS.value
    return Machine(name, dollars_an_hour, pairs, pairs * CORE_QUERIES.value)


INF1 = on_accelerator("inf1.xlarge", 0.228, CHIP_PAIRS.value)
MACHINES = [
    INF1,
    on_accelerator("inf1.6xlarge", 1.18, 4 * CHIP_PAIRS.value),
    on_accelerator("g4dn.xlarge", 0.526, GPU_PAIRS.value),
    # A vCPU of c7a is a core of its own.
    on_cores("c7a.xlarge", 0.20528, 4),
    on_cores("c7a.8xlarge", 1.64224, 32),
]


def a_million(machine: Machine, rows_per_second: float) -> float:
    """Dollars for a million rows on a machine that is always busy."""
    return machine.dollars_an_hour / 3_600 / rows_per_second * MILLION


def tables_and_queue(writes: float, reads: float) -> float:
    """Dollars for a million events beside their inference."""
    return (writes * WRITE_UNIT.value + reads * READ_UNIT.value + REQUESTS.value * SQS_REQUEST.value) * MILLION


NEW = tables_and_queue(NEW_WRITES.value, NEW_READS.value)
KEPT = tables_and_queue(KEPT_WRITES.value, KEPT_READS.value)
QUERY = tables_and_queue(QUERY_WRITES.value, QUERY_READS.value)


def money(dollars: float) -> str:
    return f"${dollars:,.0f}" if dollars >= 100 else f"${dollars:,.2f}" if dollars >= 1 else f"${dollars:.3f}"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machines() -> str:
    def cells(machine: Machine, wanted: float, rows: float, beside: float) -> list[str]:
        count = ceil(wanted / rows)
        month = money(count * machine.dollars_an_hour * HOURS_A_MONTH)
        alone = a_million(machine, rows)
        return [f"{rows:,.0f}", money(alone), money(alone + beside), f"{count} for {month}"]

    return table(
        ["machine", "an hour", "pairs/s", "a million pairs", "with tables and queue", f"fleet for {PAIRS_PER_SECOND:,} pairs/s, a month",
         "queries/s", "a million queries", "with tables and queue", f"fleet for {QUERIES_PER_SECOND:,} queries/s, a month"],
        [[m.name, money(m.dollars_an_hour), *cells(m, PAIRS_PER_SECOND, m.pairs_per_second, NEW / CANDIDATES.value),
          *cells(m, QUERIES_PER_SECOND, m.queries_per_second, QUERY)] for m in MACHINES])


def events(machine: Machine = INF1, candidates: float = CANDIDATES.value, writes: float = NEW_WRITES.value,
           reads: float = NEW_READS.value, new_share: float = 1.0, busy: float = 1.0) -> tuple[float, float]:
    """Dollars for a million events of which `new_share` bring a new text: inference, and the rest."""
    inference = new_share * candidates * a_million(machine, machine.pairs_per_second) / busy
    return inference, new_share * tables_and_queue(writes, reads) + (1 - new_share) * KEPT


def event_table(first: str, rows: list[tuple[str, tuple[float, float]]]) -> str:
    plan = sum(rows[0][1])
    return table([first, "inference", "tables and queue", "together", "against the first row"],
                 [[what, money(inference), money(rest), money(inference + rest), f"{(inference + rest) / plan - 1:+.0%}"]
                  for what, (inference, rest) in rows])


def savings() -> str:
    padded = CANDIDATES.value * 128 / TOKENS.value
    cpu, share = MACHINES[3], 1 - UNCHANGED.value
    again = CANDIDATES.value * READ_AGAIN.value
    left = CANDIDATES.value * CASCADE.value * PAIR_EXITS.value + again
    return event_table("a million catalog events on c7a.xlarge", [
        ("every event scored anew, every pair once, padded to 128 tokens", events(cpu, padded)),
        ("pairs packed by their length", events(cpu)),
        ("and the cascade in front of the encoder", events(cpu, CANDIDATES.value * CASCADE.value)),
        ("and those in doubt read in both orders", events(cpu, CANDIDATES.value * CASCADE.value + again)),
        ("and the early exit from it", events(cpu, left)),
        (f"packed, and {UNCHANGED.value:.0%} of the events skipped, which change no text", events(cpu, new_share=share)),
        ("all of it, as it is", events(cpu, left, new_share=share)),
    ])


def of_queries() -> str:
    cpu = MACHINES[3]
    plain = a_million(cpu, cpu.queries_per_second)
    left = QUERY_CASCADE.value * QUERY_EXITS.value
    return (f"Of queries the first stage leaves {QUERY_CASCADE.value:.0%} to the network, which runs {QUERY_EXITS.value:.0%} of its layers for them: "
            f"a million cost {money(plain * left)} of inference on {cpu.name} in place of {money(plain)}.")


def sensitivity() -> str:
    return event_table("a million new texts on inf1.xlarge", [
        ("as planned", events()),
        ("half the candidates, at the same units", events(candidates=CANDIDATES.value / 2)),
        ("products with few look-alikes, as in the sample catalog",
         events(candidates=FEW_CANDIDATES.value, writes=FEW_WRITES.value, reads=FEW_READS.value)),
        ("half the write units", events(writes=NEW_WRITES.value / 2)),
        ("shapes chosen for the pairs' lengths, the cascade in front, and those in doubt read in both orders",
         events(candidates=CANDIDATES.value * (CASCADE.value + READ_AGAIN.value) * CHIP_PAIRS.value / CHIP_PAIRS_IN_GRID.value)),
        ("a fleet that is busy a third of the time", events(busy=1 / 3)),
        ("chips with the shipped network's arithmetic (an eighth)", events(candidates=CANDIDATES.value / 8)),
        ("g4dn.xlarge instead", events(MACHINES[2])),
        ("c7a.xlarge instead", events(MACHINES[3])),
    ])


def page() -> str:
    a_second = PAIRS_PER_SECOND / CANDIDATES.value
    month = a_second * NEW / MILLION * 3_600 * HOURS_A_MONTH
    chips = ceil(PAIRS_PER_SECOND / INF1.pairs_per_second)
    fleet = chips * INF1.dollars_an_hour * HOURS_A_MONTH
    return f"""# Cost

Written by `python3 scripts/cost.py` from the figures at the end, each with its source; `make test` holds the page against it.
Prices are public ones: no bill was ever seen, since nothing of this ran on AWS, and no inf1 or g4dn was at hand. Their rates are
BERT-base's, which has eight times the arithmetic of the shipped network: what they cost here is a ceiling. c7a is the shipped
network, measured on one core of the same kind and taken times the cores, which memory may not keep up with. What an idle day costs is in [DEPLOY.md](DEPLOY.md#an-idle-day).

## A million pairs and a million queries, on machines that are always busy

{machines()}

## Tables and queue cost more

A million events that bring a new text cost {money(NEW)} in DynamoDB and SQS, most of it writes: the postings, one item for each
blocking key, and the label items of both sides of its look-alikes; a million that change none cost {money(KEPT)}, and a million
queries {money(QUERY)}. To score {PAIRS_PER_SECOND:,} pairs/s without a pause takes {a_second:,.0f} new texts a second: {money(month)} a month in tables and queue, beside {money(fleet)} for the
{chips} inf1.xlarge that score them. Where that is the load, provisioned or reserved capacity is the first thing to look at.

## What is saved

{savings()}

{of_queries()}

## What if

{sensitivity()}

## Figures

Machines: {', '.join(f'{m.name} {money(m.dollars_an_hour)}' for m in MACHINES)} an hour; {LISTED}.

{table(["figure", "value"], [[f"{f.what} ({f.source})", f"{f.value:.3g}" if f.value < 1_000 else f"{f.value:,.0f}"] for f in FIGURES])}
"""


def main() -> None:
    if sys.argv[1:] == ["--check"]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
            sys.exit("docs/COST.md is not what scripts/cost.py computes; run python3 scripts/cost.py")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
