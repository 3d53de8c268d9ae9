"""./runyard chaos: do harm to a machine of its own for a while, then see that nothing was lost.

    ./runyard chaos --minutes 20 --seed 1 --report report.md --json report.json

Exit status: 0 all invariants held, 1 one was violated, 2 it could not be brought up. What is
done and what is asked: docs/chaos.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent.parent

if TYPE_CHECKING:
    from tests.chaos.faults import Harm
    from tests.chaos.machine import Machine
    from tests.chaos.oracle import Verdict
    from tests.chaos.work import People
    from tests.mail import MailServer

#: Between two faults, on the average.
PAUSE_SECONDS = 2.0
#: After the harm: with nothing happening for so long, what is not over stands still.
STILL_SECONDS = 90


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="./runyard chaos", description="Do harm for a while, then see that nothing was lost."
    )
    made.add_argument("--minutes", type=float, default=5, metavar="N", help="of harm (5)")
    made.add_argument("--seed", default="1", metavar="S", help="of every chance taken (1)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    made.add_argument("--report", type=Path, metavar="FILE", help="write it as Markdown")
    made.add_argument("--workers", type=int, default=3, metavar="N", help="worker processes (3)")
    made.add_argument("--lease", type=int, default=10, metavar="SECONDS", help="(10)")
    made.add_argument(
        "--only", action="append", default=[], metavar="WORDS",
        help="only faults whose name has these words; may be repeated",
    )  # fmt: skip
    made.add_argument(
        "--broken", choices=["fence", "claim"], default="",
        help="break the product first, to see that the oracle finds it: a finish is accepted "
        "whatever its attempt; a node is run because a message led to it",
    )  # fmt: skip
    made.add_argument("--keep", action="store_true", help="keep the folder of the run")
    return made


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    if options.workers < 2 or options.lease < 4 or options.minutes <= 0:
        parser().error("it takes 2 workers, a lease of 4 seconds and some minutes at the least")

    folder = Path(tempfile.mkdtemp(prefix="runyard-chaos-"))
    for name in [name for name in os.environ if name.startswith("RUNYARD_")]:
        del os.environ[name]
    for name in ("DATABASE_URL", "BROKER_URL"):
        os.environ.pop(name, None)
    os.environ |= {
        "RUNYARD_HOME": str(folder / "home"),
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "RUNYARD_LOG_LEVEL": "CRITICAL",  # of this process: it, too, loses its servers
    }
    os.umask(0o022)
    from tests.mail import MailServer

    mail = MailServer()
    os.environ |= {
        "RUNYARD_SMTP_HOST": "127.0.0.1",
        "RUNYARD_SMTP_PORT": str(mail.port),
        "RUNYARD_SMTP_SECURITY": "none",
        "RUNYARD_MAIL_FROM": "runyard@example.org",
        "RUNYARD_MAIL_PER_HOUR": "1000000",  # each by itself, so that each can be asked for
    }
    try:
        report = go(folder, options, mail)
    finally:
        mail.stop()
        if options.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    text = markdown(report)
    if options.report:
        options.report.write_text(text)
    print(text)
    return 1 if report["violations"] else 0


def go(folder: Path, options: argparse.Namespace, mail: MailServer) -> dict[str, Any]:
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connections

    import config.celery  # noqa: F401 -- the app that rings
    from apps.core.home import Home
    from tests.chaos.faults import KINDS, Harm
    from tests.chaos.machine import machine
    from tests.chaos.oracle import Verdict, Watcher, all_over, judge
    from tests.chaos.work import People, Works

    kinds = {
        name: weight
        for name, (_, weight) in KINDS.items()
        if not options.only or any(words in name for words in options.only)
    }
    if not kinds:
        sys.exit(f"no fault has a name with {options.only}; they are: {', '.join(KINDS)}")
    began = datetime.now(UTC)
    verdict = Verdict()
    home = Home(folder / "home")
    with machine(folder, home, lease_seconds=options.lease, slots=6, broken=options.broken) as made:
        call_command("migrate", verbosity=0, interactive=False)
        if options.broken == "fence":
            without_a_fence()
        works = Works(folder, options.seed)
        made.lay_processes(options.workers, 2, web=True)
        for process in made.processes:
            process.start()
        until_ready(made)
        people = People(works, options.seed, made.address)
        watcher = Watcher(made, verdict)
        harm = Harm(made, random.Random(f"{options.seed}/faults"))  # noqa: S311
        if not made.faketime:
            kinds = {name: weight for name, weight in kinds.items() if "clock" not in name}
        works.turn_on()
        people.start()
        watcher.start()
        loop(harm, kinds, options.minutes * 60, verdict, until_found=bool(options.broken))
        people.leave()
        say("harm is over; healing")
        harm.heal()
        made.heal()
        end_schedules(people)
        if not options.broken:
            until_still(harm, people, verdict)
            all_over(people.launched, verdict)
        watcher.leave()
        for _ in range(2):
            from apps.runs.services.sweep import tick

            tick()
        stuck = made.end_processes()
        verdict.hold("I9", not stuck, f"had to be killed after SIGTERM: {', '.join(stuck)}")
        until_gone(made)
        say("judging")
        found = judge(made, works, people, mail, verdict)
        for failed in people.failed:
            verdict.broken("I10", f"a person met with: {failed}")
        jobs = jobs_as_faults()
        connections.close_all()
        if options.keep:
            print(dict(people.late))
        if options.keep or verdict.violations:
            keep_evidence(made, folder, options)
    return report_of(options, began, harm, jobs, found, people, verdict)


def say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)


def until_ready(made: Machine) -> None:
    patience = time.monotonic() + 120
    while not all(worker.is_ready() for worker in made.workers):
        dead = [each.name for each in made.processes if not each.is_alive()]
        if dead or time.monotonic() > patience:
            for name in dead:
                print((made.folder / f"{name}.out").read_text(errors="replace")[-3000:])
            print(f"cannot be brought up: {', '.join(dead) or 'no worker is ready'}")
            sys.exit(2)
        time.sleep(0.1)


def loop(
    harm: Harm, kinds: dict[str, int], seconds: float, verdict: Verdict, *, until_found: bool
) -> None:
    """Inject faults by chance until the time is over; say every now and then how it goes.

    `until_found`: it ends at the first violation.
    """
    from django.db import OperationalError, connection

    from apps.runs.models import NodeRun, Run

    start = time.monotonic()
    following, told = start + 2, start
    while (now := time.monotonic()) < start + seconds:
        if until_found and verdict.violations:
            return
        harm.look()
        if now >= following:
            name = harm.random.choices(list(kinds), list(kinds.values()))[0]
            harm.inject(name)
            if time.monotonic() > now + 10:
                say(f"{name}: took {time.monotonic() - now:.0f} s to inject")
            following = now + harm.random.expovariate(1 / PAUSE_SECONDS)
        revive(harm, verdict)
        if now >= told + 15:
            told = now
            try:
                nodes = NodeRun.objects.filter(ended_at__isnull=False).count()
                runs = Run.objects.filter(ended_at__isnull=False).count()
                at = f"{runs} runs and {nodes} nodes over"
            except OperationalError:
                connection.close()
                at = "no database at this moment"
            say(
                f"{(now - start) / 60:.1f} of {seconds / 60:.1f} min: "
                f"{sum(harm.done.values())} faults, {at}, {len(verdict.violations)} violations"
            )
        time.sleep(0.05)


def revive(harm: Harm, verdict: Verdict) -> None:
    """A process that ends without a fault that had it in hand is one that fell over."""
    for process in harm.machine.processes:
        if not process.in_hand and not process.is_alive():
            status = process.popen.poll() if process.popen else None
            end = process.said.read_text(errors="replace")[-1500:]
            if process in harm.machine.beats and "django.db.utils.OperationalError" in end:
                harm.gone["beats that found no database, and were started again"] += 1
                process.start()
                continue
            verdict.broken("I10", f"{process.name} ended by itself ({status}):\n{end}")
            process.start()


def end_schedules(people: People) -> None:
    """Turn them off, once nothing holds them: what fell due before still gets its run."""
    from django.db import OperationalError, connection

    from apps.core.errors import Conflict

    patience = time.monotonic() + 60
    while True:
        try:
            people.resume_all()
            people.works.turn_off()
            return
        except (OperationalError, Conflict):
            connection.close()
            if time.monotonic() > patience:
                raise
            time.sleep(0.2)


def until_still(harm: Harm, people: People, verdict: Verdict) -> None:
    """Wait for every run's end, for as long as anything happens."""
    from django.db import OperationalError, connection

    from apps.core.errors import Conflict
    from apps.notifications.models import Delivery
    from apps.runs.models import Backfill, NodeRun, Run, RunEvent

    last: object = None
    since = time.monotonic()
    while True:
        revive(harm, verdict)
        try:
            people.resume_all()
            left = (
                Run.objects.filter(ended_at=None).exists()
                or Backfill.objects.filter(ended_at=None).exists()
                or Delivery.objects.filter(status="waiting").exists()
            )
            now = (RunEvent.objects.count(), people.works.journal.stat().st_size)
        except (OperationalError, Conflict):
            connection.close()
            continue
        if not left:
            return
        if now != last:
            last, since = now, time.monotonic()
        if time.monotonic() > since + STILL_SECONDS:
            break
        time.sleep(0.5)
    verdict.asked("I3")
    for node in NodeRun.objects.filter(run__ended_at=None).exclude(state="succeeded")[:50]:
        verdict.broken(
            "I3",
            f"{node} ({node.pk}) stands still: {node.state}, need {node.need}, attempt "
            f"{node.attempt}, worker {node.worker!r}, lease {node.lease_until}, stop "
            f"{node.stop!r}, reason {node.reason!r}; its run: hold {node.run.hold!r}, active "
            f"{node.run.active}, open {node.run.open}, limit {node.run.parallelism}",
        )


def until_gone(made: Machine) -> None:
    """A job's processes may need a moment to be reaped; those that stay are found right after."""
    patience = time.monotonic() + 20
    while made.leftovers() and time.monotonic() < patience:
        time.sleep(0.2)


def without_a_fence() -> None:
    """Break the finish: accept it whatever its attempt."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = 'runyard_finish'"
        )
        [whole] = cursor.fetchone()
        fence = "WHERE id = p_node AND attempt = p_attempt AND state = 'running'"
        if whole.count(fence) != 1:
            sys.exit("runyard_finish has another fence than the one to be broken here")
        cursor.execute(whole.replace(fence, "WHERE id = p_node"))


def jobs_as_faults() -> dict[str, int]:
    """Attempts of jobs that are faults themselves."""
    from apps.runs.models import Attempt
    from tests.chaos.work import AS_FAULTS

    attempts = Attempt.objects.values_list("node_run__job_version__job__path", flat=True)
    counted = Counter(path.replace("_", " ") for path in attempts)
    return {AS_FAULTS[name]: times for name, times in counted.items() if name in AS_FAULTS}


def keep_evidence(made: Machine, folder: Path, options: argparse.Namespace) -> None:
    """The journal, what each process said and the engine's tables, beside the report."""
    place = Path(tempfile.mkdtemp(prefix="runyard-chaos-evidence-"))
    for file in [*folder.glob("*.out"), folder / "journal"]:
        shutil.copy(file, place)
    from django.db import connection

    with connection.cursor() as cursor:
        for table in (
            *("runs_run", "runs_noderun", "runs_attempt", "runs_runevent", "runs_schedulepoint"),
            *("runs_backfill", "runs_backfillcycle", "notifications_delivery"),
        ):
            cursor.execute(f"SELECT row_to_json(t)::text FROM {table} t ORDER BY id")  # noqa: S608
            rows = "\n".join(row for (row,) in cursor.fetchall())
            (place / f"{table}.jsonl").write_text(rows + "\n")
    print(f"evidence: {place}")


# --- the report -------------------------------------------------------------------------------


def report_of(
    options: argparse.Namespace,
    began: datetime,
    harm: Harm,
    jobs: dict[str, int],
    found: Counter[str],
    people: People,
    verdict: Verdict,
) -> dict[str, Any]:
    from tests.chaos.faults import KINDS, NOT_DONE
    from tests.chaos.oracle import INVARIANTS

    faults = +harm.done
    not_done = dict(NOT_DONE)
    if not harm.machine.faketime:
        not_done["clocks that are off (H1, H2)"] = "libfaketime is not installed here"
    if not options.only:
        for name in KINDS:
            if not faults[name] and (harm.machine.faketime or "clock" not in name):
                not_done[name] = "did not come up by this seed in this time"
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    return {
        "began": began.isoformat(timespec="seconds"),
        "minutes": options.minutes,
        "seed": options.seed,
        "broken": options.broken,
        "commit": commit(),
        "machine": f"{platform.platform()}, {os.cpu_count()} cores, load in the end {load}",
        "workers": options.workers,
        "lease_seconds": options.lease,
        "faults": dict(sorted(faults.items())),
        "jobs": dict(sorted(jobs.items())),
        "people": dict(sorted(people.did.items())),
        "found": dict(sorted((found + harm.gone).items())),
        "checks": {name: verdict.checks[name] for name in INVARIANTS},
        "invariants": INVARIANTS,
        "not_done": not_done,
        "violations": [{"invariant": name, "evidence": text} for name, text in verdict.violations],
    }


def commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


def markdown(report: dict[str, Any]) -> str:
    found, broken = report["found"], Counter(v["invariant"] for v in report["violations"])
    lines = [
        f"# Chaos, seed {report['seed']}, {report['minutes']:g} minutes",
        "",
        f"Began {report['began']} at {report['commit']}, on {report['machine']}. "
        f"{report['workers']} workers, 2 beats, 1 web process, a lease of "
        f"{report['lease_seconds']} s.",
        "",
        f"**{sum(report['faults'].values())} faults and {sum(report['jobs'].values())} attempts of "
        f"jobs that do harm, {found.get('runs', 0)} runs, "
        f"{found.get('nodes', 0)} nodes, {found.get('attempts', 0)} attempts, "
        f"{sum(report['checks'].values())} checks, {len(report['violations'])} violations.**",
        "",
        *([f"The product was broken on purpose: {report['broken']}.", ""] * bool(report["broken"])),
        "| Invariant | Checks | Violations |",
        "|---|---:|---:|",
    ]
    for name, text in report["invariants"].items():
        lines.append(f"| {name} {text} | {report['checks'][name]} | {broken[name]} |")
    parts = {
        "Fault": "faults",
        "Attempts of jobs that do harm": "jobs",
        "What people did": "people",
        "What there was": "found",
    }
    for title, part in parts.items():
        lines += ["", f"| {title} | Times |", "|---|---:|"]
        lines += [f"| {name} | {times} |" for name, times in report[part].items()]
    lines += ["", "| Not done | Why |", "|---|---|"]
    lines += [f"| {name} | {why} |" for name, why in report["not_done"].items()]
    lines += ["", "## Violations", ""]
    lines += [f"- {v['invariant']}: {v['evidence']}" for v in report["violations"]] or ["None."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        # Under nohup: a child would inherit that, and beat is ended by SIGHUP.
        signal.signal(signal.SIGHUP, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
