"""`up` as a person meets it: a real one, with real servers, in a home of its own."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, urlencode
from urllib.request import HTTPCookieProcessor, OpenerDirector, build_opener

import pytest

from apps.core import embedded
from apps.core.embedded import Postgres
from apps.core.home import Home
from tests.core.conftest import ROOT, connect, environment, processes_of
from tests.waiting import until

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]


def status_of(address: str) -> int:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
    connection.request("GET", "/")
    try:
        return connection.getresponse().status
    finally:
        connection.close()


def log_in(browser: OpenerDirector, address: str, password: str) -> str:
    """Log in as admin; the address of the page that came after."""
    with browser.open(f"{address}/login/") as form:
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form.read().decode())
        url = form.url
    assert token
    fields = {"csrfmiddlewaretoken": token[1], "username": "admin", "password": password}
    with browser.open(url, urlencode(fields).encode()) as answer:
        assert "/login" not in answer.url
        return str(answer.url)


def manage(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_up_serves_restarts_what_dies_and_leaves_no_process(up, fresh_home):
    it = up("--workers", "2").ready()
    assert sorted(it.pids()) == ["beat", "postgres", "valkey", "web", "worker-1", "worker-2"]
    assert status_of(it.address) < 400

    # A second one refuses, and says where the first is.
    second = manage(fresh_home, "up", "--port", "0")
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr == (
        f"runyard: Runyard already runs on {fresh_home.path} at {it.address} "
        f"(process {it.process.pid})\n"
    )

    # What is killed comes back; the database with its rows.
    before = it.pids()
    for name in ("web", "worker-1", "valkey", "postgres"):
        os.kill(before[name], signal.SIGKILL)
    until(
        lambda: all(it.pids()[name] != before[name] for name in ("web", "worker-1", "valkey")),
        "the restart",
    )
    until(lambda: status_of(it.address) < 400, "the page")
    until(Postgres(fresh_home).is_ready, "the database")
    with connect(fresh_home) as session:
        users = session.execute("SELECT username, is_superuser FROM workspaces_user").fetchall()
        workspaces = session.execute("SELECT name FROM workspaces_workspace").fetchall()
    assert (users, workspaces) == ([("admin", True)], [("default",)])

    assert it.end(signal.SIGINT) == 0
    assert processes_of(fresh_home) == {}
    assert not fresh_home.sockets.exists()
    assert "does not end" not in it.text

    # The password was told once; the next start knows none.
    assert it.password
    again = up().ready()
    assert again.password == ""
    assert again.end(signal.SIGTERM) == 0
    assert processes_of(fresh_home) == {}


def test_next_up_starts_after_a_killed_one(up, fresh_home):
    killed = up().ready()
    left = killed.pids()
    killed.end(signal.SIGKILL)

    it = up().ready()

    assert set(it.pids()) == set(left)
    assert not set(it.pids().values()) & set(left.values())
    assert it.end() == 0
    assert processes_of(fresh_home) == {}


def test_ctrl_c_while_it_starts_leaves_no_process(up, fresh_home):
    it = up()
    until(lambda: "postgres" in it.pids(), "the first process")

    assert it.end() == 0

    assert processes_of(fresh_home) == {}


def test_under_nohup_a_hangup_ends_nothing_but_a_child_that_it_is_sent_to():
    script = """if True:
        import os, signal, subprocess, sys
        from apps.core.up import ends_on_signal

        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with ends_on_signal():
            os.kill(os.getpid(), signal.SIGHUP)
            child = "import os, signal; os.kill(os.getpid(), signal.SIGHUP)"
            print(subprocess.run([sys.executable, "-c", child]).returncode)
    """

    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)

    assert (done.stdout, done.stderr) == (f"{-signal.SIGHUP}\n", "")


def test_ctrl_c_takes_a_running_job_along_and_hands_its_node_back(up, fresh_home):
    it = up(RUNYARD_STOP_GRACE_SECONDS="1").ready()
    started = manage(
        fresh_home,
        *("shell", "--no-imports", "-c"),
        "from tests.factories import by_hand, published\n"
        "by_hand(published('stubborn', content='trap : TERM; sleep 3600; sleep 3600'))",
    )
    assert (started.returncode, started.stderr) == (0, "")
    until(lambda: "sleep 3600" in str(processes_of(fresh_home)), "the job")

    assert it.end() == 0

    assert processes_of(fresh_home) == {}
    assert "does not end" not in it.text
    # No failure of its own; the next worker runs it again.
    with embedded.servers(fresh_home), connect(fresh_home) as session:
        node = session.execute("SELECT state, failures FROM runs_noderun").fetchone()
    assert node == ("queued", 0)


def test_two_homes_run_side_by_side(up, fresh_home, tmp_path):
    other = Home(tmp_path / "other")

    one, two = up(), up(home=other)
    one.ready(), two.ready()

    assert one.address != two.address
    # A browser sends its cookies to every port of a host.
    browser = build_opener(HTTPCookieProcessor())
    pages = [log_in(browser, each.address, each.password) for each in (one, two)]
    for page in pages:
        with browser.open(page) as answer:
            assert answer.url == page
    assert one.end() == 0
    assert status_of(two.address) < 400


def test_up_runs_on_the_servers_that_urls_name(up, fresh_home, tmp_path):
    theirs = Home(tmp_path / "theirs")
    with embedded.servers(theirs):
        it = up(
            DATABASE_URL=f"postgres://runyard@{quote(str(theirs.sockets), safe='')}/runyard",
            BROKER_URL=f"redis+socket://{theirs.sockets}/valkey.sock",
        ).ready()

        assert sorted(it.pids()) == ["beat", "web", "worker"]
        assert status_of(it.address) < 400
        with connect(theirs) as session:
            assert session.execute("SELECT username FROM workspaces_user").fetchall() == [
                ("admin",)
            ]
        assert it.end() == 0

    assert not fresh_home.database.exists()
    assert processes_of(fresh_home) == {}


def test_taken_port_is_said_before_anything_starts(fresh_home):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = manage(fresh_home, "up", "--port", port)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        f"runyard: cannot listen at 127.0.0.1 port {port} (Address already in use); choose "
        "another one with --host and --port, or RUNYARD_HOST and RUNYARD_PORT\n"
    )
    assert not fresh_home.database.exists()


def test_colon_in_the_homes_path_is_refused_with_the_reason(tmp_path):
    refused = manage(Home(tmp_path / "a:b"), "up", "--port", "0")

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        f"runyard: the home's path has a ':' in it: {tmp_path}/a:b; Java splits its class path "
        "there and no Spark job could start. Set RUNYARD_HOME to a path without one\n"
    )


def test_home_that_cannot_be_written_is_refused_with_the_reason():
    refused = manage(Home(Path("/proc/runyard")), "up", "--port", "0")

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        "runyard: the home folder /proc/runyard cannot be written (No such file or directory); "
        "make it writable, or set RUNYARD_HOME to another folder\n"
    )
