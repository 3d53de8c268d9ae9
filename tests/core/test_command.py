"""manage.py: what a person can mend is said in one sentence."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from tests.core.conftest import ROOT, environment


@pytest.fixture
def manage(fresh_home):
    """Run a command in a home of its own; status, output, and what was said of errors."""

    def run(*arguments: str, **variables: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env={**environment(fresh_home), **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_command_that_needs_the_database_says_that_up_must_run(manage, fresh_home):
    assert manage("showmigrations") == (
        1,
        "",
        f"runyard: the database of the home {fresh_home.path} does not run; start it by "
        "`./runyard up` in another terminal, and repeat the command while that runs\n",
    )


@pytest.mark.parametrize("command", [["up", "--port", "0"], ["showmigrations"]])
def test_database_that_does_not_answer_is_one_sentence(manage, command):
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]

    status, _, said = manage(
        *command, DATABASE_URL=f"postgres://maya:secret@127.0.0.1:{port}/runyard"
    )

    assert status == 1
    assert said.startswith("runyard: the database of DATABASE_URL is not reached (")
    assert said.endswith("); start it, or correct DATABASE_URL\n")
    assert said.count("\n") == 1
    assert "secret" not in said


@pytest.mark.parametrize("command", ["up", "doctor", "showmigrations"])
@pytest.mark.parametrize(
    "url",
    [
        "maya:secret@host/runyard",
        "postgres://maya:secret@host:port/runyard",
        "mysql://maya:secret@host/runyard",
    ],
)
def test_malformed_database_url_is_one_sentence(manage, command, url):
    assert manage(command, DATABASE_URL=url) == (
        1,
        "",
        "runyard: DATABASE_URL is no address of a PostgreSQL database; write it as "
        "postgres://user:password@host:5432/name, other characters than letters and digits in the "
        "password as %40 and the like\n",
    )


@pytest.mark.parametrize("command", ["up", "demo", "doctor"])
def test_usage_names_the_command_as_people_type_it(manage, command):
    status, out, _ = manage(command, "--help")

    assert status == 0
    assert out.startswith(f"usage: ./runyard {command} [-h]")


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [("RUNYARD_RETENTION_DAYS", "-1", 0), ("RUNYARD_WORKER_SLOTS", "many", 1)],
)
def test_setting_that_is_no_number_is_named(manage, name, value, least):
    status, _, said = manage("prune", "--dry-run", **{name: value})

    assert (status, said) == (
        1,
        f"runyard: {name} is {value!r}; it takes a whole number from {least} up\n",
    )
