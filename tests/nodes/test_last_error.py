from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.nodes.last_error import last_error_line

PYTHON = """\
reading 3 files
Traceback (most recent call last):
  File "main.py", line 3, in <module>
    load()
  File "main.py", line 2, in load
    raise ValueError("no flights on 2013-02-30")
ValueError: no flights on 2013-02-30
"""
CHAINED = """\
Traceback (most recent call last):
  File "main.py", line 2, in <module>
    open("x")
FileNotFoundError: [Errno 2] No such file or directory: 'x'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "main.py", line 4, in <module>
    raise acme.errors.Missing("x") from None
acme.errors.Missing: x
"""
SHUTDOWN = """\
26/11/20 18:11:36 INFO SparkContext: Invoking stop() from shutdown hook
26/11/20 18:11:36 INFO SparkUI: Stopped Spark web UI at http://127.0.0.1:34031
"""
JAVA = """\
Exception in thread "main" java.lang.IllegalStateException: cannot load
\tat com.acme.Main.main(Main.java:7)
Caused by: java.io.IOException: disk 3 is full
\tat com.acme.Disk.write(Disk.java:70)
\t... 14 more
"""
PY4J = """\
Traceback (most recent call last):
  File "/attempt/main.py", line 3, in <module>
    s.createDataFrame(rows).collect()
py4j.protocol.Py4JJavaError: An error occurred while calling o41.collectToPython.
: org.apache.spark.SparkException: Job aborted due to stage failure
\tat org.apache.spark.scheduler.DAGScheduler.abortStage(DAGScheduler.scala:2856)
Caused by: java.lang.ArithmeticException: / by zero
\tat com.acme.Half.of(Half.java:3)
\t... 1 more

"""
CLASS = """\
26/11/20 18:11:21 WARN HiveConf: [NO_SUCH] warning of no weight
org.apache.spark.sql.AnalysisException: [TABLE_OR_VIEW_NOT_FOUND] The table `nope` is not there.
\tat org.apache.spark.sql.catalyst.analysis.package$.fail(package.scala:90)
"""
STATEMENT = "statement 4 of 6, line 5 failed: [PATH_NOT_FOUND] Path does not exist: file:/t."


@pytest.mark.parametrize(
    ("tail", "line"),
    [
        pytest.param("", "", id="an empty log"),
        pytest.param("\n \n", "", id="a blank log"),
        pytest.param("one\ntwo\n\n", "two", id="the last line"),
        pytest.param("a\nmain.sh: line 3: foo: not found\r\n", "main.sh: line 3: foo: not found",
                     id="carriage returns"),
        pytest.param("10 %\r50 %\rbroken pipe\n", "broken pipe", id="a progress bar's last state"),
        pytest.param("\x1b[31mERROR\x1b[0m: \x1b]8;;http://x\x07no\x1b]8;;\x07 match\n",
                     "ERROR: no match", id="ANSI codes"),
        pytest.param(PYTHON, "ValueError: no flights on 2013-02-30", id="a traceback"),
        pytest.param(PYTHON + SHUTDOWN, "ValueError: no flights on 2013-02-30",
                     id="a traceback before Spark's last words"),
        pytest.param(CHAINED, "acme.errors.Missing: x", id="the last of chained tracebacks"),
        pytest.param(PYTHON[25:], "ValueError: no flights on 2013-02-30",
                     id="a tail that begins within a traceback"),
        pytest.param(JAVA, "java.io.IOException: disk 3 is full", id="Java's deepest cause"),
        pytest.param(JAVA.partition("Caused")[0],
                     'Exception in thread "main" java.lang.IllegalStateException: cannot load',
                     id="Java without a cause"),
        pytest.param(PY4J + SHUTDOWN, "java.lang.ArithmeticException: / by zero",
                     id="Java's cause within Python"),
        pytest.param(
            CLASS,
            "org.apache.spark.sql.AnalysisException: [TABLE_OR_VIEW_NOT_FOUND] "
            "The table `nope` is not there.",
            id="Spark's error class",
        ),
        pytest.param(f"{CLASS}{STATEMENT}\n{SHUTDOWN}", STATEMENT, id="our SQL runner's last line"),
        pytest.param("x" * 501, "x" * 499 + "…", id="a long line"),
        pytest.param(SHUTDOWN, SHUTDOWN.splitlines()[1], id="nothing but chatter"),
    ],
)  # fmt: skip
def test_last_error_line(tail, line):
    assert last_error_line(tail) == line


@given(st.text(max_size=2000))
def test_any_log_gives_one_short_printable_line(tail):
    line = last_error_line(tail)

    assert len(line) <= 500
    assert "\n" not in line
    assert "\x1b" not in line
