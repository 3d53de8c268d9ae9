from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.engine.timevars import Moment
from apps.nodes.kinds import registry
from apps.nodes.kinds.base import CannotStart, Spark, write_files
from apps.nodes.kinds.registry import UnknownKind, kind, kinds
from apps.nodes.spark import SparkTrace, compute_units
from tests.nodes.attempts import Ended, context, recorder, run, start, workspace_file

#: What may stand in an argument: anything but NUL, the metacharacters of all languages first.
TEXT = st.text(
    st.one_of(
        st.sampled_from(" \t\n'\"`$\\;&|<>(){}[]*?!#~%^=,:-@"),
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    ),
    max_size=40,
)
#: spark-submit itself drops carriage returns, so that specs with one are refused.
LINE = TEXT.map(lambda text: text.replace("\r", "") + "x")


def literal(text: str) -> str:
    """A text whose `${…}` is not a variable's place."""
    return re.sub(r"\$(?=\{|\[[A-Za-z])", "$$", text)


def faults(name: str, spec: object) -> list[str]:
    return [str(fault) for fault in kind(name).validate(spec)]


# --- what runs ------------------------------------------------------------------------------


def test_shell_job_runs_in_its_folder_with_an_environment_built_from_nothing(tmp_path):
    where = context(
        tmp_path / "Straße 1",
        parameters={"day": "2026-03-01"},
        moment=Moment(datetime(2026, 3, 2, 23, 30, tzinfo=UTC), ZoneInfo("Europe/Berlin")),
        path="/usr/bin:/bin",
    )
    spec = {"content": "pwd\r\necho $1 $2 ${ds}\r\nexec env",
            "arguments": ["a ${day}", "$[yyyyMMdd-1]"],
            "parameters": {"day": "never", "own": "${cycle_date}/${day}"}}  # fmt: skip

    ended = run("shell", spec, where)

    folder = str(where.folder)
    pwd, argument, *rest = ended.log.splitlines()
    assert (ended.status, pwd, argument) == (0, folder, "a 2026-03-01 20260302 2026-03-02")
    given = dict(line.split("=", 1) for line in rest)
    bashs_own = {"PWD", "OLDPWD", "SHLVL", "_"}
    assert {name: value for name, value in given.items() if name not in bashs_own} == {
        "HOME": folder,
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "LOGNAME": "runyard",
        "PATH": "/usr/bin:/bin",
        "PYTHONUNBUFFERED": "1",
        "RUNYARD_ATTEMPT": "12.1",
        "RUNYARD_CYCLE": "2026-03-02T23:30:00+00:00",
        "RUNYARD_DATA": str(where.data),
        "RUNYARD_FILES": f"{folder}/files",
        "RUNYARD_NODE": "load",
        "RUNYARD_OUTPUT": f"{folder}/output",
        "RUNYARD_OUTPUT_DIR": f"{folder}/outputs",
        "RUNYARD_RUN": "7",
        "RUNYARD_WORKFLOW": "flight_delays",
        "RUNYARD_WORKSPACE": "sample",
        "TMPDIR": f"{folder}/tmp",
        "USER": "runyard",
        "cycle_date": "2026-03-03",
        "cycle_time": "2026-03-03T00:30:00+01:00",
        "data_date": "2026-03-02",
        "data_date_nodash": "20260302",
        "day": "2026-03-01",
        "ds": "2026-03-02",
        "ds_nodash": "20260302",
        "dt": "2026-03-02",
        "dt_nodash": "20260302",
        "interval_end": "2026-03-03T00:30:00+01:00",
        "interval_start": "2026-03-02T00:30:00+01:00",
        "own": "2026-03-03/2026-03-01",
        "ts": "2026-03-02T00:30:00",
        "ts_nodash": "20260302003000",
    }


@pytest.mark.parametrize(
    ("content", "status", "log"),
    [
        pytest.param("echo a; exit 3", 3, "a\n", id="its status is the script's"),
        pytest.param("nope", 127, "main.sh: line 1: nope: command not found\n", id="no program"),
        pytest.param("kill -9 $$", -9, "", id="killed"),
        pytest.param("#!/bin/sh -e\nfalse\necho on", 1, "", id="another interpreter"),
        pytest.param("#!/usr/bin/env bash\necho $0", 0, "main.sh\n", id="found by env"),
        pytest.param("touch $RUNYARD_OUTPUT $RUNYARD_OUTPUT_DIR/a $TMPDIR/b && ls", 0,
                     "files\nmain.sh\noutput\noutputs\ntmp\n", id="its folders are there"),
    ],
)  # fmt: skip
def test_shell_content(tmp_path, content, status, log):
    assert run("shell", {"content": content}, context(tmp_path)) == Ended(status, log)


def test_shell_runs_a_workspace_file(tmp_path):
    where = context(tmp_path)
    workspace_file(where, "etl/it's a file.sh", "cat $RUNYARD_FILES/etl/in.txt; echo $@")
    workspace_file(where, "etl/in.txt", "in\n")
    spec = {"entry_file": "etl/it's a file.sh", "files": ["etl/in.txt"], "arguments": ["*"]}

    assert kind("shell").files_of(spec) == {"etl/it's a file.sh", "etl/in.txt"}
    assert run("shell", spec, where) == Ended(0, "in\nfiles outputs tmp\n")


def test_python_job_runs_with_its_own_interpreter_and_not_the_products(tmp_path):
    where = context(tmp_path)
    content = (
        "import importlib.util, json, os, sys\n"
        "print(json.dumps([sys.argv, sys.prefix, os.environ['day'],\n"
        "                  importlib.util.find_spec('celery') is None]))\n"
    )
    spec = {"content": content, "arguments": ["Köln 北京"], "parameters": {"day": "$(x)"}}

    ended = run("python", spec, where)

    assert (ended.status, json.loads(ended.log)) == (
        0,
        [["main.py", "Köln 北京"], sys.base_prefix, "$(x)", True],
    )


def test_broken_python_script_ends_with_its_traceback(tmp_path):
    ended = run("python", {"content": "def f():\n    1 / 0\n\nf()"}, context(tmp_path))

    assert ended.status == 1
    assert ended.log.splitlines()[0] == "Traceback (most recent call last):"
    assert ended.log.splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_python_file_imports_its_neighbours(tmp_path):
    where = context(tmp_path)
    workspace_file(where, "etl/main.py", "import helper; helper.hello(); raise SystemExit(5)")
    workspace_file(where, "etl/helper.py", "def hello(): print('hello')")

    assert run("python", {"entry_file": "etl/main.py"}, where) == Ended(5, "hello\n")


def test_a_commands_files_never_follow_a_link(tmp_path):
    where = context(tmp_path)
    (where.folder / "main.sh").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(FileExistsError):
        write_files(kind("shell").command({"content": "true"}, where))

    assert not (tmp_path / "elsewhere").exists()


# --- metacharacters -------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(arguments=st.lists(TEXT, max_size=5), value=TEXT, content=TEXT)
def test_every_text_reaches_a_shell_job_as_it_is(tmp_path_factory, arguments, value, content):
    where = context(tmp_path_factory.mktemp("shell"))
    spec = {
        "content": f'printf \'%s\\0\' "$@" "$value"\nexit 0\n{content}',
        "arguments": [literal(argument) for argument in arguments],
        "parameters": {"value": value},
    }

    ended = run("shell", spec, where)

    assert ended == Ended(0, "".join(f"{each}\0" for each in [*arguments, value]))
    assert (where.folder / "main.sh").read_bytes().decode() == spec["content"].replace("\r\n", "\n")


@settings(max_examples=40, deadline=None)
@given(
    arguments=st.lists(LINE, max_size=4),
    value=TEXT,
    setting=LINE,
    node=LINE,
    given_at_launch=LINE,
)
def test_every_text_reaches_spark_submit_as_it_is(
    tmp_path_factory, arguments, value, setting, node, given_at_launch
):
    folder = tmp_path_factory.mktemp("spark")
    home = recorder(folder)
    where = context(
        folder,
        node=node,
        parameters={"day": literal(given_at_launch)},
        spark=Spark(home, folder / "java"),
    )
    spec = {
        "content": "pass",
        "arguments": [*(literal(argument) for argument in arguments), "${day}"],
        "parameters": {"value": literal(value)},
        "spark": {"conf": {"spark.x": literal(setting)}},
    }

    argv, env = json.loads(run("pyspark", spec, where).log)

    assert argv[-len(arguments) - 2 :] == ["main.py", *arguments, given_at_launch]
    assert f"spark.x={setting}" in argv
    assert f"spark.app.name=flight_delays/{node}" in argv
    assert (env["value"], env["day"], env["RUNYARD_NODE"]) == (value, given_at_launch, node)


@settings(max_examples=40, deadline=None)
@given(words=st.lists(LINE, max_size=4), value=LINE)
def test_submit_line_is_split_before_values_are_put_in(tmp_path_factory, words, value):
    folder = tmp_path_factory.mktemp("submit")
    where = context(folder, parameters={"v": literal(value)}, spark=Spark(recorder(folder), folder))
    quoted = " ".join("'" + literal(word).replace("'", "'\\''") + "'" for word in words)
    spec = {"submit_line": f"--class Main /opt/app.jar {quoted} ${{v}}"}

    argv, _ = json.loads(run("spark_submit", spec, where).log)

    assert argv[-len(words) - 4 :] == ["--class", "Main", "/opt/app.jar", *words, value]


# --- the line of spark-submit ---------------------------------------------------------------


def test_spark_job_on_the_workers_own_machine_is_kept_to_it(tmp_path):
    folder = tmp_path / "Köln 1"
    where = context(folder, spark=Spark(recorder(folder), folder / "java"))
    workspace_file(where, "lib/a.py", "")
    workspace_file(where, "lib/b.jar", "")
    spec = {
        "content": "pass",
        "py_files": ["lib/a.py"],
        "jars": ["lib/b.jar"],
        "spark": {"driver_cores": 2, "driver_memory": "2g", "executor_memory": "9g"},
    }

    argv, env = json.loads(run("pyspark", spec, where).log)

    assert argv == [
        *("--master", "local[2]"),
        *("--conf", "spark.app.name=flight_delays/load"),
        *("--conf", "spark.ui.port=0"),
        *("--conf", "spark.ui.killEnabled=false"),
        *("--conf", "spark.driver.host=127.0.0.1"),
        *("--conf", "spark.driver.bindAddress=127.0.0.1"),
        *("--conf", "spark.authenticate=true"),
        *("--conf", "spark.test.appId=local-12.1"),
        *("--driver-memory", "2g"),
        *("--jars", "files/lib/b.jar"),
        *("--py-files", "files/lib/a.py"),
        "main.py",
    ]
    python = str(where.python)
    assert (env["PYSPARK_PYTHON"], env["PYSPARK_DRIVER_PYTHON"]) == (python, python)
    assert (env["SPARK_LOCAL_IP"], env["SPARK_LOCAL_DIRS"]) == ("127.0.0.1", "tmp")
    assert env["SPARK_SUBMIT_OPTS"] == (
        "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:-UsePerfData "
        f'"-Djava.io.tmpdir={where.folder}/tmp" "-Duser.home={where.folder}" '
        "-Dlog4j2.configurationFile=log4j2.properties"
    )


@pytest.mark.parametrize(
    ("master", "own"),
    [
        pytest.param("yarn", ["--conf", "spark.yarn.tags=runyard-12.1"], id="yarn"),
        pytest.param(
            "k8s://https://host:6443",
            [
                *("--conf", "spark.kubernetes.driver.label.runyard-attempt=12.1"),
                *("--conf", "spark.kubernetes.executor.label.runyard-attempt=12.1"),
            ],
            id="kubernetes",
        ),
        pytest.param("spark://host:7077", [], id="standalone"),
    ],
)
def test_spark_job_on_a_cluster_is_tagged_and_sized(tmp_path, master, own):
    spark = Spark(recorder(tmp_path), tmp_path, {"HADOOP_CONF_DIR": "/etc/hadoop"})
    where = context(tmp_path, master=master, spark=spark)
    spec = {"content": "pass", "spark": {"driver_cores": 2, "executors": 3, "executor_cores": 4,
                                         "executor_memory": "8g"}}  # fmt: skip

    argv, env = json.loads(run("pyspark", spec, where).log)

    total = ["--total-executor-cores", "12"] if master.startswith("spark:") else []
    assert argv == [
        *("--master", master),
        *("--conf", "spark.app.name=flight_delays/load"),
        *("--conf", "spark.ui.port=0"),
        *("--conf", "spark.ui.killEnabled=false"),
        *own,
        *("--driver-memory", "1g", "--driver-cores", "2", "--num-executors", "3"),
        *("--executor-cores", "4", "--executor-memory", "8g"),
        *total,
        "main.py",
    ]
    assert env["HADOOP_CONF_DIR"] == "/etc/hadoop"
    assert "SPARK_LOCAL_IP" not in env


def test_submit_line_takes_workspace_files_and_wins_over_our_settings(tmp_path):
    where = context(tmp_path, spark=Spark(recorder(tmp_path), tmp_path))
    for path in ["a.jar", "lib/b.jar", "x.txt"]:
        workspace_file(where, path, "")
    spec = {
        "submit_line": "spark-submit --class=Main --driver-cores 3 \\\n"
        "  --jars lib/b.jar,/opt/c.jar --files x.txt#y \\\n"
        "  -c spark.ui.port=4050 --driver-java-options '-XX:+UseG1GC -Da=b' \\\n"
        "  a.jar --master spark://kept ${RUNYARD_DATA}"
    }

    argv, env = json.loads(run("spark_submit", spec, where).log)

    assert kind("spark_submit").files_of(spec) == {"a.jar", "lib/b.jar", "x.txt"}
    assert argv[:2] == ["--master", "local[3]"]
    assert argv[argv.index("--class") :] == [
        *("--class", "Main", "--driver-cores", "3"),
        *("--jars", "files/lib/b.jar,/opt/c.jar", "--files", "files/x.txt#y"),
        *("--conf", "spark.ui.port=4050"),
        *("--driver-java-options", "-XX:+UseG1GC -Da=b"),
        *("files/a.jar", "--master", "spark://kept", str(where.data)),
    ]
    assert "UseSerialGC" not in env["SPARK_SUBMIT_OPTS"]


def test_spark_job_on_a_worker_without_spark_says_what_to_install(tmp_path):
    with pytest.raises(CannotStart) as refused:
        kind("pyspark").command({"content": "pass"}, context(tmp_path))

    assert str(refused.value) == (
        "this worker has no Spark; install it with `./runyard up --spark`"
    )


# --- faults ---------------------------------------------------------------------------------


def test_all_faults_of_a_spec_are_named_at_once():
    spec = {
        "content": "print()",
        "entry_file": "../x.py",
        "arguments": ["a\0b", 3],
        "parameters": {"PATH": "x", "RUNYARD_RUN": "1", "1a": "x", "ok": 2},
        "files": ["/etc/passwd", "a//b", ""],
        "colour": "red",
        "argument": ["x"],
        "spark": {
            "driver_core": 1,
            "driver_cores": True,
            "executors": -1,
            "driver_memory": "lots",
            "conf": {"spark.master": "yarn", "fs.x": "1", "a b": "c"},
        },
        "python": {"requirements": ["-e .", "polars==", "a @ file:///x"], "interpreter": "bin/py"},
        "py_files": "a.py",
    }

    assert faults("pyspark", spec) == [
        "colour: a job of kind pyspark has no such setting; take it out",
        "argument: a job of kind pyspark has no such setting; did you mean arguments?",
        "spark.driver_core: a job of kind pyspark has no such setting; "
        "did you mean spark.driver_cores?",
        "entry_file: '../x.py' leads out of the workspace; leave out '..'",
        "arguments: item 1 holds a NUL character; take it out",
        "arguments: item 2 is a number; give a string",
        "parameters: PATH is set by Runyard; choose another name",
        "parameters: RUNYARD_RUN is set by Runyard; choose another name",
        "parameters: '1a' is no name; use letters, digits and '_', no digit first",
        "parameters: ok is a number; give a string",
        "py_files: is a string; give a list of strings",
        "files: item 1 '/etc/passwd' is absolute; give the path inside the workspace, such as "
        "etl/load.py",
        "files: item 2 'a//b' is no path of a file; write it as etl/load.py",
        "files: item 3 '' is no path of a file; write it as etl/load.py",
        "spark.driver_cores: is true or false; give a whole number",
        "spark.driver_memory: 'lots' is no amount of memory; write it as 512m or 2g",
        "spark.executors: is -1; the least is 0",
        "spark.conf: 'a b' is no name of a setting; use letters, digits, '.', '-' and '_'",
        "entry_file: the job has content as well; leave one of the two empty",
        "python.interpreter: the job has requirements as well; choose one of the two",
        "python.interpreter: is not absolute; give a path such as /usr/bin/python3",
        "python.requirements: item 1 '-e .' is an option of pip; give a package such as "
        "polars==1.9",
        "python.requirements: item 2 'polars==' is no requirement; give a package such as "
        "polars==1.9",
        "python.requirements: item 3 'a @ file:///x' has an address that is not https; it cannot "
        "be locked by a hash",
    ]


@pytest.mark.parametrize(
    ("name", "spec", "expected"),
    [
        pytest.param("shell", [], ["spec: is a list; give an object"], id="no object"),
        pytest.param("shell", {}, ["content: is empty; write the job's text or name an entry file"],
                     id="nothing to run"),
        pytest.param("shell", {"content": " \n"},
                     ["content: is empty; write the job's text or name an entry file"],
                     id="blank content"),
        pytest.param("shell", {"content": "x" * (1 << 20) + "x"},
                     ["content: has 1,048,577 bytes; 1,048,576 are allowed; put it into a "
                      "workspace file"], id="too much content"),
        pytest.param("shell", {"content": "a", "arguments": ["ü" * 50_001]},
                     ["arguments: item 1 has 100,002 bytes; 100,000 are allowed; put it into a "
                      "workspace file"], id="an argument that Linux does not take"),
        pytest.param("shell", {"content": "a\ud800"},
                     ["content: holds half a surrogate pair, which is no text; take it out"],
                     id="half a surrogate pair"),
        pytest.param("shell", {"content": "a", "row_limit": 3},
                     ["row_limit: a job of kind shell has no such setting; take it out"],
                     id="another kind's setting"),
        pytest.param("shell", {"content": "a", "row_limit": None, "python": {}}, [],
                     id="another kind's setting left empty"),
        pytest.param("sql", {"content": "a", "spark": "x"}, ["spark: is a string; give an object"],
                     id="a section that is none"),
        pytest.param("sql", {"content": "a", "row_limit": 10_001},
                     ["row_limit: is 10001; the most is 10000"], id="too many rows"),
        pytest.param("sql", {"content": "a", "spark": {"conf": {"spark.driver.memory": "1g",
                                                                "fs.x": "1"}}},
                     ["spark.conf: spark.driver.memory is not set here; set driver_memory",
                      "spark.conf: fs.x is ignored by Spark; start it with 'spark.' (Hadoop's "
                      "settings with 'spark.hadoop.')"], id="settings with a place of their own"),
        pytest.param("spark_jar", {"main_class": "com acme"},
                     ["entry_file: is missing; fill it in",
                      "main_class: 'com acme' is no class; write it as com.acme.Main"],
                     id="a jar job without a jar"),
        pytest.param("spark_jar", {"entry_file": "a,b.jar", "arguments": ["a\rb"]},
                     ["entry_file: 'a,b.jar' holds ',', which spark-submit reads otherwise; "
                      "rename it",
                      "arguments: item 1 holds a carriage return, which spark-submit drops; take "
                      "it out"], id="what spark-submit reads otherwise"),
        pytest.param("spark_submit", {}, ["submit_line: is missing; fill it in"], id="no line"),
        pytest.param("spark_submit", {"submit_line": "--class 'a b.jar"},
                     ["submit_line: cannot be split into arguments (No closing quotation); close "
                      "each quote"], id="an open quote"),
        pytest.param("spark_submit", {"submit_line": "--master yarn --kill x --colour a.jar"},
                     ["submit_line: holds --master: the master comes from the resource queue; "
                      "take it out",
                      "submit_line: holds --kill: it starts nothing; stop the other job's run "
                      "instead",
                      "submit_line: holds --colour, which spark-submit does not know; take it out"],
                     id="what breaks us"),
        pytest.param("spark_submit", {"submit_line": "--class"},
                     ["submit_line: ends after --class; give its value"], id="no value"),
        pytest.param("spark_submit", {"submit_line": "--class A"},
                     ["submit_line: names no application; end it with a JAR or a Python file and "
                      "its arguments"], id="no application"),
        pytest.param("spark_submit", {"submit_line": "spark-shell"},
                     ["submit_line: names spark-shell, which waits for a person; name a JAR or a "
                      "Python file"], id="a shell"),
        pytest.param("spark_submit",
                     {"submit_line": "--jars ../a.jar,b?.jar --conf x --conf spark.master=yarn "
                      "--num-executors 0 --executor-cores 0 --driver-memory much a.jar"},
                     ["submit_line: '../a.jar' leads out of the workspace; leave out '..'",
                      "submit_line: 'b?.jar' holds '?', which spark-submit reads otherwise; "
                      "rename it",
                      "submit_line: holds --conf x; write it as --conf name=value",
                      "submit_line: sets spark.master; the master comes from the resource queue; "
                      "take it out",
                      "submit_line: holds --executor-cores 0; give a whole number from 1",
                      "submit_line: holds --driver-memory much; write it as 512m or 2g"],
                     id="values that cannot be"),
    ],
)  # fmt: skip
def test_faults(name, spec, expected):
    assert faults(name, spec) == expected


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["content", "entry_file", "arguments", "parameters", "files", "spark",
                         "python", "conf", "submit_line", "requirements", "jars", "row_limit"]),
        inner, max_size=4),
    max_leaves=12,
), st.sampled_from(["shell", "python", "sql", "pyspark", "spark_jar", "spark_submit"]))  # fmt: skip
def test_any_json_is_judged_without_an_error(spec, name):
    for fault in kind(name).validate(spec):
        assert fault.field
        assert fault.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("SELECT '${nope}', '${day}'",
                     "unknown variable ${nope}; define it, give it a default as in ${nope:-x}, or "
                     "write $${nope} to keep it as text", id="one"),
        pytest.param("SELECT '${dya}', '${a-1}', '${dya}'",
                     "unknown variable ${dya}, did you mean ${day}?; ${a-1} is no variable; write "
                     "$${a-1} to keep it as text", id="all at once"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["content", "entry_file"])
def test_sql_with_unknown_variables_is_not_started(tmp_path, text, message, place):
    where = context(tmp_path, parameters={"day": "2026-03-01"},
                    spark=Spark(recorder(tmp_path), tmp_path))  # fmt: skip
    workspace_file(where, "a.sql", text)
    spec = {place: "a.sql" if place == "entry_file" else text}

    with pytest.raises(CannotStart) as refused:
        kind("sql").command(spec, where)

    assert str(refused.value) == message


# --- demand ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "spec", "master", "demand"),
    [
        pytest.param("shell", {"content": "x"}, "local", 250, id="shell"),
        pytest.param("python", {"content": "x"}, "yarn", 250, id="python"),
        pytest.param("sql", {"content": "x"}, "local", 1000, id="one local core"),
        pytest.param("sql", {"content": "x", "spark": {"driver_cores": 3, "executors": 50}},
                     "local[*]", 3000, id="local means the driver's cores"),
        pytest.param("pyspark", {"content": "x", "spark": {"driver_memory": "10g"}}, "local", 2500,
                     id="memory where it is more"),
        pytest.param("pyspark", {"content": "x"}, "yarn", 3000, id="driver and two executors"),
        pytest.param("spark_jar", {"entry_file": "x.jar", "spark": {
            "driver_cores": 2, "executors": 3, "executor_cores": 2, "executor_memory": "12g"}},
                     "spark://host:7077", 11000, id="each process by its larger part"),
        pytest.param("spark_submit", {"submit_line": "a.jar"}, "local", 1000, id="a bare line"),
        pytest.param("spark_submit", {"submit_line": "--driver-cores 2 -c spark.driver.memory=12288"
                                      " a.jar --driver-cores 9"}, "local", 3000,
                     id="a line's driver"),
        pytest.param("spark_submit", {"submit_line": "--num-executors 4 --conf "
                                      "spark.executor.cores=2 a.jar"}, "yarn", 9000,
                     id="a line's executors"),
        pytest.param("spark_submit", {"submit_line": "--total-executor-cores 5 --executor-cores 2 "
                                      "a.jar"}, "spark://h:7077", 7000, id="a line's total"),
        pytest.param("spark_submit", {"submit_line": "-c spark.dynamicAllocation.enabled=true -c "
                                      "spark.dynamicAllocation.maxExecutors=7 a.jar"},
                     "yarn", 8000, id="a line that grows"),
    ],
)  # fmt: skip
def test_demand(name, spec, master, demand):
    assert kind(name).validate(spec) == []
    assert kind(name).demand(spec, master) == demand


def test_part_of_a_compute_unit_is_rounded_up():
    assert [compute_units(1, each) for each in ("4096m", "4097m", "1t", "1k")] == [
        1000,
        1001,
        256_000,
        1000,
    ]


# --- what a kind says of itself -------------------------------------------------------------


def test_fields_make_the_schema():
    assert kind("sql").schema()["properties"].keys() == {
        "content", "entry_file", "row_limit", "secrets",
        "parameters", "jars", "files", "spark",
    }  # fmt: skip
    assert kind("spark_jar").schema()["required"] == ["entry_file"]
    assert kind("sql").schema()["properties"]["row_limit"] == {
        "type": "integer",
        "minimum": 0,
        "maximum": 10_000,
        "title": "Rows shown",
        "description": "Of each result, in the log and on the run page.",
        "default": 100,
    }
    assert kind("python").schema()["properties"]["python"] == {
        "type": "object",
        "properties": {
            "requirements": {
                "type": "array",
                "items": {"type": "string"},
                "maxItems": 1000,
                "title": "Requirements",
                "description": "Packages such as polars==1.9; installed once into an environment "
                "of their own.",
            },
            "interpreter": {
                "type": "string",
                "title": "Interpreter",
                "description": "Path of a Python on the worker, instead of requirements.",
            },
        },
        "additionalProperties": False,
    }


def test_defaults_have_no_faults():
    for each in kinds().values():
        for field in each.fields:
            if field.default is not None:
                assert list(field.faults(field.default)) == []


def test_unknown_kind_names_those_that_exist():
    with pytest.raises(UnknownKind) as unknown:
        kind("bash")

    assert str(unknown.value).startswith(
        "no kind 'bash'; there are shell, python, sql, pyspark, spark_jar, spark_submit"
    )


@pytest.fixture
def fresh_registry():
    registry.kinds.cache_clear()
    yield
    registry.kinds.cache_clear()


def test_installed_package_brings_a_kind_and_a_broken_one_is_left_out(
    tmp_path, monkeypatch, fresh_registry, caplog
):
    about = tmp_path / "acme_runyard-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-runyard\nVersion: 1\n")
    (about / "entry_points.txt").write_text(
        "[runyard.kinds]\necho = acme_runyard:KIND\nbroken = acme_runyard:MISSING\n"
        "shell = acme_runyard:SHELL\n"
    )
    (tmp_path / "acme_runyard.py").write_text(
        "from apps.nodes.kinds.shell import Shell\n"
        "class Echo(Shell):\n    name, label = 'echo', 'Echo'\n"
        "KIND, SHELL = Echo(), Shell()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    added = kinds().keys() - {each.name for each in registry.BUILT_IN}

    assert added == {"echo"}
    assert start(kind("echo").command({"content": "echo hi"}, context(tmp_path))).log == "hi\n"
    assert [record.getMessage() for record in caplog.records] == [
        "kind broken (acme_runyard:MISSING) cannot be loaded; it is left out",
        "kind shell (acme_runyard:SHELL) is no Kind or has a taken name",
    ]


# --- what a log gives away ------------------------------------------------------------------

LOCAL_LOG = b"""\
26/11/20 18:11:02 INFO SparkContext: Running Spark version 4.3.0
26/11/20 18:11:02 INFO SparkContext: Submitted application: flight_delays/load
26/11/20 18:11:03 INFO Utils: Successfully started service 'sparkDriver' on port 42033.
a job prints INFO Utils: Successfully started service 'SparkUI' on port 1.
26/11/20 18:11:03 INFO Utils: Successfully started service 'SparkUI' on port 46377.
26/11/20 18:11:04 INFO Utils: Successfully started service 'SparkUI' on port 46378.
"""


def spark_command(tmp_path: Path, master: str):
    where = context(tmp_path, master=master, spark=Spark(tmp_path, tmp_path))
    return kind("pyspark").command({"content": "pass"}, where)


@given(cuts=st.lists(st.integers(0, len(LOCAL_LOG)), max_size=8))
def test_local_application_is_found_however_its_log_is_cut(tmp_path_factory, cuts):
    trace = SparkTrace(spark_command(tmp_path_factory.mktemp("trace"), "local"))
    edges = [0, *sorted(cuts), len(LOCAL_LOG)]

    news = [trace.feed(LOCAL_LOG[a:b]) for a, b in pairwise(edges)]

    assert (trace.application_id, trace.ui_url) == ("local-12.1", "http://127.0.0.1:46377")
    assert trace.is_complete
    assert 1 <= sum(news) <= 2


@pytest.mark.parametrize(
    ("master", "log", "found"),
    [
        pytest.param("local", "hello\n", ("", ""), id="no Spark yet"),
        pytest.param("yarn", "26/11/20 18:11:02 INFO Client: Submitted application "
                     "application_1795_0007\n26/11/20 18:11:02 INFO Client:\n"
                     "26/11/20 18:11:03 INFO Client: \t tracking URL: http://rm:8088/proxy/a_7/\n",
                     ("application_1795_0007", "http://rm:8088/proxy/a_7/"), id="yarn"),
        pytest.param("spark://h:7077", "26/11/20 18:11:02 INFO StandaloneSchedulerBackend: "
                     "Connected to Spark cluster with app ID app-20261120181102-0003\n"
                     "26/11/20 18:11:02 INFO Utils: Successfully started service 'SparkUI' on port "
                     "4040.\n", ("app-20261120181102-0003", "http://worker-1:4040"),
                     id="standalone"),
        pytest.param("spark://h:7077", "26/11/20 18:11:02 INFO ClientEndpoint: Driver successfully "
                     "submitted as driver-20261120181102-0001\n",
                     ("driver-20261120181102-0001", ""), id="standalone, cluster mode"),
        pytest.param("k8s://h", "26/11/20 18:11:02 INFO StatusWatcher: Deployed Spark "
                     "application a with application ID spark-0f3a and submission ID ns:load "
                     "into Kubernetes\n", ("spark-0f3a", ""), id="kubernetes"),
        pytest.param("yarn", "x" * 20_000 + "26/11/20 18:11:02 INFO Client: Submitted application "
                     "application_1_1\n", ("", ""), id="the end of an endless line"),
    ],
)  # fmt: skip
def test_application_is_found_in_a_clusters_log(tmp_path, master, log, found):
    trace = SparkTrace(spark_command(tmp_path, master), host="worker-1")

    for start_of in range(0, len(log), 5000):
        trace.feed(log[start_of : start_of + 5000].encode())

    assert (trace.application_id, trace.ui_url) == found
