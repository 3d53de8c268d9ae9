"""PySpark: a Python script with a Spark session, run through spark-submit."""

from __future__ import annotations

from collections.abc import Iterator

from apps.nodes.kinds.base import Command, Context, Fault, Kind, plain_lines
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
from apps.nodes.kinds.python import PYTHON, python_faults
from apps.nodes.spark import JARS, SPARK, local_file, spark_demand, spark_faults, submit

PY_FILES = Field(
    "py_files", Type.FILES, "Python files", "Modules and zips to import, here and on executors."
)


class PySpark(Kind):
    name = "pyspark"
    label = "PySpark"
    fields = (
        CONTENT,
        ENTRY_FILE,
        ARGUMENTS,
        PARAMETERS,
        SECRETS,
        PY_FILES,
        JARS,
        FILES,
        *SPARK,
        *PYTHON,
    )
    needs_spark = True

    def command(self, spec: Spec, context: Context) -> Command:
        files: dict[str, str] = {}
        if entry_file := spec.get("entry_file"):
            script = local_file(entry_file, context)
        else:
            files["main.py"] = plain_lines(spec["content"])
            script = "main.py"
        return submit(spec, context, script, files=files)

    def demand(self, spec: Spec, master: str) -> int:
        return spark_demand(spec, master)

    def further_faults(self, spec: Spec) -> Iterator[Fault]:
        yield from spark_faults(spec)
        yield from python_faults(spec)


KIND = PySpark()
