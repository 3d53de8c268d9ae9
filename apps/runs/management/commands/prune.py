from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.conf import settings
from django.template.defaultfilters import filesizeformat
from django.utils.timezone import localtime

from apps.core.command import OwnCommand
from apps.runs.services.prune import collect_bytes, doomed, prune


class Command(OwnCommand):
    help = (
        "Remove runs that have been over for long, with their logs and outputs, and stored bytes "
        "that nothing names any more. The beat does the same by itself."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--days",
            type=_days,
            default=settings.RETENTION_DAYS,
            help="how long a run is kept after its end; 0: for ever "
            "(RUNYARD_RETENTION_DAYS: %(default)s)",
        )
        parser.add_argument("--dry-run", action="store_true", help="say what would go")

    def handle(self, *, days: int, dry_run: bool, **_: Any) -> None:
        if not days:
            self.stdout.write("Runs are kept for ever: --days or RUNYARD_RETENTION_DAYS is 0.")
            return
        found = doomed(days=days) if dry_run else prune(days=days)
        verb = "would be removed" if dry_run else "removed"
        size = filesizeformat(found.log_bytes).replace("\xa0", " ")
        self.stdout.write(
            f"{verb}: {found.runs} runs that ended over {days} days ago, with {found.node_runs} "
            f"node runs and {size} of logs"
        )
        if found.oldest is not None:
            self.stdout.write(f"the oldest ended {localtime(found.oldest):%Y-%m-%d %H:%M %Z}")
        if not dry_run:
            self.stdout.write(f"removed: {collect_bytes()} stored files that nothing names")


def _days(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ArgumentTypeError(f"{text!r} is no number of days; write 0, 1, 2 …")
    return int(text)
