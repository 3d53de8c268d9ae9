"""Spark submit: the free line of arguments that people know from spark-submit."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from apps.nodes.kinds.base import Command, Context, Fault, Kind, rendered
from apps.nodes.kinds.fields import (
    FILES,
    PARAMETERS,
    SECRETS,
    Field,
    Spec,
    Type,
    mebibytes,
    path_fault,
    text_faults,
)
from apps.nodes.kinds.python import PYTHON, python_faults
from apps.nodes.spark import compute_units, is_local, list_fault, local_file, spark_submit

#: Options of spark-submit (SparkSubmitOptionParser of Spark 4) that take a value …
_VALUES = frozenset(
    {
        "--archives",
        "--class",
        "--conf",
        "--deploy-mode",
        "--driver-class-path",
        "--driver-cores",
        "--driver-java-options",
        "--driver-library-path",
        "--driver-memory",
        "--exclude-packages",
        "--executor-cores",
        "--executor-memory",
        "--files",
        "--jars",
        "--keytab",
        "--name",
        "--num-executors",
        "--packages",
        "--principal",
        "--properties-file",
        "--proxy-user",
        "--py-files",
        "--queue",
        "--repositories",
        "--total-executor-cores",
    }
)
#: … and that take none.
_SWITCHES = frozenset({"--verbose", "--supervise", "--load-spark-defaults"})
_SHORT = {"-c": "--conf", "-v": "--verbose"}
_REFUSED = {
    "--master": "the master comes from the resource queue; take it out",
    "--remote": "it needs a Spark Connect server; take it out",
    "--kill": "it starts nothing; stop the other job's run instead",
    "--status": "it starts nothing; look at the other job's run instead",
    "--help": "it starts nothing; take it out",
    "--version": "it starts nothing; take it out",
    "--usage-error": "it starts nothing; take it out",
}
#: Options whose values name files, separated by commas.
_LISTS = frozenset({"--archives", "--files", "--jars", "--py-files", "--properties-file"})
_SHELLS = frozenset({"spark-shell", "pyspark-shell", "sparkr-shell", "spark-internal"})
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass
class Line:
    """An argument line, read as spark-submit reads it."""

    options: list[tuple[str, str | None]] = field(default_factory=list)
    application: str = ""
    arguments: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def conf(self) -> dict[str, str]:
        pairs = (value.partition("=") for name, value in self.options if name == "--conf" and value)
        return {name: value for name, _, value in pairs}

    def last(self, option: str, setting: str = "") -> str | None:
        """The value that counts of an option; else of the setting that means the same."""
        given = [value for name, value in self.options if name == option]
        return given[-1] if given else self.conf.get(setting)

    def rendered(self, values: Callable[[str], str]) -> Line:
        return Line(
            [(name, value if value is None else values(value)) for name, value in self.options],
            values(self.application),
            [values(argument) for argument in self.arguments],
        )

    @property
    def words(self) -> list[str]:
        """What values are put into."""
        values = [value for _, value in self.options if value]
        return [self.application, *self.arguments, *values]

    def named_files(self) -> Iterator[str]:
        """Paths in the workspace: what is neither absolute nor an address."""
        if is_workspace_path(self.application):
            yield self.application
        for name, value in self.options:
            if name in _LISTS:
                for item in (value or "").split(","):
                    path = item.partition("#")[0]
                    if is_workspace_path(path):
                        yield path


def is_workspace_path(path: str) -> bool:
    return bool(path) and not path.startswith(("/", "$")) and not _SCHEME.match(path)


def read(text: str) -> Line:
    """Read an argument line: split as a POSIX shell splits words, and nothing more of a shell.

    A leading `spark-submit` and line ends after a backslash are taken as people paste them.
    """
    line = Line()
    try:
        words = shlex.split(re.sub(r"\\\r?\n", " ", text))
    except ValueError as error:
        line.faults.append(f"cannot be split into arguments ({error}); close each quote")
        return line
    if words and words[0].rpartition("/")[2] == "spark-submit":
        del words[0]
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            line.application = word
            line.arguments = list(rest)
            break
        name, equals, value = word.partition("=")
        name = _SHORT.get(name, name)
        if name in _REFUSED:
            line.faults.append(f"holds {name}: {_REFUSED[name]}")
            if not equals and name in ("--master", "--remote", "--kill", "--status"):
                next(rest, None)
        elif name in _SWITCHES:
            line.options.append((name, None))
        elif name not in _VALUES:
            line.faults.append(f"holds {word}, which spark-submit does not know; take it out")
        elif equals:
            line.options.append((name, value))
        elif (following := next(rest, None)) is None:
            line.faults.append(f"ends after {name}; give its value")
        else:
            line.options.append((name, following))
    return line


class SparkSubmit(Kind):
    name = "spark_submit"
    label = "Spark submit"
    fields = (
        Field(
            "submit_line",
            Type.TEXT,
            "Arguments of spark-submit",
            "Such as: --class com.acme.Main --driver-memory 2g jars/app.jar ${ds}",
            required=True,
            language="shell",
        ),
        PARAMETERS,
        SECRETS,
        FILES,
        *PYTHON,
    )
    needs_spark = True

    def command(self, spec: Spec, context: Context) -> Command:
        line = read(spec["submit_line"]).rendered(rendered(spec, context))
        words: list[str] = []
        for name, value in line.options:
            words.append(name)
            if value is not None:
                words.append(_local_list(value, context) if name in _LISTS else value)
        words += [_local(line.application, context), *line.arguments]
        return spark_submit(
            spec,
            context,
            words,
            driver_cores=_whole(line.last("--driver-cores", "spark.driver.cores"), 1),
            driver_options=line.last("--driver-java-options", "spark.driver.extraJavaOptions")
            or "",
            files={},
        )

    def demand(self, spec: Spec, master: str) -> int:
        line = read(spec["submit_line"])
        conf = line.conf
        cores = _whole(line.last("--driver-cores", "spark.driver.cores"), 1)
        driver = compute_units(cores, _memory(line.last("--driver-memory", "spark.driver.memory")))
        if is_local(master):
            return driver
        each = _whole(line.last("--executor-cores", "spark.executor.cores"), 1)
        executors = _whole(line.last("--num-executors", "spark.executor.instances"), 2)
        if total := line.last("--total-executor-cores", "spark.cores.max"):
            executors = math.ceil(_whole(total, each) / each)
        elif conf.get("spark.dynamicAllocation.enabled") == "true":
            # It may take so many; without a limit it may take what it starts with, at least.
            executors = _whole(conf.get("spark.dynamicAllocation.maxExecutors"), executors)
        memory = _memory(line.last("--executor-memory", "spark.executor.memory"))
        return driver + executors * compute_units(each, memory)

    def files_of(self, spec: Spec) -> set[str]:
        return super().files_of(spec) | set(read(spec.get("submit_line") or "").named_files())

    def texts(self, spec: Spec) -> Iterator[tuple[str, str, str]]:
        """Its words, as they are when values are put in: the line's quotes are gone then."""
        yield from super().texts(spec)
        line = read(spec.get("submit_line") or "")
        yield from (("submit_line", "", word) for word in line.words)

    def further_faults(self, spec: Spec) -> Iterator[Fault]:
        yield from python_faults(spec)
        if "submit_line" in spec:
            yield from (Fault("submit_line", message) for message in _line_faults(spec))


def _line_faults(spec: Mapping[str, str]) -> Iterator[str]:
    line = read(spec["submit_line"])
    yield from line.faults
    if line.faults:
        return
    if not line.application:
        yield "names no application; end it with a JAR or a Python file and its arguments"
    elif line.application in _SHELLS:
        yield f"names {line.application}, which waits for a person; name a JAR or a Python file"
    for word in line.words:
        yield from text_faults(word)
    for path in line.named_files():
        if fault := path_fault(path) or list_fault(path):
            yield fault
    for name, value in line.options:
        if name == "--conf" and "=" not in (value or ""):
            yield f"holds --conf {value}; write it as --conf name=value"
    for name in ("spark.master", "spark.remote"):
        if name in line.conf:
            yield f"sets {name}; the master comes from the resource queue; take it out"
    for option, setting in (
        ("--driver-cores", "spark.driver.cores"),
        ("--executor-cores", "spark.executor.cores"),
        ("--num-executors", "spark.executor.instances"),
        ("--total-executor-cores", "spark.cores.max"),
    ):
        value = line.last(option, setting)
        least = 0 if option == "--num-executors" else 1
        if value is not None and _whole(value, -1) < least:
            yield f"holds {option} {value}; give a whole number from {least}"
    for option, setting in (
        ("--driver-memory", "spark.driver.memory"),
        ("--executor-memory", "spark.executor.memory"),
    ):
        value = line.last(option, setting)
        if value is not None and _memory(value, "") == "":
            yield f"holds {option} {value}; write it as 512m or 2g"
    if "\r" in spec["submit_line"].replace("\r\n", "\n"):
        yield "holds a carriage return, which spark-submit drops; take it out"


def _whole(value: str | None, default: int) -> int:
    return int(value) if value and value.isascii() and value.isdigit() else default


def _memory(value: str | None, default: str = "1g") -> str:
    """An amount that `mebibytes` reads. Spark takes a bare number for MiB."""
    if value is None:
        return default
    value = f"{value}m" if value.isascii() and value.isdigit() else value
    try:
        mebibytes(value)
    except ValueError:
        return default
    return value


def _local(path: str, context: Context) -> str:
    return local_file(path, context) if path in context.files else path


def _local_list(value: str, context: Context) -> str:
    parts = (item.partition("#") for item in value.split(","))
    return ",".join(f"{_local(path, context)}{mark}{alias}" for path, mark, alias in parts)


KIND = SparkSubmit()
