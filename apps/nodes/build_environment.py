"""Builds a job's Python environment: the program that a worker starts before such a job.

It runs with the job's base interpreter (Python 3.9 or newer) and imports nothing of Runyard's.
Usage: build_environment.py ORDER, where ORDER is a JSON file written by
python_environments.build. What it prints belongs into the attempt's log. Status 0: the
environment is ready; any other: it is not, and the last lines say why.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv


def main(order_file: str) -> int:
    with open(order_file, encoding="utf-8") as file:
        order = json.load(file)
    root = order["root"]
    os.makedirs(os.path.join(root, "locks"), exist_ok=True)
    with open(os.path.join(root, "locks", order["request"] + ".building"), "w") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another build of the same environment")
            fcntl.flock(guard, fcntl.LOCK_EX)
        return build(order, root)


def build(order: dict, root: str) -> int:
    began = time.monotonic()
    lock_file = os.path.join(root, "locks", order["request"] + ".txt")
    lock = order["lock"] or read(lock_file)
    if lock is None:
        say("resolving " + ", ".join(order["requirements"]))
        lock = resolve(order, root)
        if lock is None:
            return 1
    # Two requests may come to the same lock, and so to the same folder.
    key = hashlib.sha256((order["python"] + "\n" + lock).encode()).hexdigest()[:20]
    folder = os.path.join(root, key)
    with open(os.path.join(root, "locks", key + ".building"), "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        python = os.path.join(folder, "bin", "python")
        if not (os.path.exists(os.path.join(folder, "ready")) and os.path.exists(python)):
            # What lies there was left by a build that was killed.
            shutil.rmtree(folder, ignore_errors=True)
            say("installing " + ", ".join(line.split(" ")[0] for line in lock.splitlines()))
            if not install(order, folder, lock):
                shutil.rmtree(folder, ignore_errors=True)
                return 1
            write(os.path.join(folder, "ready"), lock)
    write(lock_file, lock)
    say(f"environment {key} is ready after {time.monotonic() - began:.1f} s")
    return 0


def resolve(order: dict, root: str) -> str | None:
    """Let pip choose versions; the lock, or None if it cannot."""
    with tempfile.TemporaryDirectory(dir=root, prefix="resolve-") as folder:
        create(order, folder)
        report = os.path.join(folder, "report.json")
        wanted = os.path.join(folder, "requirements.txt")
        write(wanted, "".join(line + "\n" for line in order["requirements"]))
        options = ["--dry-run", "--ignore-installed", "--report", report, "-r", wanted]
        if not pip(order, folder, ["install", *options]):
            return None
        with open(report, encoding="utf-8") as file:
            chosen = json.load(file)["install"]
    lines = []
    for each in chosen:
        name, version = each["metadata"]["name"], each["metadata"]["version"]
        archive = each["download_info"].get("archive_info") or {}
        digest = (archive.get("hashes") or {}).get("sha256")
        if digest is None:
            say(f"error: {name} {version} has no sha256 in its index; it cannot be locked")
            return None
        exact = name + "==" + version
        if each.get("is_direct"):
            exact = name + " @ " + each["download_info"]["url"]
        lines.append(f"{exact} --hash=sha256:{digest}\n")
    return "".join(sorted(lines, key=str.lower))


def install(order: dict, folder: str, lock: str) -> bool:
    create(order, folder)
    file = os.path.join(folder, "lock.txt")
    write(file, lock)
    return pip(order, folder, ["install", "--no-deps", "--require-hashes", "-r", file])


def create(order: dict, folder: str) -> None:
    """A virtual environment; without pip where the worker's own can work on it."""
    venv.EnvBuilder(symlinks=True, with_pip=order["pip"] is None).create(folder)


def pip(order: dict, folder: str, arguments: list) -> bool:
    python = os.path.join(folder, "bin", "python")
    program = ["-m", "pip"] if order["pip"] is None else [order["pip"]]
    options = ["--no-input", "--disable-pip-version-check", "--no-python-version-warning"]
    cache = os.path.join(order["root"], "cache")
    command = [python, "-I", *program, arguments[0], *options, "--cache-dir", cache]
    return subprocess.run([*command, "--progress-bar=off", *arguments[1:]]).returncode == 0


def read(file: str) -> str | None:
    """None: there is no such file. Does not wait for a pipe's other end."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with open(descriptor, encoding="utf-8") as opened:
        return opened.read()


def write(file: str, text: str) -> None:
    """Whole or not at all."""
    new = f"{file}.{os.getpid()}"
    with open(new, "w", encoding="utf-8") as opened:
        opened.write(text)
    os.replace(new, file)


def say(text: str) -> None:
    print("[python environment] " + text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
