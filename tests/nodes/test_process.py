from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from apps.nodes import process

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="switching users needs root")


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def run(script: str, folder: Path, *, env: dict[str, str] | None = None, uid: int | None = None):
    """Run a shell script to its end as an attempt would be; its exit code and what it wrote."""
    log = os.open(folder / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    if uid is not None:
        os.fchown(log, uid, uid)
    try:
        child = process.start(
            ["/bin/sh", "-c", script],
            env=process.base_environment() | (env or {}),
            cwd=folder,
            log=log,
            uid=uid,
        )
        child.wait()
        return child.reap(), (folder / "log").read_text()
    finally:
        os.close(log)


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [
        pytest.param("exit 0", 0, "", id="success"),
        pytest.param("exit 7", 7, "exit code 7", id="its own exit code"),
        pytest.param("kill -9 $$", -9, "killed by SIGKILL", id="signal"),
        pytest.param("kill -40 $$", -40, "killed by signal 40", id="signal without a name"),
    ],
)
def test_exit_code_is_the_result(tmp_path, script, code, reason):
    ended, _ = run(script, tmp_path)

    assert (ended, process.exit_reason(ended)) == (code, reason)


def test_both_outputs_go_to_the_log_in_the_order_they_were_written(tmp_path):
    assert run("echo one; echo two >&2; echo three", tmp_path) == (0, "one\ntwo\nthree\n")


def test_child_inherits_no_environment_no_input_and_no_descriptor(tmp_path, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgres://secret")
    secret = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        _, printed = run(
            "env -u PWD | sort; cat; ls /proc/$$/fd", tmp_path, env={"RUNYARD_RUN": "4"}
        )
    finally:
        os.close(secret)

    assert printed.splitlines() == [
        "LANG=C.UTF-8",
        "LC_ALL=C.UTF-8",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONUNBUFFERED=1",
        "RUNYARD_RUN=4",
        "0",
        "1",
        "2",
    ]


def test_child_leads_its_own_session_and_a_signal_reaches_all_of_its_group(tmp_path):
    log = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    child = process.start(
        ["/bin/sh", "-c", "sleep 100 & echo $! > kid; wait"],
        env=process.base_environment(),
        cwd=tmp_path,
        log=log,
    )
    os.close(log)
    until(lambda: (tmp_path / "kid").exists() and (tmp_path / "kid").read_text().strip())
    kid = int((tmp_path / "kid").read_text())
    assert (os.getsid(child.pid), os.getpgid(kid)) == (child.pid, child.pid)

    child.signal(signal.SIGTERM)

    child.wait()
    assert child.reap() == -signal.SIGTERM
    until(lambda: not alive(kid))
    child.signal(signal.SIGTERM)  # over: reaches nobody


def test_what_a_job_leaves_in_the_background_ends_with_it(tmp_path):
    code, _ = run("sleep 100 & echo $! > kid; exit 3", tmp_path)

    assert code == 3
    until(lambda: not alive(int((tmp_path / "kid").read_text())))


def test_program_that_does_not_exist_is_an_error_without_a_child(tmp_path):
    log = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    with pytest.raises(FileNotFoundError):
        process.start(["/no/such"], env={}, cwd=tmp_path, log=log)
    os.close(log)


# --- strays: the test's process must not become a subreaper itself, hence one of its own ----

STRAYS = """
import os, sys, threading, time
from pathlib import Path
from apps.nodes import process

strays = process.Strays()
strays.adopt()
folder = Path(sys.argv[1])
result = {}

def attempt(mark, script):
    log = os.open(folder / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    env = process.base_environment() | {process.WORKER: "w", process.ATTEMPT: mark}
    child = process.start(["/bin/sh", "-c", script], env=env, cwd=folder, log=log)
    os.close(log)
    child.wait()
    result[mark] = (strays.end(mark), child.reap(), strays.end(mark))

def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False

def within(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)

"""


def in_a_worker(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", STRAYS + code, str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_stray_in_a_session_of_its_own_ends_with_its_attempt_and_others_stay(tmp_path):
    out = in_a_worker(
        """
other = threading.Thread(
    target=attempt, args=("2.1", "setsid sh -c 'echo $$ > other; exec sleep 100' & sleep 1.5")
)
other.start()
within(lambda: (folder / "other").exists())
# Leaves its group by a session of its own, and its parent by a second fork.
mine = threading.Thread(target=attempt, args=(
    "1.1",
    "setsid sh -c '(sh -c \\"sleep 100 & echo \\\\$! > deep; echo \\\\$\\\\$ > mine; wait\\") &' ;"
    " until [ -s mine ]; do sleep 0.01; done",
))
mine.start(); mine.join()
pids = [int((folder / n).read_text()) for n in ("mine", "deep", "other")]
print([alive(p) for p in pids])
other.join()
print(alive(pids[2]), [sum(r[::2]) > 0 for r in result.values()])
""",
        tmp_path,
    )

    assert out == "[False, False, True]\nFalse [True, True]\n"


def test_sweep_ends_strays_of_attempts_that_are_over_and_unmarked_ones_with_their_last_suspect(
    tmp_path,
):
    out = in_a_worker(
        """
thread = threading.Thread(target=attempt, args=(
    "1.1",
    "env -i setsid sh -c 'echo $$ > bare; exec sleep 100' & until [ -s bare ]; do sleep 0.01; done",
))
thread.start(); thread.join()
bare = int((folder / "bare").read_text())
print(alive(bare), strays.sweep(lambda: frozenset({"1.1", "2.1"})))
print(alive(bare), strays.sweep(lambda: frozenset({"2.1", "3.1"})))
print(alive(bare), strays.sweep(lambda: frozenset({"3.1"})))
print(alive(bare))
""",
        tmp_path,
    )

    assert out == "True 0\nTrue 0\nTrue 1\nFalse\n"


def test_stray_that_cannot_die_is_waited_for_only_so_long_and_left_to_the_sweep(tmp_path):
    """Nothing dies of a signal here, as if it were stuck in the kernel."""
    out = in_a_worker(
        """
kill, os.kill = os.kill, lambda *_: None
thread = threading.Thread(target=attempt, args=(
    "1.1",
    "setsid sh -c 'echo $$ > stuck; exec sleep 100' & until [ -s stuck ]; do sleep 0.01; done",
))
thread.start(); thread.join(5)
stuck = int((folder / "stuck").read_text())
print(thread.is_alive(), alive(stuck), result["1.1"])
os.kill = kill
print(strays.sweep(lambda: frozenset()), alive(stuck))
""",
        tmp_path,
    )

    assert out == "False True (1, 0, 1)\n1 False\n"


# --- who the child is -----------------------------------------------------------------------


def test_probe_says_why_jobs_are_trusted(tmp_path):
    assert process.probe(0, [tmp_path], sys.executable) == process.Identity(
        None, "RUNYARD_JOB_UID_BASE is 0: jobs run as the worker's own user"
    )


@needs_root
def test_probe_names_the_interpreter_that_the_jobs_user_cannot_run(tmp_path):
    open_all(tmp_path)
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "python").symlink_to("/bin/sh")

    found = process.probe(200_000, [tmp_path / "work"], str(hidden / "python"))

    assert found.base is None
    assert found.why_trusted.startswith(f"user 200000 cannot run {hidden}/python: ")


@needs_root
def test_probe_names_the_folder_that_the_jobs_user_cannot_enter(tmp_path):
    open_all(tmp_path)
    home = tmp_path / "home"
    home.mkdir(mode=0o700)

    found = process.probe(200_000, [home / "work"], interpreter(tmp_path))

    assert found.base is None
    assert found.why_trusted.startswith(f"user 200000 cannot enter {home}/work: ")


@needs_root
def test_probe_names_the_installation_that_the_jobs_user_cannot_read(tmp_path):
    open_all(tmp_path)
    checkout = tmp_path / "checkout"
    (checkout / "venv").mkdir(parents=True)
    checkout.chmod(0o700)

    found = process.probe(200_000, [tmp_path / "work"], interpreter(tmp_path), checkout / "venv")

    assert found == process.Identity(
        None, f"user 200000 cannot read {checkout}/venv: Permission denied"
    )


@needs_root
def test_job_of_one_workspace_can_read_neither_the_workers_nor_anothers_folder(tmp_path):
    open_all(tmp_path)
    found = process.probe(200_000, [tmp_path / "work"], interpreter(tmp_path), Path("/usr"))
    assert found == process.Identity(200_000)
    (tmp_path / "keys").mkdir(mode=0o700)
    (tmp_path / "keys" / "secret").write_text("secret")
    other, mine = tmp_path / "work" / "1.1", tmp_path / "work" / "2.1"
    for number, folder in enumerate([other, mine], 1):
        (folder / "data").mkdir(mode=0o700, parents=True)
        folder.chmod(0o700)
        (folder / "data" / "a.txt").write_text(f"of {number}\n")
        process.hand_over(folder, found.uid(number))

    code, printed = run(
        "id -u; id -G; cat data/a.txt; echo more >> data/a.txt; cat ../1.1/data/a.txt;"
        " cat ../../keys/secret; ls .. ; exit 5",
        mine,
        uid=found.uid(2),
    )

    assert code == 5
    assert [line for line in printed.splitlines() if "ermission denied" not in line] == [
        "200002",
        "200002",
        "of 2",
    ]
    assert len(printed.splitlines()) == 6


@pytest.fixture
def jobs_folder(tmp_path) -> Path:
    """The folder of an attempt that runs as user 200001."""
    open_all(tmp_path)
    folder = tmp_path / "job"
    folder.mkdir(mode=0o700)
    os.chown(folder, 200_001, 200_001)
    return folder


@needs_root
def test_no_variable_of_a_job_acts_before_its_user_is_the_jobs(jobs_folder, tmp_path):
    """A library that LD_PRELOAD names says as whom it was loaded."""
    source, library = tmp_path / "who.c", tmp_path / "who.so"
    source.write_text(
        "#include <stdio.h>\n#include <unistd.h>\n"
        "__attribute__((constructor)) static void who(void)"
        '{ char line[20]; write(2, line, sprintf(line, "as %d\\n", geteuid())); }\n'
    )
    compiler = shutil.which("cc") or pytest.skip("no C compiler")
    subprocess.run([compiler, "-w", "-shared", "-fPIC", "-o", library, source], check=True)
    library.chmod(0o755)

    code, printed = run("exit 4", jobs_folder, env={"LD_PRELOAD": str(library)}, uid=200_001)

    assert (code, printed) == (4, "as 200001\n")


@needs_root
def test_setpriv_loads_nothing_that_a_job_names(jobs_folder):
    env = {"LD_PRELOAD": "/no/such.so"}

    _, printed = run("exit 0", jobs_folder, env=env, uid=200_001)

    # Only the job's own shell says it; the switch and what follows it do not.
    assert printed.count("/no/such.so") == 1


@needs_root
def test_user_of_its_own_gets_the_same_environment_whatever_is_in_it(jobs_folder):
    odd = "".join(map(chr, range(1, 0x180))) + "'; touch hacked; $(id) `id` \\\n\n"
    env = {"A": odd, "empty": "", "IFS": "x", "_b1": "\n", "RUNYARD_ATTEMPT": "1.1"}

    log = os.open(jobs_folder / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    child = process.start(
        ["cat", "/proc/self/environ"],
        env=process.base_environment() | env,
        cwd=jobs_folder,
        log=log,
        uid=200_001,
    )
    os.close(log)
    child.wait()

    assert child.reap() == 0
    entries = (jobs_folder / "log").read_bytes().decode().split("\0")
    assert sorted(entries) == sorted(
        ["", *(f"{name}={value}" for name, value in (process.base_environment() | env).items())]
    )
    assert sorted(each.name for each in jobs_folder.iterdir()) == [".environment", "log"]
    about = (jobs_folder / ".environment").stat()
    assert (about.st_mode & 0o777, about.st_uid) == (0o600, 200_001)


@needs_root
@pytest.mark.parametrize("env", [{"a b": "1"}, {"a;id": "1"}, {"a": "1\0"}, {"ä": "1"}])
def test_variable_that_no_shell_can_set_is_refused(jobs_folder, env):
    with pytest.raises(OSError, match="cannot be set"):
        run("exit 0", jobs_folder, env=env, uid=200_001)


@needs_root
def test_environment_goes_through_no_link(jobs_folder, tmp_path):
    (jobs_folder / ".environment").symlink_to(tmp_path / "victim")

    with pytest.raises(FileExistsError):
        run("exit 0", jobs_folder, uid=200_001)

    assert not (tmp_path / "victim").exists()


@needs_root
def test_user_of_its_own_may_have_so_many_processes_and_leaves_no_core(jobs_folder):
    log = os.open(jobs_folder / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    child = process.start(
        ["/bin/cat", "/proc/self/limits", "/proc/self/oom_score_adj"],
        env=process.base_environment(),
        cwd=jobs_folder,
        log=log,
        uid=200_001,
        processes=77,
    )
    os.close(log)
    child.wait()
    assert child.reap() == 0

    lines = (jobs_folder / "log").read_text().splitlines()
    limits = {line[:26].strip(): line[26:].split()[:2] for line in lines}
    assert limits["Max processes"] == ["77", "77"]
    assert limits["Max core file size"] == ["0", "0"]
    assert lines[-1] == "500"


def test_child_goes_before_the_worker_when_memory_runs_out(tmp_path):
    script = "until read score < /proc/$$/oom_score_adj && [ $score = 500 ]; do :; done"

    assert run(script, tmp_path) == (0, "")


def interpreter(folder: Path) -> str:
    """One that every user can run: the tests' own may lie out of reach of most."""
    file = folder / "python"
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return str(file)


def open_all(folder: Path) -> None:
    """pytest's temporary folders are 0700 from the top."""
    for each in [folder, *folder.parents]:
        if each != Path("/tmp") and each.owner() == "root" and each.is_relative_to("/tmp"):
            each.chmod(0o711)


def test_removing_a_folder_follows_no_link(tmp_path):
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "attempt" / "a").mkdir(parents=True)
    (tmp_path / "attempt" / "link").symlink_to(tmp_path)

    process.remove_folder(tmp_path / "attempt")

    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept"]


def test_folders_too_deep_for_python_are_removed(tmp_path):
    (tmp_path / "attempt").mkdir()
    inside = os.open(tmp_path / "attempt", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=inside)
        deeper = os.open("d", os.O_RDONLY, dir_fd=inside)
        os.close(inside)
        inside = deeper
    os.close(inside)

    process.remove_folder(tmp_path / "attempt")

    assert list(tmp_path.iterdir()) == []


def test_hidden_process_keeps_its_environment_from_others_of_its_user(tmp_path):
    code = (
        "import sys, time; from apps.nodes import process; process.hide_memory();"
        " print('hidden', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as hidden:
        assert hidden.stdout is not None
        assert hidden.stdout.readline() == "hidden\n"
        owner = Path(f"/proc/{hidden.pid}/environ").stat().st_uid
        hidden.communicate()

    # The kernel gives a hidden process's files to root: nobody else of its user reads them.
    assert owner == 0


def test_stop_from_another_thread_races_the_end_without_harm(tmp_path):
    """Signals that come late must neither raise nor reach whoever has the pid by then."""
    for _ in range(50):
        log = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        child = process.start(["/bin/true"], env={}, cwd=tmp_path, log=log)
        os.close(log)
        over = threading.Event()

        def stop(child: process.Child = child, over: threading.Event = over) -> None:
            while not over.is_set():
                child.signal(signal.SIGTERM)

        thread = threading.Thread(target=stop)
        thread.start()
        child.wait()
        assert child.reap() in (0, -signal.SIGTERM)
        over.set()
        thread.join()
