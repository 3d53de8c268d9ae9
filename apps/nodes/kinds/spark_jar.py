"""Spark JAR: a program in Java or Scala, run through spark-submit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from apps.nodes.kinds.base import Command, Context, Fault, Kind
from apps.nodes.kinds.fields import (
    ARGUMENTS,
    ENTRY_FILE,
    FILES,
    PARAMETERS,
    SECRETS,
    Field,
    Spec,
    Type,
)
from apps.nodes.spark import JARS, SPARK, local_file, spark_demand, spark_faults, submit

_CLASS = re.compile(r"[^\W\d][\w$]*(\.[^\W\d][\w$]*)*")


class SparkJar(Kind):
    name = "spark_jar"
    label = "Spark JAR"
    fields = (
        replace(ENTRY_FILE, label="Main JAR", help="A workspace file.", required=True),
        Field(
            "main_class",
            Type.LINE,
            "Main class",
            "With its package; empty: the one that the JAR's manifest names.",
        ),
        ARGUMENTS,
        PARAMETERS,
        SECRETS,
        JARS,
        FILES,
        *SPARK,
    )
    needs_spark = True

    def command(self, spec: Spec, context: Context) -> Command:
        main_class = spec.get("main_class")
        options = ("--class", main_class) if main_class else ()
        return submit(spec, context, local_file(spec["entry_file"], context), options=options)

    def demand(self, spec: Spec, master: str) -> int:
        return spark_demand(spec, master)

    def further_faults(self, spec: Spec) -> Iterator[Fault]:
        main_class = spec.get("main_class")
        if main_class and not _CLASS.fullmatch(main_class):
            yield Fault("main_class", f"{main_class!r} is no class; write it as com.acme.Main")
        yield from spark_faults(spec)


KIND = SparkJar()
