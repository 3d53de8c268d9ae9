"""SQL: statements for Spark SQL, run one after the other by sql_runner.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from apps.nodes.kinds.base import (
    CannotStart,
    Command,
    Context,
    Fault,
    Kind,
    plain_lines,
    rendered,
)
from apps.nodes.kinds.fields import (
    CONTENT,
    ENTRY_FILE,
    FILES,
    PARAMETERS,
    SECRETS,
    Field,
    Spec,
    Type,
)
from apps.nodes.spark import JARS, SPARK, spark_demand, spark_faults, submit

RUNNER = Path(__file__).with_name("sql_runner.py").read_text(encoding="utf-8")

ROW_LIMIT = Field(
    "row_limit",
    Type.INTEGER,
    "Rows shown",
    "Of each result, in the log and on the run page.",
    default=100,
    minimum=0,
    maximum=10_000,
)


class Sql(Kind):
    name = "sql"
    label = "Spark SQL"
    fields = (
        replace(
            CONTENT,
            help="Statements, each ended by ';'. ${name} and $[yyyyMMdd-1] are replaced.",
            language="sql",
            takes_variables=True,
        ),
        ENTRY_FILE,
        ROW_LIMIT,
        PARAMETERS,
        SECRETS,
        JARS,
        FILES,
        *SPARK,
    )
    needs_spark = True

    def command(self, spec: Spec, context: Context) -> Command:
        """As every kind's, but that it reads the entry file: variables are replaced in it too."""
        text = spec.get("content")
        if entry_file := spec.get("entry_file"):
            try:
                text = context.files[entry_file].read_text(encoding="utf-8-sig")
            except UnicodeDecodeError as error:
                raise CannotStart(
                    f"{entry_file} is not UTF-8 ({error}); save it as UTF-8"
                ) from None
        return submit(
            spec,
            context,
            "runyard_sql.py",
            arguments=("statements.sql", str(ROW_LIMIT.of(spec))),
            files={
                "runyard_sql.py": RUNNER,
                "statements.sql": rendered(spec, context)(plain_lines(text or "")),
            },
        )

    def files_with_variables(self, spec: Spec) -> set[str]:
        return {spec["entry_file"]} if spec.get("entry_file") else set()

    def demand(self, spec: Spec, master: str) -> int:
        return spark_demand(spec, master)

    def further_faults(self, spec: Spec) -> Iterator[Fault]:
        yield from spark_faults(spec)


KIND = Sql()
