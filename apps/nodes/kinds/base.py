"""What a kind of job is: the fields it declares, and the command it makes of them.

Nothing here knows Django or the database: a kind takes a job's spec (JSON, docs/kinds.md)
and a Context, and gives a Command. Whoever starts children does the rest.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from apps.engine.timevars import NAME, render

Spec = Mapping[str, Any]

#: Bytes of a job's own text.
MAX_TEXT = 1 << 20
#: Bytes of one argument, parameter or setting: Linux takes 128 KiB in one string of a
#: command line or an environment, name included.
MAX_LINE = 100_000
#: Items of a list or a mapping.
MAX_ITEMS = 1_000

#: What the child's environment holds whatever the job says; no parameter may be called so.
FIXED_NAMES = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TMPDIR", "PYTHONUNBUFFERED"}
)
#: Prefix of the names that tell a job about its run.
OWN_PREFIX = "RUNYARD_"

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


def default_interpreter() -> Path:
    """The machine's Python that the product's own environment was made from."""
    return Path(getattr(sys, "_base_executable", "") or sys.executable)


@dataclass(frozen=True)
class Context:
    """One attempt, as a kind sees it."""

    #: Name of the workspace, of the workflow (empty for a job run by itself) and of the node.
    workspace: str
    workflow: str
    node: str
    run: int
    node_run: int
    attempt: int
    #: The attempt's own folder: it exists, is the child's working directory, and goes when
    #: the attempt is over.
    folder: Path
    #: The workspace's folder for data: it outlives every attempt.
    data: Path
    #: The workspace files that the job names: path in the workspace -> local copy.
    files: Mapping[str, Path] = field(default_factory=dict)
    #: Resolved variables and parameters; they win over the spec's own.
    parameters: Mapping[str, str] = field(default_factory=dict)
    cycle: datetime | None = None
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
        "RUNYARD_RUN": str(context.run),
        "RUNYARD_NODE": context.node,
        "RUNYARD_WORKFLOW": context.workflow,
        "RUNYARD_WORKSPACE": context.workspace,
        "RUNYARD_FILES": str(context.files_folder),
        "RUNYARD_DATA": str(context.data),
        "RUNYARD_OUTPUT": str(context.output_file),
        "RUNYARD_OUTPUT_DIR": str(context.outputs_folder),
    }
    if context.cycle is not None:
        values["RUNYARD_CYCLE"] = context.cycle.isoformat()
    return values


def parameters(spec: Spec, context: Context) -> dict[str, str]:
    """The job's own parameters, and over them those that the run was given."""
    return {**(spec.get("parameters") or {}), **context.parameters}


def environment(spec: Spec, context: Context) -> dict[str, str]:
    """The child's environment, built from nothing. What is the engine's wins over parameters."""
    given = {
        name: value for name, value in parameters(spec, context).items() if NAME.fullmatch(name)
    }
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
    """A function that puts this attempt's variables into a text."""
    values = {**parameters(spec, context), **variables(context)}
    return lambda text: render(text, values)


def plain_lines(text: str) -> str:
    """A text with Unix line ends: browsers send forms with others, which no shell takes."""
    return text.replace("\r\n", "\n")


# --- fields ---------------------------------------------------------------------------------


class Type(StrEnum):
    TEXT = "text"  # many lines, a job's own text
    LINE = "line"
    LINES = "lines"  # a list of strings
    FILE = "file"  # path of a workspace file
    FILES = "files"
    NAMES = "names"  # name -> string, names as variables have them
    SETTINGS = "settings"  # name -> string, names as Spark has them
    INTEGER = "integer"
    MEMORY = "memory"  # "512m", "2g"


MEMORY = re.compile(r"([1-9][0-9]{0,6})([kmgt])b?", re.IGNORECASE)
_MIB = {"k": 1 / 1024, "m": 1, "g": 1024, "t": 1024 * 1024}
_SETTING = re.compile(r"[A-Za-z0-9_.\-/]+")


def mebibytes(memory: str) -> float:
    """MiB of an amount that Type.MEMORY accepts."""
    match = MEMORY.fullmatch(memory)
    if match is None:
        raise ValueError(f"{memory!r} is no amount of memory")
    return int(match.group(1)) * _MIB[match.group(2).lower()]


def path_fault(path: str) -> str | None:
    """What is wrong with the path of a workspace file; None if nothing is."""
    if "\0" in path:
        return "holds a NUL character; take it out"
    if path.startswith("/"):
        return f"{path!r} is absolute; give the path inside the workspace, such as etl/load.py"
    if ".." in PurePosixPath(path).parts:
        return f"{path!r} leads out of the workspace; leave out '..'"
    if not path.strip() or str(PurePosixPath(path)) != path:
        return f"{path!r} is no path of a file; write it as etl/load.py"
    return None


@dataclass(frozen=True)
class Field:
    """One setting of a kind. This declaration makes the form, the API's schema and the checks.

    A name with a dot lies in a section of the spec: `spark.driver_cores` is
    `{"spark": {"driver_cores": …}}`.
    """

    name: str
    type: Type
    label: str
    help: str = ""
    required: bool = False
    default: Any = None
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None
    #: What an editor may highlight a TEXT as.
    language: str = ""

    def of(self, spec: Spec) -> Any:
        """Its value in a spec, or its default."""
        section, _, name = self.name.rpartition(".")
        value = (spec.get(section) or {}).get(name) if section else spec.get(name)
        return self.default if _is_empty(value) else value

    def faults(self, value: Any) -> Iterator[str]:
        """What is wrong with a value that is given."""
        match self.type:
            case Type.INTEGER:
                yield from self._integer_faults(value)
            case Type.LINES | Type.FILES:
                if not isinstance(value, list):
                    yield f"is {_kind_of(value)}; give a list of strings"
                elif len(value) > MAX_ITEMS:
                    yield f"has {len(value)} items; {MAX_ITEMS} are allowed"
                else:
                    for number, item in enumerate(value, 1):
                        yield from (f"item {number} {m}" for m in self._string_faults(item))
            case Type.NAMES | Type.SETTINGS:
                yield from self._mapping_faults(value)
            case _:
                yield from self._string_faults(value)

    def _integer_faults(self, value: Any) -> Iterator[str]:
        if type(value) is not int:  # True is an int as well
            yield f"is {_kind_of(value)}; give a whole number"
        elif self.minimum is not None and value < self.minimum:
            yield f"is {value}; the least is {self.minimum}"
        elif self.maximum is not None and value > self.maximum:
            yield f"is {value}; the most is {self.maximum}"

    def _string_faults(self, value: Any) -> Iterator[str]:
        if not isinstance(value, str):
            yield f"is {_kind_of(value)}; give a string"
            return
        if not _is_text(value):
            yield "holds half a surrogate pair, which is no text; take it out"
            return
        size, most = len(value.encode()), MAX_TEXT if self.type is Type.TEXT else MAX_LINE
        if "\0" in value:
            yield "holds a NUL character; take it out"
        elif size > most:
            yield f"has {size:,} bytes; {most:,} are allowed; put it into a workspace file"
        elif self.type in (Type.FILE, Type.FILES):
            if fault := path_fault(value):
                yield fault
        elif self.type is Type.MEMORY:
            if not MEMORY.fullmatch(value):
                yield f"{value!r} is no amount of memory; write it as 512m or 2g"
        elif self.choices and value not in self.choices:
            yield f"is {value!r}; choose one of {', '.join(self.choices)}"
        elif self.type is Type.LINE and re.search(r"[\r\n]", value):
            yield "has several lines; write it on one"

    def _mapping_faults(self, value: Any) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"is {_kind_of(value)}; give an object of names and strings"
            return
        if len(value) > MAX_ITEMS:
            yield f"has {len(value)} items; {MAX_ITEMS} are allowed"
            return
        for name, item in value.items():
            if self.type is Type.NAMES:
                if not NAME.fullmatch(name):
                    yield f"{name!r} is no name; use letters, digits and '_', no digit first"
                elif name in FIXED_NAMES or name.startswith(OWN_PREFIX):
                    yield f"{name} is set by Runyard; choose another name"
            elif not _SETTING.fullmatch(name):
                yield f"{name!r} is no name of a setting; use letters, digits, '.', '-' and '_'"
            yield from (f"{name} {message}" for message in self._string_faults(item))

    def schema(self) -> dict[str, Any]:
        """The value as JSON Schema."""
        string: dict[str, Any] = {"type": "string"}
        match self.type:
            case Type.INTEGER:
                shape: dict[str, Any] = {"type": "integer"}
                if self.minimum is not None:
                    shape["minimum"] = self.minimum
                if self.maximum is not None:
                    shape["maximum"] = self.maximum
            case Type.LINES | Type.FILES:
                shape = {"type": "array", "items": string, "maxItems": MAX_ITEMS}
            case Type.NAMES | Type.SETTINGS:
                shape = {"type": "object", "additionalProperties": string}
            case Type.MEMORY:
                shape = {**string, "pattern": r"^[1-9][0-9]{0,6}[kKmMgGtT][bB]?$"}
            case _:
                shape = {**string, "enum": list(self.choices)} if self.choices else string
        shape = {**shape, "title": self.label}
        if self.help:
            shape["description"] = self.help
        if self.default is not None:
            shape["default"] = self.default
        return shape


def _is_empty(value: Any) -> bool:
    """Forms send what was left empty as "" or [], which is the same as leaving it out."""
    return value is None or value == "" or value == [] or value == {}


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind_of(value: Any) -> str:
    return {
        "NoneType": "null",
        "bool": "true or false",
        "int": "a number",
        "float": "a number",
        "str": "a string",
        "list": "a list",
        "dict": "an object",
    }.get(type(value).__name__, type(value).__name__)


# --- kinds ----------------------------------------------------------------------------------

CONTENT = Field("content", Type.TEXT, "Content", "The text of the job.")
ENTRY_FILE = Field(
    "entry_file", Type.FILE, "Entry file", "A workspace file to run instead of the content."
)
ARGUMENTS = Field(
    "arguments", Type.LINES, "Arguments", "Given to the program one by one; ${name} is replaced."
)
PARAMETERS = Field(
    "parameters",
    Type.NAMES,
    "Parameters",
    "Environment variables of the job, and ${name} in its arguments. A run may give others.",
)
FILES = Field(
    "files", Type.FILES, "Files", "Workspace files that the job needs, below $RUNYARD_FILES."
)


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

    def further_faults(self, spec: Spec) -> Iterator[Fault]:
        """What is wrong between fields. `spec` holds only values that are right by themselves."""
        yield from ()

    def validate(self, spec: Any) -> list[Fault]:
        """All that is wrong with a spec, at once."""
        if not isinstance(spec, dict):
            return [Fault("spec", f"is {_kind_of(spec)}; give an object")]
        faults = list(self._unknown(spec))
        broken = {fault.field for fault in faults}
        right: dict[str, Any] = {}
        for each in self.fields:
            section, _, name = each.name.rpartition(".")
            if section in broken:
                continue
            value = each.of(spec)
            if _is_empty(value):
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
        if not _is_empty(content) and not _is_empty(entry_file):
            yield Fault("entry_file", "the job has content as well; leave one of the two empty")
        elif _is_empty(entry_file) and (_is_empty(content) or not str(content).strip()):
            yield Fault("content", "is empty; write the job's text or name an entry file")

    def _unknown(self, spec: Mapping[str, Any]) -> Iterator[Fault]:
        known = [each.name for each in self.fields]
        sections = {name.partition(".")[0] for name in known if "." in name}
        for key, value in spec.items():
            if _is_empty(value):
                continue
            if key not in sections:
                if key not in known:
                    yield self._no_such(str(key), known)
            elif not isinstance(value, dict):
                yield Fault(key, f"is {_kind_of(value)}; give an object")
            else:
                for name in value:
                    if f"{key}.{name}" not in known and not _is_empty(value[name]):
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
