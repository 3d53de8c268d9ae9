"""What we are measured against: bare `subprocess`, and plain Celery on Valkey."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from signal import SIGTERM
from urllib.parse import quote

from apps.core.embedded import Valkey, running, tethered
from apps.core.home import Home
from tests.bench.children import Late, Stamps

ROOT = Path(__file__).resolve().parent.parent.parent
READY_SECONDS = 60.0


class Bare:
    """A Python loop of `subprocess`, or as many threads of it as a worker has slots."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def chain(self, stamps: Stamps, length: int) -> None:
        for _ in range(length):
            subprocess.run(stamps.command, check=True)

    def fan(self, stamps: Stamps, width: int) -> None:
        self.chain(stamps, 1)
        self.many(stamps, width, 1)
        self.chain(stamps, 1)

    def many(self, stamps: Stamps, chains: int, length: int) -> None:
        """So many chains, each run by one thread."""
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(lambda _: self.chain(stamps, length), range(chains)))

    def graph(self, stamps: Stamps, upstream: Mapping[str, set[str]]) -> None:
        """A graph by threads that count down what waits."""
        need = {node: len(above) for node, above in upstream.items()}
        down: dict[str, list[str]] = {node: [] for node in upstream}
        for node, above in upstream.items():
            for each in above:
                down[each].append(node)
        ready: SimpleQueue[str | None] = SimpleQueue()
        lock = threading.Lock()
        left = len(need)

        def work() -> None:
            nonlocal left
            while (node := ready.get()) is not None:
                self.chain(stamps, 1)
                with lock:
                    left -= 1
                    for below in down[node]:
                        need[below] -= 1
                        if not need[below]:
                            ready.put(below)
                    if not left:
                        for _ in range(self.threads):
                            ready.put(None)

        for node in [node for node, count in need.items() if not count]:
            ready.put(node)
        with ThreadPoolExecutor(self.threads) as pool:
            for each in [pool.submit(work) for _ in range(self.threads)]:
                each.result()


class PlainCelery:
    """Tasks that start the same children, in a worker of as many threads."""

    def chain(self, stamps: Stamps, length: int) -> None:
        from celery import chain

        from tests.bench.plain_celery import child

        chain(*(child.si(stamps.command) for _ in range(length))).apply_async()

    def many(self, stamps: Stamps, chains: int, length: int) -> None:
        for _ in range(chains):
            self.chain(stamps, length)

    def fan(self, stamps: Stamps, width: int) -> None:
        from celery import chain, chord

        from tests.bench.plain_celery import child, counted_child

        middle = [counted_child.si(stamps.command) for _ in range(width)]
        chain(child.si(stamps.command), chord(middle, child.si(stamps.command))).apply_async()


@contextmanager
def plain_celery(folder: Path, threads: int) -> Iterator[PlainCelery]:
    """A Valkey and a Celery worker of their own, for as long as the block lasts."""
    home = Home(folder / "celery")
    home.make()
    valkey = Valkey(home)
    os.environ["BENCH_BROKER"] = f"redis+socket://{quote(str(valkey.socket))}?virtual_host=0"
    said = folder / "celery.log"
    with running(valkey), said.open("wb") as output:
        worker = tethered(
            [
                *(sys.executable, "-m", "celery", "--quiet", "-A", "tests.bench.plain_celery"),
                *("worker", "-P", "threads", "-c", str(threads), "-l", "INFO"),
                *("--without-mingle", "--without-gossip"),
            ],
            SIGTERM,
            output=output,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        try:
            until = time.monotonic() + READY_SECONDS
            while b" ready." not in said.read_bytes():
                if worker.poll() is not None or time.monotonic() > until:
                    raise Late(f"Celery's worker has not started: {said.read_text()}")
                time.sleep(0.05)
            yield PlainCelery()
        finally:
            gc.collect()  # what is left of results says good-bye to Valkey, which must be there
            worker.send_signal(SIGTERM)
            try:
                worker.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
            shutil.rmtree(home.sockets, ignore_errors=True)
