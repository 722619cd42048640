"""What each phase of training draws, and how it trains.

Two phases make the network that ships, both from public weights: `broad` reads all corpora, `targets`
the sets whose labels are cleanest, in smaller batches (intermediate training: Peeters, Bizer, Glavaš
2020), with what the teachers think of each pair. The teachers have two phases of their own; the
second leaves one fold of all products out (folds.py). docs/adr/0027 says why it is so.

`again` goes on from weights that ship, taught by teachers of one set, `specialist`, that two CPU cores
train within the hour; of all other sets its start is the teacher. docs/adr/0039 says why.
"""

from rows import LSPC, NEIGHBOURS, TARGETS, TAUGHT, WDC

# A phase that goes on from weights which its command names.
GIVEN = "given"
# `judges` are the sets whose pairs a teacher is asked about; `catalogue` only in validation.
PHASES = {
    "teacher-broad": {
        "network": "mpnet", "start": None, "batch_tokens": 6144, "learning_rate": 4e-5, "average_decay": 0.99,
        "smoothing": 0.03, "vary_share": 0.15, "taught_share": 0.0,
        # No set that the teachers will judge, so that one first phase does for all folds.
        "epochs": [{**dict.fromkeys(LSPC, 0.7), "catalogue": 8000}] * 2,
    },
    "teacher": {
        "network": "mpnet", "start": "teacher-broad", "batch_tokens": 3072, "learning_rate": 4e-5, "average_decay": 0.998,
        "smoothing": 0.05, "vary_share": 0.15, "taught_share": 0.0, "judges": [*TAUGHT, "catalogue"],
        "epochs": [{**dict.fromkeys(TARGETS, 1), "wdc-products-medium": 1, "wdc-products-small": 0.5,
                    "wdc-products-titles": 0.3, "catalogue": 3000}] * 5,
    },
    "specialist": {
        "network": "mpnet", "start": None, "batch_tokens": 1536, "learning_rate": 4e-5, "average_decay": 0.99,
        "smoothing": 0.05, "vary_share": 0.15, "taught_share": 0.0, "judges": ["amazon-google", "neighbours-amazon-google"],
        "epochs": [{"amazon-google": 1}] * 5,
    },
    "broad": {
        "network": "minilm", "start": None, "batch_tokens": 3072, "learning_rate": 1e-4, "average_decay": 0.999,
        "smoothing": 0.03, "vary_share": 0.15, "taught_share": 0.0,
        "epochs": [{**dict.fromkeys(LSPC, 0.4), **dict.fromkeys(WDC, 1), **dict.fromkeys(TARGETS, 1), "catalogue": 8000,
                    "synthetic": 6000, "intent": 1}] * 3,
    },
    "targets": {
        "network": "minilm", "start": "broad", "batch_tokens": 1536, "learning_rate": 8e-5, "average_decay": 0.998,
        "smoothing": 0.05, "vary_share": 0.2, "taught_share": 0.7, "taught_by": "teacher", "judges": [*TAUGHT, "catalogue"],
        "epochs": [{"abt-buy": 1, "amazon-google": 1, "walmart-amazon": 1, "walmart-amazon-dirty": 0.5,
                    **dict.fromkeys(NEIGHBOURS, 0.5), "wdc-products-medium": 1, "wdc-products-small": 0.5,
                    "catalogue": 5000, "intent": 0.15}] * 8,
    },
    "again": {
        "network": "minilm", "start": GIVEN, "batch_tokens": 1536, "learning_rate": 8e-5, "average_decay": 0.998,
        "smoothing": 0.05, "vary_share": 0.2, "taught_share": 0.7, "taught_by": "specialist",
        "epochs": [{"abt-buy": 1, "amazon-google": 1, "walmart-amazon": 1, "walmart-amazon-dirty": 0.5,
                    "neighbours-amazon-google": 0.5, "wdc-products-medium": 1, "wdc-products-small": 0.5,
                    "catalogue": 5000, "intent": 0.15}] * 4,
    },
}
# Sources of real shopping queries are drawn this much more often than the rest.
INTENT_HARD = {"magnetic": 4, "queryner": 3, "hint3-curekart": 4, "hint3-sofmattress": 4}


def drawn_sets(phase: dict) -> list:
    """Names of the prepared sets that a phase draws from."""
    made = {"catalogue": [], "synthetic": TARGETS + WDC}
    return sorted({source for shares in phase["epochs"] for name in shares for source in made.get(name, [name])})


def taught_name(teachers: str) -> str:
    """The file of what the teachers of a phase say, beside the drawn rows."""
    return f"taught-by-{teachers}.npy"


def run_name(phase: str, fold: int | None) -> str:
    """The folder of a phase's run, below the folder of all runs."""
    return phase if fold is None else f"{phase}-without-{fold}"
