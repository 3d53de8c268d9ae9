"""What a kind of job is: it takes a job's fields, and makes a command of them.

Nothing here knows Django or the database: a kind takes a job's spec (JSON, docs/kinds.md)
and a Context, and gives a Command. Whoever starts children does the rest.
"""

from __future__ import annotations

import difflib
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from apps.engine.timevars import (
    NAME,
    OWN_NAMES,
    Moment,
    Unresolved,
    built_in,
    circle_in,
    render,
    resolve,
    upstream_mark,
)
from apps.nodes.kinds.fields import Field, Spec, Type, is_empty, noun_of, text_faults

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CannotStart(Exception):
    """No command can be made of this job on this worker. The message says why, and the fix."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a spec: on which field, and what mends it."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


# --- what a job is given, and what comes of it ----------------------------------------------


@dataclass(frozen=True)
class Spark:
    """Where Spark and its Java are on this worker."""

    home: Path
    java_home: Path
    #: Where the machine says how to reach a cluster: HADOOP_CONF_DIR and its like.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: A folder for the class path, before Spark's own; "" for none.
    class_path: str = ""


def default_interpreter() -> Path:
    """The machine's Python that the product's own environment was made from."""
    return Path(getattr(sys, "_base_executable", "") or sys.executable)


class Source(StrEnum):
    """Who says what a variable is; of two, the later in this order counts."""

    WORKSPACE = "workspace"
    JOB = "job"
    WORKFLOW = "workflow"
    NODE = "node"
    RUN = "run"


@dataclass(frozen=True)
class Definition:
    """A variable as it is written, before any value is put in."""

    source: Source
    text: str


@dataclass(frozen=True)
class Given:
    """Variables that an attempt has beside its job's parameters, as they are written."""

    workspace: Mapping[str, str] = field(default_factory=dict)
    workflow: Mapping[str, str] = field(default_factory=dict)
    node: Mapping[str, str] = field(default_factory=dict)
    #: Parameters of the run.
    run: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """One attempt, as a kind sees it."""

    #: Name of the workspace, of the workflow (empty for a job run by itself) and of the node.
    workspace: str
    workflow: str
    node: str
    #: None where nothing has started, in a dry run: then what is made of them stays a name.
    run: int | None
    node_run: int | None
    attempt: int
    #: The attempt's own folder: it exists, is the child's working directory, and goes when
    #: the attempt is over.
    folder: Path
    #: The workspace's folder for data: it outlives every attempt.
    data: Path
    #: The workspace files that the job names: path in the workspace -> local copy.
    files: Mapping[str, Path] = field(default_factory=dict)
    given: Given = field(default_factory=Given)
    #: What upstream nodes left, as `nodes.load.rows`, and a mark for each that may be named.
    of_nodes: Mapping[str, str] = field(default_factory=dict)
    #: What the time variables are made of; None where nothing has a cycle.
    moment: Moment | None = None
    #: The resource queue's Spark master.
    master: str = "local"
    #: The job's Python.
    python: Path = field(default_factory=default_interpreter)
    #: None where this worker has no Spark or no Java.
    spark: Spark | None = None
    #: Name of the user that the child runs as, and whether /etc/passwd knows that user.
    user: str = "runyard"
    known_user: bool = True
    path: str = PATH

    @property
    def mark(self) -> str:
        """What tells this attempt's processes and applications from all others."""
        if self.node_run is None:
            return "${RUNYARD_ATTEMPT}"
        return f"{self.node_run}.{self.attempt}"

    @property
    def name(self) -> str:
        """What to call the attempt where people read: workflow/node."""
        return f"{self.workflow}/{self.node}" if self.workflow else self.node

    @property
    def files_folder(self) -> Path:
        """Where the local copies in `files` lie, under their paths in the workspace."""
        return self.folder / "files"

    @property
    def outputs_folder(self) -> Path:
        """Tables, pictures and texts that the job leaves for the run page."""
        return self.folder / "outputs"

    @property
    def output_file(self) -> Path:
        """Lines `key=value` that the job leaves."""
        return self.folder / "output"


@dataclass(frozen=True)
class Command:
    """What to start: an argument list (never a shell's line) and the child's whole environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    #: Texts to write below `cwd` before the start: relative path -> text.
    files: Mapping[str, str] = field(default_factory=dict)
    #: Folders to make below `cwd` before the start.
    folders: tuple[str, ...] = ()
    #: The id that a local Spark application will have. A cluster's stands in the log.
    application_id: str = ""


def write_files(command: Command) -> list[Path]:
    """Make a command's folders and files, and say which: whoever changes the user owns them up.

    The folder is the attempt's own and new, so what exists there already is a fault.
    """
    made: list[Path] = []
    for name in command.folders:
        path = command.cwd / name
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        made.append(path)
    for name, text in command.files.items():
        path = command.cwd / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(path, flags, 0o600), "w", encoding="utf-8", newline="") as file:
            file.write(text)
        made.append(path)
    return made


def variables(context: Context) -> dict[str, str]:
    """What a job may know of its run: in its environment, and as `${RUNYARD_DATA}` in its texts."""
    values = {
        "RUNYARD_ATTEMPT": context.mark,
        "RUNYARD_RUN": "${RUNYARD_RUN}" if context.run is None else str(context.run),
        "RUNYARD_NODE": context.node,
        "RUNYARD_WORKFLOW": context.workflow,
        "RUNYARD_WORKSPACE": context.workspace,
        "RUNYARD_FILES": str(context.files_folder),
        "RUNYARD_DATA": str(context.data),
        "RUNYARD_OUTPUT": str(context.output_file),
        "RUNYARD_OUTPUT_DIR": str(context.outputs_folder),
    }
    if context.moment is not None:
        values["RUNYARD_CYCLE"] = context.moment.cycle.astimezone(UTC).isoformat()
    return values


def definitions(spec: Spec, given: Given) -> dict[str, Definition]:
    """The variables of an attempt as they are written, each where it is said last."""
    found: dict[str, Definition] = {}
    for source, pairs in (
        (Source.WORKSPACE, given.workspace),
        (Source.JOB, spec.get("parameters") or {}),
        (Source.WORKFLOW, given.workflow),
        (Source.NODE, given.node),
        (Source.RUN, given.run),
    ):
        found |= {name: Definition(source, text) for name, text in pairs.items()}
    return found


def defined(spec: Spec, given: Given) -> dict[str, str]:
    """The texts of `definitions`."""
    return {name: each.text for name, each in definitions(spec, given).items()}


def values(spec: Spec, context: Context) -> dict[str, str]:
    """Every variable of an attempt with its value: the engine's own, the run's, the job's.

    Raises CannotStart for a value that cannot be made.
    """
    fixed = {**context.of_nodes, **variables(context)}
    if context.moment is not None:
        fixed |= built_in(context.moment)
    try:
        return resolve(defined(spec, context.given), fixed, context.moment)
    except Unresolved as error:
        raise CannotStart(str(error)) from None


def environment(spec: Spec, context: Context) -> dict[str, str]:
    """The child's environment, built from nothing. What is the engine's wins over parameters."""
    given = {name: value for name, value in values(spec, context).items() if NAME.fullmatch(name)}
    return {
        **given,
        "PATH": context.path,
        # Not the worker's: keys and settings in its home are no job's business, and the user
        # that a job runs as may have none.
        "HOME": str(context.folder),
        "USER": context.user,
        "LOGNAME": context.user,
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TMPDIR": str(context.folder / "tmp"),
        "PYTHONUNBUFFERED": "1",
        **variables(context),
    }


#: Every command's folders: TMPDIR, and what `variables` names.
FOLDERS = ("tmp", "files", "outputs")


def rendered(spec: Spec, context: Context) -> Callable[[str], str]:
    """A function that puts this attempt's variables into a text. It raises CannotStart."""
    known = values(spec, context)

    def put_in(text: str) -> str:
        try:
            return render(text, known, context.moment)
        except Unresolved as error:
            raise CannotStart(str(error)) from None

    return put_in


def plain_lines(text: str) -> str:
    """A text with Unix line ends: browsers send forms with others, which no shell takes."""
    return text.replace("\r\n", "\n")


# --- kinds ----------------------------------------------------------------------------------


class Kind(ABC):
    """What a node can be. One instance serves all; it holds no state."""

    name: ClassVar[str]
    label: ClassVar[str]
    fields: ClassVar[tuple[Field, ...]]
    #: Whether the worker must find Spark and Java before it asks for a command.
    needs_spark: ClassVar[bool] = False

    @abstractmethod
    def command(self, spec: Spec, context: Context) -> Command:
        """What to start. `spec` has no faults. Raises CannotStart where the worker lacks a part."""

    def demand(self, spec: Spec, master: str) -> int:
        """What one attempt asks of its resource queue, in thousandths of a CU."""
        return 250

    def files_of(self, spec: Spec) -> set[str]:
        """The workspace files that a spec names."""
        named: set[str] = set()
        for each in self.fields:
            if each.type is Type.FILE and (path := each.of(spec)):
                named.add(path)
            elif each.type is Type.FILES:
                named.update(each.of(spec) or ())
        return named

    def texts(self, spec: Spec) -> Iterator[tuple[str, str, str]]:
        """(field, where in it, text) of all into which variables are put, but for files."""
        for each in self.fields:
            yield from ((each.name, where, text) for where, text in each.texts(spec))

    def files_with_variables(self, spec: Spec) -> set[str]:
        """The workspace files into whose text variables are put."""
        return set()

    def texts_with_variables(
        self, spec: Spec, given: Given, files: Mapping[str, str]
    ) -> Iterator[tuple[str, str, str]]:
        """As `texts`, with those of the variables themselves and of files in their places.

        `files` are the texts of `files_with_variables`.
        """
        for name, each in definitions(spec, given).items():
            of_job = each.source is Source.JOB
            yield "parameters" if of_job else f"variables of the {each.source}", name, each.text
        yield from (found for found in self.texts(spec) if found[0] != "parameters")
        yield from ((path, "", text) for path, text in files.items())

    def variable_faults(
        self,
        spec: Spec,
        given: Given,
        texts: Sequence[tuple[str, str, str]],
        upstream: Callable[[], Iterable[str]],
    ) -> Iterator[Fault]:
        """What keeps an attempt from its values: each with its field and line.

        `texts` are the `texts_with_variables` of this spec; `upstream` tells, when it matters,
        which nodes' values may be named.
        """
        own = {name: each.text for name, each in definitions(spec, given).items()}
        known = own.keys() | OWN_NAMES
        if any("${nodes." in text for _, _, text in texts):
            known |= {upstream_mark(node) for node in upstream()}
        for field_name, where, text in texts:
            for message in text_faults(text, known):
                yield Fault(field_name, f"{where}: {message}" if where else message)
        if circle := circle_in(own):
            where = next(field_name for field_name, name, _ in texts if name == circle[0])
            message = f"its value comes back to itself: {' → '.join(circle)}"
            yield Fault(where, f"{circle[0]}: {message}")

    def further_faults(self, spec: Spec) -> Iterator[Fault]:
        """What is wrong between fields. `spec` holds only values that are right by themselves."""
        yield from ()

    def validate(self, spec: Any) -> list[Fault]:
        """All that is wrong with a spec, at once."""
        if not isinstance(spec, dict):
            return [Fault("spec", f"is {noun_of(spec)}; give an object")]
        faults = list(self._unknown(spec))
        broken = {fault.field for fault in faults}
        right: dict[str, Any] = {}
        for each in self.fields:
            section, _, name = each.name.rpartition(".")
            if section in broken:
                continue
            value = each.of(spec)
            if is_empty(value):
                if each.required:
                    faults.append(Fault(each.name, "is missing; fill it in"))
                continue
            wrong = list(each.faults(value))
            faults.extend(Fault(each.name, message) for message in wrong)
            if not wrong:
                (right.setdefault(section, {}) if section else right)[name] = value
        return faults + list(self._text_faults(spec)) + list(self.further_faults(right))

    def _text_faults(self, spec: Spec) -> Iterator[Fault]:
        """A kind with both fields runs either its content or a workspace file."""
        names = {each.name for each in self.fields}
        if not {"content", "entry_file"} <= names:
            return
        content, entry_file = spec.get("content"), spec.get("entry_file")
        if not is_empty(content) and not is_empty(entry_file):
            yield Fault("entry_file", "the job has content as well; leave one of the two empty")
        elif is_empty(entry_file) and (is_empty(content) or not str(content).strip()):
            yield Fault("content", "is empty; write the job's text or name an entry file")

    def _unknown(self, spec: Mapping[str, Any]) -> Iterator[Fault]:
        known = [each.name for each in self.fields]
        sections = {name.partition(".")[0] for name in known if "." in name}
        for key, value in spec.items():
            if is_empty(value):
                continue
            if key not in sections:
                if key not in known:
                    yield self._no_such(str(key), known)
            elif not isinstance(value, dict):
                yield Fault(key, f"is {noun_of(value)}; give an object")
            else:
                for name in value:
                    if f"{key}.{name}" not in known and not is_empty(value[name]):
                        yield self._no_such(f"{key}.{name}", known)

    def _no_such(self, name: str, known: Sequence[str]) -> Fault:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else "; take it out"
        return Fault(name, f"a job of kind {self.name} has no such setting{hint}")

    def schema(self) -> dict[str, Any]:
        """The spec as JSON Schema."""
        properties: dict[str, Any] = {}
        for each in self.fields:
            section, _, name = each.name.rpartition(".")
            if section:
                empty = {"type": "object", "properties": {}, "additionalProperties": False}
                inside = properties.setdefault(section, empty)["properties"]
            else:
                inside = properties
            inside[name] = each.schema()
        return {
            "type": "object",
            "title": self.label,
            "properties": properties,
            "required": [each.name for each in self.fields if each.required],
            "additionalProperties": False,
        }
