"""A run under way, shown in a terminal; as plain lines where the output is none."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta

from django.utils import timezone
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from apps.engine.states import ENDED, RUN_ENDED, NodeState
from apps.runs.logs import log_of
from apps.runs.models import NodeRun, Run

LOOK_SECONDS = 0.25
#: While nothing changes and nothing runs, say so this often.
STALLED_SECONDS = 30.0

#: State -> (sign, colour): the colours of the console, and a sign for those who see none.
LOOKS = {
    NodeState.PENDING: ("○", "magenta"),
    NodeState.QUEUED: ("◔", "magenta"),
    NodeState.RUNNING: ("●", "blue"),
    NodeState.RETRYING: ("↻", "yellow"),
    NodeState.SUCCEEDED: ("✔", "green"),
    NodeState.FAILED: ("✘", "red"),
    NodeState.STOPPED: ("■", "red"),
    NodeState.CANCELLED: ("■", "red"),
}


@dataclass(frozen=True)
class Standing:
    """Where a node stands, as one line of the display says it."""

    key: str
    state: NodeState
    attempt: int
    #: Of the last attempt; None before the first.
    ran: timedelta | None
    #: Why it stands there, or the last line of its log while it runs.
    said: str

    @property
    def words(self) -> str:
        """The state, for one who reads no colours: `succeeded after 6.1 s (attempt 2)`."""
        again = f" (attempt {self.attempt})" if self.attempt > 1 else ""
        if self.state in ENDED and self.ran is not None:
            return f"{self.state} after {self.ran.total_seconds():.1f} s{again}"
        return f"{self.state}{again}"


def follow(run: Run, console: Console) -> Run:
    """Show the run until it has ended, and return it as it then is."""
    began = time.monotonic()
    if not console.is_terminal:
        return _follow_plainly(run, console, began)
    with Live(console=console, refresh_per_second=8) as live:
        while True:
            run = Run.objects.get(pk=run.pk)
            live.update(_display(_standings(run), time.monotonic() - began))
            if run.state in RUN_ENDED:
                return run
            time.sleep(LOOK_SECONDS)


def _follow_plainly(run: Run, console: Console, began: float) -> Run:
    last: dict[str, tuple[NodeState, int]] = {}
    moved = began
    while True:
        # The run first: when it has ended, what is read next is how its nodes ended.
        run = Run.objects.get(pk=run.pk)
        now = time.monotonic()
        nodes = _standings(run, with_logs=False)
        for node in nodes:
            stands = (node.state, node.attempt)
            if stands != last.get(node.key):
                if node.state != NodeState.PENDING:
                    _say(console, f"{now - began:7.1f} s  {node.key:<20} {node.words}")
                last[node.key], moved = stands, now
        if run.state in RUN_ENDED:
            return run
        if now - moved > STALLED_SECONDS:
            moved = now
            for node in nodes:
                if node.state not in (NodeState.PENDING, *ENDED):
                    why = f": {node.said}" if node.said else ""
                    _say(console, f"{now - began:7.1f} s  {node.key:<20} still {node.state}{why}")
        time.sleep(LOOK_SECONDS)


def _standings(run: Run, *, with_logs: bool = True) -> list[Standing]:
    now = timezone.now()
    standings = []
    for node in NodeRun.objects.filter(run=run).order_by("pk"):
        state = NodeState(node.state)
        ran = None
        if node.started_at is not None:
            ran = max((node.ended_at or now) - node.started_at, timedelta())
        said = node.reason
        if state is NodeState.RUNNING and with_logs:
            said = _last_line(run, node)
        standings.append(Standing(node.key, state, node.attempt, ran, said))
    return standings


def _last_line(run: Run, node: NodeRun) -> str:
    """What the log ends with. A log is anyone's text: nothing of it may steer the terminal."""
    tail = log_of(run.pk, node.pk, node.attempt).tail(2048).data.decode(errors="replace")
    lines = ("".join(filter(str.isprintable, line)).strip() for line in tail.splitlines()[::-1])
    return next(filter(None, lines), "")


def _display(nodes: list[Standing], seconds: float) -> Group:
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for node in nodes:
        sign, colour = LOOKS[node.state]
        table.add_row(
            Text(sign, colour),
            Text(node.key),
            Text(str(node.state), colour),
            Text(f"{node.ran.total_seconds():.1f} s" if node.ran else "", "bold"),
            Text(node.said, "dim"),
        )
    done = sum(node.state is NodeState.SUCCEEDED for node in nodes)
    foot = Table.grid(padding=(0, 2))
    foot.add_row(
        ProgressBar(total=len(nodes), completed=done, width=40),
        Text(f"{done} of {len(nodes)} nodes"),
        Text(f"{seconds:.0f} s", "bold"),
    )
    return Group(table, foot)


def _say(console: Console, line: str) -> None:
    console.print(Text(line), soft_wrap=True)
