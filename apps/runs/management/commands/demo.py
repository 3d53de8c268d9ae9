from __future__ import annotations

import sys
import time
from argparse import ArgumentParser
from contextlib import ExitStack
from typing import Any

from django.urls import reverse
from django.utils import timezone
from rich.console import Console

from apps.core.command import OwnCommand
from apps.core.errors import ApplicationError
from apps.core.management.commands.up import add_address
from apps.core.up import (
    READY_SECONDS,
    CannotRun,
    RunsAlready,
    ends_on_signal,
    introduction,
    running,
    serve,
)
from apps.engine.states import NodeState, RunState
from apps.runs import sample
from apps.runs.logs import log_of
from apps.runs.models import Attempt, NodeRun, Run
from apps.runs.progress import follow


class Command(OwnCommand):
    help = (
        "Run the sample workflow flight_delays with real Spark, print what it found, and go on "
        "serving. Uses the `up` that runs on this home, if there is one."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_address(parser)
        parser.add_argument(
            "--exit", action="store_true", help="end everything after the run, with its status"
        )

    def handle(self, *, host: str, port: int, exit: bool, **_: Any) -> None:
        # Also what a signal before the end of the run leaves.
        self.succeeded = False
        try:
            with ends_on_signal(), ExitStack() as stack:
                address, is_ours = self._bring_up(stack, host, port)
                self.succeeded = self._run(address)
                if is_ours and not exit:
                    self.stdout.write(f"\nRunyard goes on serving at {address} until Ctrl-C.\n")
                    self.stdout.flush()
                    serve()
        except ApplicationError as error:
            raise CannotRun(str(error)) from error
        if not self.succeeded:
            sys.exit(1)

    def _bring_up(self, stack: ExitStack, host: str, port: int) -> tuple[str, bool]:
        """The address that is served, and whether it is served for as long as `stack` lasts."""
        console = Console()  # says this in a terminal alone
        until = time.monotonic() + READY_SECONDS
        while True:
            try:
                with console.status("Starting the database, the broker, web, worker and beat"):
                    it = stack.enter_context(
                        running(host=host, port=port, workspace=sample.WORKSPACE)
                    )
            except RunsAlready as other:
                if other.address:
                    self.stdout.write(f"Runyard already runs on this home: {other.address}\n")
                    return other.address, False
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)  # it is being started, or ended
            else:
                self.stdout.write(introduction(it, host))
                return it.address, True

    def _run(self, address: str) -> bool:
        """Run the sample and print what came of it; whether it succeeded."""
        version = sample.set_up()
        run = sample.start(version)
        page = address + reverse("runs:run", args=[sample.WORKSPACE, run.pk])
        self.stdout.write(f"Run {run.pk} of {run.name}, version {version.number}: {page}\n")
        self.stdout.flush()
        run = follow(run, Console())
        if run.state == RunState.SUCCEEDED:
            self._print_results(run)
        else:
            self._print_failure(run, address)
        took = (run.ended_at or timezone.now()) - (run.started_at or run.created_at)
        self.stdout.write(f"Run {run.pk} {run.state} after {took.total_seconds():.1f} s: {page}")
        return run.state == RunState.SUCCEEDED

    def _print_results(self, run: Run) -> None:
        carriers = sample.carriers(run)
        width = max(len(carrier.airline) for carrier in carriers)
        lines = [
            "",
            f"Carrier  {'Airline':<{width}}  Flights  Mean arrival delay in minutes",
            *(
                f"{each.code:<7}  {each.airline:<{width}}  {each.flights:>7,}  "
                f"{each.mean_delay:>29.2f}"
                for each in carriers
            ),
            "",
            f"{sample.flights_read(run):,} flights read.",
        ]
        self.stdout.write("\n".join(lines))

    def _print_failure(self, run: Run, address: str) -> None:
        failed = NodeRun.objects.filter(run=run, state=NodeState.FAILED).order_by("ended_at")
        for node in failed:
            attempt = Attempt.objects.filter(node_run=node, number=node.attempt).first()
            # Without an exit code it never started, and the reason is the whole story.
            line = attempt.error_line if attempt and node.exit_code is not None else ""
            log = reverse("runs:log", args=[sample.WORKSPACE, run.pk, node.pk])
            self.stdout.write(
                f"\nNode {node.key} failed: {line or node.reason}\n"
                f"Its log: {address}{log}\n"
                f"         {log_of(run.pk, node.pk, node.attempt).path}\n"
            )
