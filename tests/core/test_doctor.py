from __future__ import annotations

import re
import socket
import subprocess
import sys

from apps.core.home import Home
from apps.core.management.commands.doctor import JAVA_MEND
from tests.core.conftest import ROOT, environment, processes_of

#: What a machine has or has not, and what is well either way.
MACHINE = {"Java", "Spark", "jobs"}


def run_doctor(home: Home, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", "doctor", *arguments],
        cwd=ROOT,
        env={**environment(home), **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


def doctor(home: Home, *arguments: str, **variables: str) -> tuple[int, dict[str, str]]:
    """Its exit status, and what it found: {thing: level}."""
    done = run_doctor(home, *arguments, **variables)
    assert done.stderr == ""
    lines = re.findall(r"^(ok|warn|fail) +(\S+)", done.stdout, re.MULTILINE)
    assert {what for _, what in lines} >= MACHINE
    return done.returncode, {what: level for level, what in lines if what not in MACHINE}


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return str(one.getsockname()[1])


def test_doctor_finds_a_fresh_home_well_and_leaves_nothing_running(fresh_home):
    assert doctor(fresh_home, "--port", free_port()) == (
        0,
        dict.fromkeys(
            [
                *("Python", "checkout", "home", "disk", "servers"),
                *("database", "tables", "clock", "broker", "mail", "address"),
            ],
            "ok",
        ),
    )
    assert processes_of(fresh_home) == {}


def test_doctor_fails_for_servers_that_do_not_answer_and_a_taken_port(fresh_home):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = free_port()
        status, found = doctor(
            fresh_home,
            "--port",
            str(taken.getsockname()[1]),
            DATABASE_URL=f"postgres://somebody@127.0.0.1:{nobody}/runyard",
            BROKER_URL=f"redis://127.0.0.1:{nobody}/0",
        )

    assert status == 1
    assert {what for what, level in found.items() if level == "fail"} == {
        "database",
        "broker",
        "address",
    }


def test_doctor_sees_the_running_home(up, fresh_home):
    it = up().ready()
    port = it.address.rpartition(":")[2]

    status, found = doctor(fresh_home, "--port", port)

    assert (status, set(found.values())) == (0, {"ok"})


def test_each_fault_says_how_to_mend_it(tmp_path):
    nowhere = tmp_path / "nowhere"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_doctor(
            Home(tmp_path / "home"), "--port", port, RUNYARD_JAVA=str(nowhere), PATH="/usr/bin"
        )

    java = re.search(r"^warn +Java .*\n +to mend it: (.*)$", done.stdout, re.MULTILINE)
    assert java is not None, done.stdout
    assert java[1] == JAVA_MEND
    assert "see the sentence" not in done.stdout
    assert done.stdout.endswith(
        "choose another one with --host and --port, or RUNYARD_HOST and RUNYARD_PORT\n"
    )
