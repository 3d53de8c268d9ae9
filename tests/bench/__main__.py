"""./runyard bench: the workloads beside a bare loop and plain Celery, in a home of its own.

It measures and does not judge: its exit status is 0 however the figures stand.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import time
from argparse import ArgumentParser, ArgumentTypeError
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from tests.bench import report
from tests.bench.children import Late
from tests.bench.goals import TITLES
from tests.bench.installation import installation
from tests.bench.workloads import SMALL, WHOLE, WORKLOADS, Bench, Figures

#: What a worker has by default.
SLOTS = 16


def parser() -> ArgumentParser:
    it = ArgumentParser(prog="./runyard bench", description=__doc__)
    names = ", ".join(sorted(TITLES))
    it.add_argument("--only", type=workloads, default=list(TITLES), help=f"of {names}: W1,W2")
    it.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    it.add_argument(
        "--markdown",
        type=Path,
        metavar="PAGE",
        help=f"put the table into this page, between {report.BEGIN} and {report.END}",
    )
    it.add_argument(
        "--small", action="store_true", help="a little of each: whether it works, not how fast"
    )
    it.add_argument(
        "--folder", type=Path, default="/var/tmp", help="on the disk to measure (%(default)s)"
    )
    return it


def workloads(text: str) -> list[str]:
    wanted = text.upper().split(",")
    if unknown := set(wanted) - set(TITLES):
        raise ArgumentTypeError(f"no such workload: {', '.join(sorted(unknown))}")
    return [name for name in TITLES if name in wanted]


def main(arguments: list[str]) -> int:
    asked = parser().parse_args(arguments)
    size = SMALL if asked.small else WHOLE
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    folder = Path(tempfile.mkdtemp(prefix="runyard-bench-", dir=asked.folder))
    found: dict[str, Figures] = {}
    try:
        where = report.machine(folder)
        with installation(folder, SLOTS) as it, ExitStack() as stack:
            bench = Bench(it, folder, size, stack)
            for name in asked.only:
                print(f"{name}: {TITLES[name]} …", file=sys.stderr, flush=True)
                began = time.monotonic()
                found[name] = WORKLOADS[name](bench)
                print(f"    {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    except Late as error:
        print(f"runyard: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    said = report.as_json(found, size, where)
    table = report.as_markdown(said)
    print(table, end="")
    if asked.json:
        asked.json.write_text(json.dumps(said, indent=1) + "\n")
    if asked.markdown:
        report.put_into(asked.markdown, table)
    return 0


def _end(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
