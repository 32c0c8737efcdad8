"""python -m simulations SCENARIO --peers N --seed S [--json] [--plot FILE.svg]"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path

from p2phub.proto.limits import MIB
from simulations.plot import svg
from simulations.scenarios import MBIT, SCENARIOS, Setting, played, report_of


def main(arguments: list[str] | None = None) -> int:
    """Run one scenario and print what came out of it."""
    parser = argparse.ArgumentParser(prog="python -m simulations", description=__doc__)
    parser.add_argument("scenario", choices=sorted(SCENARIOS))
    parser.add_argument("--peers", type=int, default=8, help="peers that download")
    parser.add_argument("--seeds", type=int, default=1, help="peers that hold everything")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    parser.add_argument("--size-mib", type=int, default=64)
    parser.add_argument("--chunk-kib", type=int, default=256)
    parser.add_argument("--span-kib", type=int, help="as the daemon cuts them if not given")
    parser.add_argument("--up-mbit", type=int, default=100)
    parser.add_argument("--down-mbit", type=int, default=400)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the curves")
    chosen = parser.parse_args(arguments)
    setting = Setting(
        peers_count=chosen.peers,
        seeds_count=chosen.seeds,
        seed=chosen.seed,
        size_bytes=chosen.size_mib * MIB,
        chunk_bytes=chosen.chunk_kib * 1024,
        span_bytes=chosen.span_kib and chosen.span_kib * 1024,
        up_bytes_per_s=chosen.up_mbit * MBIT,
        down_bytes_per_s=chosen.down_mbit * MBIT,
    )
    world = played(chosen.scenario, setting)
    facts = report_of(chosen.scenario, world)
    if chosen.plot is not None:
        chosen.plot.write_text(svg(facts, world.samples))
    report = asdict(facts)
    if chosen.json:
        print(json.dumps(report))
    else:
        for name, value in report.items():
            print(f"{name:20} {value:.4g}" if isinstance(value, float) else f"{name:20} {value}")
    return 0


def start_again_with_huge_pages() -> None:
    """Replace this process by one whose objects lie in huge pages, where the C library gives them.

    A crowd's objects lie all over hundreds of MB: with pages of 4 KiB half of the time is spent on
    finding pages, on a virtual machine.
    """
    settings = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    if platform.libc_ver()[0] == "glibc" and not settings.keys() & os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | settings)


if __name__ == "__main__":
    start_again_with_huge_pages()
    sys.exit(main())
