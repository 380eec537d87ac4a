"""Fuzzes one target in a process with little memory and processor time: `python -m tests.fuzz.campaign --help`.

Every input is written down before it is tried, so that it is known also when the kernel ends the process.
"""

import argparse
import logging
import resource
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.corpora import corpus
from tests.fuzz.hostile_tree import KINDS, HostileTree
from tests.fuzz.targets import TARGETS, OneInput

MEMORY = 768 * 1024 * 1024
"""Bytes of address space for everything, the interpreter included."""
SECONDS_EACH = 4
"""Of processor time for one input, in whole seconds (RLIMIT_CPU knows no others). Usual are milliseconds."""
LAST_INPUT = "last-input"
"""The file with the input that is tried now."""


def main() -> None:
    """Returns when nothing was found; any exception, signal or exit status other than 0 is a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--examples", type=int, default=1000, help="how many inputs (1000)")
    parser.add_argument("--every", action="store_true", help="sysfs: spoil each entry in every way, one by one")
    parser.add_argument("--step", type=int, default=1, metavar="N", help="with --every: only each Nth of these")
    parser.add_argument("--report", type=Path, required=True, help=f"directory for {LAST_INPUT}")
    options = parser.parse_args()
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory(prefix="gpu-fuzz-", dir=options.report) as scratch:
        if options.every:
            _spoil_every_entry(HostileTree(Path(scratch)), options.step, options.report / LAST_INPUT)
        else:
            one_input = TARGETS[options.target](Path(scratch))
            _search(bounded(one_input, options.report / LAST_INPUT), options.target, options.examples)


def bounded(one_input: OneInput, report: Path) -> OneInput:
    """The target with the input written down and its processor time limited."""

    def tried(data: bytes) -> None:
        report.write_bytes(data)
        _limit_processor_time()
        one_input(data)

    return tried


def _search(one_input: OneInput, target: str, examples: int) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate, Phase.target, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(_inputs(target))
    def search(data: bytes) -> None:
        one_input(data)

    search()


def _inputs(target: str) -> st.SearchStrategy[bytes]:
    """Anything, and what is kept with parts of it cut out, repeated or replaced."""
    kept = st.sampled_from(sorted(corpus(target).values()))
    mutated = st.builds(_mutated, kept, st.lists(st.tuples(_PLACE, _PLACE, _PIECES), min_size=1, max_size=6))
    return st.one_of(st.binary(max_size=256), mutated)


_PLACE = st.integers(min_value=0, max_value=4095)
_TOKENS = [
    b"",
    b"null",
    b"[",
    b"{",
    b"]",
    b"}",
    b":",
    b"- ",
    b"\n",
    b"\0",
    b'"',
    b"\\u0000",
    b"1e400",
    b"&a",
    b"*a",
]
_REPEATED = [b"[", b"{", b"- ", b"? ", b'{"a":', b"9", b" ", b"a", b"\n"]
_PIECES = st.one_of(
    st.binary(max_size=8),
    st.integers(min_value=-(2**65), max_value=2**65).map(lambda number: str(number).encode()),
    st.text(max_size=6).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from(_TOKENS),
    st.builds(lambda piece, times: piece * times, st.sampled_from(_REPEATED), st.integers(2, 3000)),
)


def _mutated(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for start, length, piece in changes:
        start %= len(data) + 1
        data = data[:start] + piece + data[start + length % 16 :]
    return data


def _spoil_every_entry(tree: HostileTree, step: int, report: Path) -> None:
    for kind in range(KINDS):
        for index, entry in enumerate(tree.entries):
            if (index + kind * (step + 1)) % step == 0:
                report.write_text(f"{entry} becomes kind {kind}\n", errors="surrogateescape")
                _limit_processor_time()
                tree.spoil(entry, kind)


def _limit_processor_time() -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + SECONDS_EACH, most))


if __name__ == "__main__":
    main()
