"""What each workload is to reach, as data. The bench measures; nothing here fails it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """One figure of a workload and where it should stand."""

    workload: str
    #: The name of the figure, as the workload gives it.
    figure: str
    #: In words, for the table.
    what: str
    most: float | None = None
    least: float | None = None

    @property
    def text(self) -> str:
        return f"≤ {self.most:g}" if self.most is not None else f"≥ {self.least:g}"

    def is_reached_by(self, value: float) -> bool:
        if self.most is not None:
            return value <= self.most
        return self.least is not None and value >= self.least


#: A workload's title, in the order in which they run. W7 fills the database, so it is last.
TITLES = {
    "W1": "a chain of 50 nodes: from a node's end to the next one's start",
    "W2": "1 node → 200 → 1",
    "W3": "from a REST call to the start of the first child",
    "W4": "100 runs of a chain of 3 at once",
    "W5": "365 runs of a chain of 3 by one launch",
    "W6": "at rest",
    "W8": "a chain of 50 while 5,000 other nodes wait",
    "W9": "a random graph of 1,000 nodes and 3,000 edges",
    "SCHEDULES": "100 of 5,000 schedules due in one second, two beats",
    "W7": "the newest 50 runs by REST, 1,000,000 runs in the database",
}

GOALS = (
    Goal("W1", "p50_ratio", "p50 of the hop, in those of bare", most=1.6),
    Goal("W1", "p95_ratio", "p95 of the hop, in those of bare", most=3),
    Goal("W2", "rate_ratio", "nodes a second, in those of bare", least=0.7),
    Goal("W2", "celery_ratio", "nodes a second, in those of Celery", least=1),
    Goal("W3", "p50_ms", "p50, ms", most=15),
    Goal("W3", "p95_ms", "p95, ms", most=40),
    Goal("W4", "rate_ratio", "nodes a second, in those of bare", least=0.6),
    Goal("W4", "celery_ratio", "nodes a second, in those of Celery", least=1),
    Goal("W5", "launch_s", "until all are created, s", most=1),
    Goal("W5", "rate_ratio", "nodes a second, in those of bare", least=0.6),
    Goal("W6", "pss_mb", "memory of all processes (PSS), MB", most=350),
    Goal("W6", "cpu_percent", "time on the processor, % of one core", most=2),
    Goal("W6", "first_page_s", "first start to the first page, s", most=5),
    Goal("W6", "next_page_s", "a later start to the first page, s", most=5),
    Goal("W7", "p95_ms", "p95 of a request, ms", most=20),
    Goal("W7", "requests_per_s", "requests a second of 4 clients", least=200),
    Goal("W8", "p95_ms", "p95 of the hop, ms", most=20),
    Goal("W8", "size_ratio", "p50 of the hop, in those of the chain alone", most=1.25),
    Goal("SCHEDULES", "p95_s", "p95 of the delay from due to the run, s", most=1),
    Goal("W9", "rate_ratio", "nodes a second, in those of bare", least=0.6),
)
