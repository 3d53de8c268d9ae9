from __future__ import annotations

import os
from argparse import ArgumentParser
from typing import Any

from apps.core.command import OwnCommand
from apps.core.up import CannotRun, ends_on_signal, introduction, running, serve


class Command(OwnCommand):
    help = "Run everything until Ctrl-C: the embedded servers, web, worker and beat."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_address(parser)
        parser.add_argument("--workers", type=int, default=1, metavar="N", help="worker processes")
        parser.add_argument(
            "--queues",
            default="",
            metavar="NAMES",
            help="resource queues that the workers serve: workspace/queue by commas, * for any "
            "part of a name; without it, or RUNYARD_WORKER_QUEUES, every queue",
        )
        parser.add_argument(
            "--spark", action="store_true", help="install Spark too (done by ./runyard before)"
        )

    def handle(self, *, host: str, port: int, workers: int, queues: str, **_: Any) -> None:
        if workers < 1:
            raise CannotRun("--workers takes a number from 1 up")
        with (
            ends_on_signal(),
            running(
                host=host,
                port=port,
                workers=workers,
                queues=queues,
                workspace="default",
                echo=True,
            ) as it,
        ):
            self.stdout.write(introduction(it, host))
            serve()


def add_address(parser: ArgumentParser) -> None:
    """--host and --port, by default as RUNYARD_HOST and RUNYARD_PORT say."""
    parser.add_argument("--host", default=os.environ.get("RUNYARD_HOST") or "127.0.0.1")
    parser.add_argument(
        "--port", type=int, default=os.environ.get("RUNYARD_PORT") or "8080", help="0: any free one"
    )
