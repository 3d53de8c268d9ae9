"""The fields that a kind of job declares: what each holds, and what is wrong with a value."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

from apps.engine.timevars import NAME, is_taken, wrong_in

#: A job's content: JSON, its shape in docs/kinds.md.
Spec = Mapping[str, Any]

#: Bytes of a job's own text.
MAX_TEXT = 1 << 20
#: Bytes of one argument, parameter or setting: Linux takes 128 KiB in one string of a
#: command line or an environment, name included.
MAX_LINE = 100_000
#: Items of a list or a mapping.
MAX_ITEMS = 1_000


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


def text_faults(text: str, known: Collection[str] | None = None) -> Iterator[str]:
    """What is wrong with the variables in a text; None: with their grammar alone."""
    for wrong in wrong_in(text, known):
        yield f"line {wrong.line}: {wrong.message}" if "\n" in text else wrong.message


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
    #: Whether the values of variables are put into its texts.
    takes_variables: bool = False

    def of(self, spec: Spec) -> Any:
        """Its value in a spec, or its default."""
        section, _, name = self.name.rpartition(".")
        value = (spec.get(section) or {}).get(name) if section else spec.get(name)
        return self.default if is_empty(value) else value

    def texts(self, spec: Spec) -> Iterator[tuple[str, str]]:
        """(where in the field, text) of all of a right spec that takes variables."""
        value = self.of(spec) if self.takes_variables else None
        match value:
            case dict():
                yield from value.items()
            case list():
                yield from ((f"item {number}", item) for number, item in enumerate(value, 1))
            case str():
                yield "", value

    def faults(self, value: Any) -> Iterator[str]:
        """What is wrong with a value that is given."""
        match self.type:
            case Type.INTEGER:
                yield from self._integer_faults(value)
            case Type.LINES | Type.FILES:
                if not isinstance(value, list):
                    yield f"is {noun_of(value)}; give a list of strings"
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
            yield f"is {noun_of(value)}; give a whole number"
        elif self.minimum is not None and value < self.minimum:
            yield f"is {value}; the least is {self.minimum}"
        elif self.maximum is not None and value > self.maximum:
            yield f"is {value}; the most is {self.maximum}"

    def _string_faults(self, value: Any) -> Iterator[str]:
        if not isinstance(value, str):
            yield f"is {noun_of(value)}; give a string"
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
        elif self.takes_variables:
            yield from text_faults(value)

    def _mapping_faults(self, value: Any) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"is {noun_of(value)}; give an object of names and strings"
            return
        if len(value) > MAX_ITEMS:
            yield f"has {len(value)} items; {MAX_ITEMS} are allowed"
            return
        for name, item in value.items():
            if self.type is Type.NAMES:
                if not NAME.fullmatch(name):
                    yield f"{name!r} is no name; use letters, digits and '_', no digit first"
                elif is_taken(name):
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


def is_empty(value: Any) -> bool:
    """Forms send what was left empty as "" or [], which is the same as leaving it out."""
    return value is None or value == "" or value == [] or value == {}


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def noun_of(value: Any) -> str:
    """What JSON calls a value of its type, for a message."""
    return {
        "NoneType": "null",
        "bool": "true or false",
        "int": "a number",
        "float": "a number",
        "str": "a string",
        "list": "a list",
        "dict": "an object",
    }.get(type(value).__name__, type(value).__name__)


CONTENT = Field("content", Type.TEXT, "Content", "The text of the job.")
ENTRY_FILE = Field(
    "entry_file", Type.FILE, "Entry file", "A workspace file to run instead of the content."
)
ARGUMENTS = Field(
    "arguments",
    Type.LINES,
    "Arguments",
    "Given to the program one by one; ${name} and $[yyyyMMdd-1] are replaced.",
    takes_variables=True,
)
PARAMETERS = Field(
    "parameters",
    Type.NAMES,
    "Parameters",
    "Environment variables of the job, and ${name} in its texts. A run may give others.",
    takes_variables=True,
)
SECRETS = Field(
    "secrets",
    Type.LINES,
    "Secrets",
    "Names of the workspace's secrets. Each is an environment variable; the log shows *** for it.",
)
FILES = Field(
    "files", Type.FILES, "Files", "Workspace files that the job needs, below $RUNYARD_FILES."
)
