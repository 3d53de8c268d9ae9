"""Python: a script, run by the job's own interpreter."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.requirements import InvalidRequirement, Requirement

from apps.nodes.kinds.base import (
    FOLDERS,
    Command,
    Context,
    Fault,
    Kind,
    environment,
    plain_lines,
    rendered,
)
from apps.nodes.kinds.fields import (
    ARGUMENTS,
    CONTENT,
    ENTRY_FILE,
    FILES,
    PARAMETERS,
    SECRETS,
    Field,
    Spec,
    Type,
)

PYTHON = (
    Field(
        "python.requirements",
        Type.LINES,
        "Requirements",
        "Packages such as polars==1.9; installed once into an environment of their own.",
    ),
    Field(
        "python.interpreter",
        Type.LINE,
        "Interpreter",
        "Path of a Python on the worker, instead of requirements.",
    ),
)


class Python(Kind):
    name = "python"
    label = "Python"
    fields = (CONTENT, ENTRY_FILE, ARGUMENTS, PARAMETERS, SECRETS, FILES, *PYTHON)

    def command(self, spec: Spec, context: Context) -> Command:
        files: dict[str, str] = {}
        if entry_file := spec.get("entry_file"):
            script = str(context.files[entry_file])
        else:
            files["main.py"] = plain_lines(spec["content"])
            script = "main.py"
        values = rendered(spec, context)
        return Command(
            argv=(str(context.python), script, *map(values, spec.get("arguments") or ())),
            env={**environment(spec, context), "PYTHONNOUSERSITE": "1"},
            cwd=context.folder,
            files=files,
            folders=FOLDERS,
        )

    def further_faults(self, spec: Spec) -> Iterator[Fault]:
        yield from python_faults(spec)


def python_faults(spec: Spec) -> Iterator[Fault]:
    """What is wrong with the Python that a job asks for. Whether it exists, its worker knows."""
    python = spec.get("python") or {}
    requirements = python.get("requirements") or []
    if requirements and python.get("interpreter"):
        yield Fault("python.interpreter", "the job has requirements as well; choose one of the two")
    if not str(python.get("interpreter") or "/").startswith("/"):
        yield Fault("python.interpreter", "is not absolute; give a path such as /usr/bin/python3")
    for number, line in enumerate(requirements, 1):
        if message := requirement_fault(line):
            yield Fault("python.requirements", f"item {number} {message}")


def requirement_fault(line: str) -> str | None:
    """What is wrong with one requirement; None if nothing is.

    Names and versions only, and archives by https: options would reach pip's command line,
    a local path names nothing on another worker, and a repository has no hash to lock.
    """
    if line.startswith("-"):
        return f"{line!r} is an option of pip; give a package such as polars==1.9"
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        return f"{line!r} is no requirement; give a package such as polars==1.9"
    if requirement.url and not requirement.url.startswith("https://"):
        return f"{line!r} has an address that is not https; it cannot be locked by a hash"
    return None


KIND = Python()
