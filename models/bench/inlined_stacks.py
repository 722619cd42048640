"""Folds what `perf script` prints, with the functions that the compiler inlined where each sample was taken, which it
leaves out. From standard input to standard output, for inferno-flamegraph; needs `addr2line` and `readelf`.

    perf script --comm replica-0 | python3 models/bench/inlined_stacks.py BINARY > stacks.folded
"""

import collections
import re
import subprocess
import sys

# An address, its function with the offset in it, and the file that has it.
FRAME = re.compile(r"\s+([0-9a-f]+) (.+?)(?:\+0x[0-9a-f]+)? \((.+)\)$")


def samples(lines):
    """The frames of each sample, the innermost first."""
    frames = []
    for line in lines:
        found = FRAME.match(line)
        if found:
            frames.append(found.groups())
        elif not line.strip() and frames:
            yield frames
            frames = []
    if frames:
        yield frames


def said(command: list, given: str = "") -> list:
    return subprocess.run(command, input=given, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


def moved(binary: str) -> int:
    """How much further its code lies in memory than in the file, where `perf` has its addresses."""
    of_code = next(line.split() for line in said(["readelf", "--segments", "--wide", binary]) if " R E " in line)
    return int(of_code[2], 16) - int(of_code[1], 16)


def inlined(addresses: set, binary: str) -> dict:
    """The functions that stand at each address, the innermost first."""
    by = moved(binary)
    asked = "\n".join(f"{int(address, 16) + by:x}" for address in sorted(addresses))
    found, at = {}, None
    for line in said(["addr2line", "--exe", binary, "--functions", "--inlines", "--demangle", "--addresses"], asked):
        if line.startswith("0x"):
            at = found.setdefault(f"{int(line, 16) - by:x}", [])
            names = 0
        else:
            if names % 2 == 0:
                at.append(line)
            names += 1
    return found


def short(name: str) -> str:
    """A function without its crate, its type parameters and the hash of its instance."""
    while re.search(r"<[^<>]*>", name):
        name = re.sub(r"(?:::)?<[^<>]*>", "", name)
    return re.sub(r"::h[0-9a-f]{16}$", "", name).removeprefix("models::").replace(";", "") or "closure"


def main():
    (binary,) = sys.argv[1:]
    of_all = list(samples(sys.stdin))
    names = inlined({frames[0][0] for frames in of_all if frames[0][2] == binary}, binary)
    counts = collections.Counter()
    for frames in of_all:
        (address, own, of), outer = frames[0], [name for _, name, _ in frames[1:] if name != "[unknown]"]
        leaf = names[address] if of == binary else [own]
        counts[";".join(short(name) for name in [*reversed(outer), *reversed(leaf)])] += 1
    for stack, count in sorted(counts.items()):
        print(stack, count)


if __name__ == "__main__":
    main()
