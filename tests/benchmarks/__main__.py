"""`python -m tests.benchmarks NAME [--json]`: one measurement, its bound in the same run.

`python -m tests.benchmarks all --markdown`: all of them, as the README's table.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from tests.benchmarks.summary import table

BENCHMARKS = {
    "one_to_one": "1 GiB from one daemon to another, beside a bare TLS copy and curl",
    "lane": "lanes alone, two processes, beside a bare TLS copy",
    "ingest": "making 1 GiB shareable, beside hashing and cutting alone and libtorrent",
    "update": "bytes that a second version costs",
    "small_files": "20,000 small files beside one large file",
    "many": "commands to a daemon that seeds 200 releases to 100 peers",
    "random_range": "random mebibytes of a remote gibibyte",
    "flash_crowd": "8 peers and 1 or 3 seeds on shaped links, beside libtorrent; needs root",
    "limit": "a limit of 1 MB/s over every 2 s, and lifting it; needs root",
    "scale": "100,000 small files, and 2 TB of which the names are generated",
    "idle": "memory and processor time of a daemon that seeds and waits",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "name",
        choices=[*BENCHMARKS, "all"],
        help="; ".join(f"{name}: {what}" for name, what in BENCHMARKS.items()),
    )
    parser.add_argument("--markdown", action="store_true", help="of all: a table")
    parser.add_argument("--json", action="store_true", help="one line of JSON on stdout")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each variant, in turn (3)")
    parser.add_argument(
        "--folder", type=Path, help="where the files lie (the system's temporary folder)"
    )
    crowd = parser.add_argument_group("flash_crowd")
    crowd.add_argument("--seeds", type=int, choices=(1, 3), help="peers that hold everything (1)")
    crowd.add_argument("--free-rider", action="store_true", help="one peer never uploads")
    arguments = parser.parse_args()
    if (arguments.name == "all") != arguments.markdown:
        parser.error("--markdown is how `all` answers")
    if arguments.markdown:
        for line in table(arguments.folder, arguments.rounds):
            print(line, flush=True)
        return 0
    wishes = {"seeds": arguments.seeds, "free_rider": arguments.free_rider or None}
    options = {name: wish for name, wish in wishes.items() if wish is not None}
    if options and arguments.name != "flash_crowd":
        parser.error("--seeds and --free-rider are of flash_crowd")
    module = importlib.import_module(f"tests.benchmarks.{arguments.name}")
    result = module.run(arguments.folder, arguments.rounds, **options)
    if arguments.json:
        print(json.dumps(result, default=str))
    else:
        for name, value in result.items():
            print(f"{name:28} {value:.3f}" if isinstance(value, float) else f"{name:28} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
