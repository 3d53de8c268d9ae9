from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import psycopg
import pytest
from django.db import connection

from apps.core import embedded
from apps.core.home import Home, HomeError, HomeInUse
from tests.core.conftest import ROOT, connect, processes_of
from tests.waiting import until


@pytest.mark.django_db
def test_tests_run_on_the_embedded_postgresql(home):
    with connection.cursor() as cursor:
        cursor.execute("SHOW data_directory")
        assert cursor.fetchone() == (str(home.database),)


def test_rows_survive_a_killed_postmaster_and_a_restart(fresh_home):
    fresh_home.make()
    with fresh_home.lock(), embedded.running(embedded.Postgres(fresh_home)) as postmaster:
        embedded.Postgres(fresh_home).create_database()
        with connect(fresh_home) as session:
            session.execute("CREATE TABLE kept AS SELECT generate_series(1, 200) AS n")
        postmaster.kill()

    # Its backends may still be ending: the start is tried again until they are gone.
    with embedded.servers(fresh_home), connect(fresh_home) as session:
        assert session.execute("SELECT count(*), sum(n) FROM kept").fetchone() == (200, 20_100)

    assert processes_of(fresh_home) == {}


def test_servers_of_two_homes_do_not_meet(fresh_home, tmp_path):
    other = Home(tmp_path / "other")
    with embedded.servers(fresh_home), embedded.servers(other):
        with connect(fresh_home) as session:
            session.execute("CREATE TABLE mine ()")
        with connect(other) as session:
            assert session.execute("SELECT to_regclass('mine')").fetchone() == (None,)


def test_a_home_has_one_holder(fresh_home):
    with embedded.servers(fresh_home), pytest.raises(HomeInUse), embedded.servers(fresh_home):
        pass


def test_servers_end_with_a_killed_parent(fresh_home):
    script = f"""
        import time
        from pathlib import Path
        from apps.core.embedded import servers
        from apps.core.home import Home
        with servers(Home(Path({str(fresh_home.path)!r}))):
            print("ready", flush=True)
            time.sleep(60)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, stdout=subprocess.PIPE
    )
    with parent:
        assert parent.stdout.readline() == b"ready\n"
        parent.kill()

    until(lambda: processes_of(fresh_home) == {}, "the end of the servers")


@pytest.mark.skipif(os.getuid() != 0, reason="PostgreSQL has to be told whom to run as by root")
def test_root_without_user_namespaces_runs_postgresql_as_nobody(fresh_home, tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "setpriv").symlink_to("/usr/bin/setpriv")
    monkeypatch.setenv("PATH", str(programs))

    with embedded.servers(fresh_home), connect(fresh_home) as session:
        assert session.execute("SELECT 1").fetchone() == (1,)

    assert fresh_home.database.stat().st_uid == embedded.NOBODY


def test_a_strangers_socket_folder_is_refused(fresh_home):
    fresh_home.make()
    fresh_home.sockets.symlink_to(fresh_home.path)
    try:
        with pytest.raises(HomeError) as refused:
            fresh_home.make_sockets()
    finally:
        fresh_home.sockets.unlink()

    assert str(refused.value) == (
        f"{fresh_home.sockets} is not this user's folder; whoever made it could pose as the "
        "database. Remove it, or set RUNYARD_HOME to another folder"
    )


def test_what_people_wrote_does_not_come_into_the_servers_log(fresh_home):
    fresh_home.make()
    log = fresh_home.path / "postgres.log"
    with fresh_home.lock():
        server = embedded.Postgres(fresh_home)
        server.prepare()
        with log.open("wb") as kept:
            process = subprocess.Popen(
                server.argv(), stdout=kept, stderr=kept, env=embedded.clean_environment()
            )
        try:
            until(server.is_ready, "PostgreSQL")
            server.create_database()
            with connect(fresh_home) as session:
                session.execute("CREATE TABLE once (draft text UNIQUE)")
                with pytest.raises(psycopg.errors.UniqueViolation):
                    session.execute("INSERT INTO once VALUES ('a secret'), ('a secret')")
        finally:
            process.send_signal(server.stop_signal)
            process.wait()

    said = log.read_text()
    assert "duplicate key value violates unique constraint" in said
    assert "secret" not in said
