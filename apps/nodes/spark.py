"""Spark: where it is, how a job is handed to spark-submit, and what its log gives away."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import secrets
import shutil
import socket
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from apps.nodes.java import find_java
from apps.nodes.kinds.base import (
    FOLDERS,
    CannotStart,
    Command,
    Context,
    Fault,
    Spark,
    environment,
    rendered,
)
from apps.nodes.kinds.fields import Field, Spec, Type, mebibytes

JARS = Field("jars", Type.FILES, "JARs", "Workspace files on the class path.")

SPARK = (
    Field(
        "spark.driver_cores",
        Type.INTEGER,
        "Driver cores",
        "On a queue whose master is local: how many tasks run at once.",
        default=1,
        minimum=1,
        maximum=256,
    ),
    Field("spark.driver_memory", Type.MEMORY, "Driver memory", default="1g"),
    Field(
        "spark.executors",
        Type.INTEGER,
        "Executors",
        "On a cluster; a local master has none.",
        default=2,
        minimum=0,
        maximum=10_000,
    ),
    Field(
        "spark.executor_cores", Type.INTEGER, "Executor cores", default=1, minimum=1, maximum=256
    ),
    Field("spark.executor_memory", Type.MEMORY, "Executor memory", default="1g"),
    Field(
        "spark.conf",
        Type.SETTINGS,
        "Spark configuration",
        "Names start with 'spark.'.",
        takes_variables=True,
    ),
)
_SIZES = {each.name.partition(".")[2]: each for each in SPARK}

#: Settings that have a place of their own, so that a queue's capacity is not got round.
_ELSEWHERE = {
    "spark.master": "take it out: the resource queue has the master",
    "spark.submit.deployMode": "take it out, or use a job of kind spark_submit",
    "spark.driver.cores": "set driver_cores",
    "spark.driver.memory": "set driver_memory",
    "spark.executor.cores": "set executor_cores",
    "spark.executor.memory": "set executor_memory",
    "spark.executor.instances": "set executors",
}
#: spark-submit reads paths as lists, patterns and addresses.
_NO_PATH = re.compile(r"[,#*?\[\]{}\\:%]")

SPARK_USER = Path(__file__).with_name("spark_user")

#: Quiet but for what a person, or SparkTrace, wants to know. `spark.log.level` changes it.
LOGGING = r"""
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yy/MM/dd HH:mm:ss} %p %c{1}: %m%n%ex
logger.context.name = org.apache.spark.SparkContext
logger.context.level = info
logger.context.filter.noise.type = RegexFilter
logger.context.filter.noise.regex = (Created broadcast|OS info|SparkContext is stopping).*
logger.context.filter.noise.onMatch = DENY
logger.context.filter.noise.onMismatch = NEUTRAL
logger.ports.name = org.apache.spark.util.Utils
logger.ports.level = info
logger.ui.name = org.apache.spark.ui.SparkUI
logger.ui.level = info
logger.deploy.name = org.apache.spark.deploy
logger.deploy.level = info
logger.cluster.name = org.apache.spark.scheduler.cluster
logger.cluster.level = info
logger.native.name = org.apache.hadoop.util.NativeCodeLoader
logger.native.level = error
"""


# --- where it is ----------------------------------------------------------------------------


def find_spark(environ: Mapping[str, str], java_folder: Path) -> Spark:
    """This worker's Spark and the Java for it.

    `environ` is the worker's own environment: RUNYARD_SPARK_HOME names a Spark other than the
    one of the wheel `pyspark`, RUNYARD_JAVA a Java (see java.py). `java_folder` is where
    what they lack may be put. Raises CannotStart, which says what to install.
    """
    if named := environ.get("RUNYARD_SPARK_HOME"):
        home, source = Path(named), f"RUNYARD_SPARK_HOME={named}"
    else:
        spec = importlib.util.find_spec("pyspark")
        if spec is None or spec.origin is None:
            raise CannotStart(
                "Spark is not installed on this worker; install it with `./runyard up --spark`, "
                "or name one with RUNYARD_SPARK_HOME"
            )
        home = Path(spec.origin).parent
        source = f"the package pyspark in {home}"
    if not (home / "bin" / "spark-submit").is_file() or not (home / "jars").is_dir():
        raise CannotStart(f"{source} is no Spark: bin/spark-submit or jars is missing")
    java = find_java(environ, java_folder)
    cluster = ("HADOOP_CONF_DIR", "YARN_CONF_DIR", "SPARK_CONF_DIR", "KUBECONFIG", "KRB5_CONFIG")
    return Spark(
        home,
        java.home,
        {name: environ[name] for name in cluster if environ.get(name)},
        _unpacked_ui(home, java_folder),
    )


def _unpacked_ui(home: Path, folder: Path) -> str:
    """A folder with the style and pictures of Spark's UI, where it cannot read them in its JARs.

    Its Jetty opens no JAR whose path has letters beyond ASCII: each session logs stacks of "Bad
    escape", and the UI comes without style. The JVM follows links, so that no other name of the
    place helps; but Jetty does read folders. "" where there is no need.
    """
    jars = (home / "jars").resolve()
    if str(jars).isascii():
        return ""
    found = sorted(jars.glob("spark-*.jar"))
    state = "\n".join(f"{jar} {jar.stat().st_mtime_ns}" for jar in found)
    place = folder.absolute() / f"ui-{hashlib.sha256(state.encode()).hexdigest()[:12]}"
    if not place.is_dir():
        new = folder.absolute() / f"ui.{secrets.token_hex(4)}"
        new.mkdir(mode=0o755, parents=True)
        for jar in found:
            with zipfile.ZipFile(jar) as packed:
                names = [name for name in packed.namelist() if "/ui/static/" in name]
                packed.extractall(new, names)
        try:
            # Renamed into place, so that nobody ever reads half of it.
            new.rename(place)
        except OSError:  # another worker was first
            shutil.rmtree(new)
    return str(place)


# --- sizes ----------------------------------------------------------------------------------


def is_local(master: str) -> bool:
    """Whether the driver does all the work itself, in one process."""
    return master == "local" or master.startswith("local[")


def compute_units(cores: int, memory: str) -> int:
    """Thousandths of a CU of one process: 1 CU is 1 core and 4 GiB, the larger part counts."""
    return max(cores * 1000, -int(-mebibytes(memory) * 1000 // 4096))


def spark_demand(spec: Spec, master: str) -> int:
    """Thousandths of a CU: the driver, and on a cluster the executors."""
    size = {name: each.of(spec) for name, each in _SIZES.items()}
    driver = compute_units(size["driver_cores"], size["driver_memory"])
    if is_local(master):
        return driver
    executors: int = size["executors"]
    return driver + executors * compute_units(size["executor_cores"], size["executor_memory"])


def spark_faults(spec: Spec) -> Iterator[Fault]:
    """What is wrong between a Spark job's fields."""
    for name in (spec.get("spark") or {}).get("conf") or {}:
        if name in _ELSEWHERE:
            yield Fault("spark.conf", f"{name} is not set here; {_ELSEWHERE[name]}")
        elif not name.startswith("spark."):
            yield Fault(
                "spark.conf",
                f"{name} is ignored by Spark; start it with 'spark.' "
                "(Hadoop's settings with 'spark.hadoop.')",
            )
    for name in ("entry_file", "jars", "py_files", "files"):
        given = spec.get(name) or []
        for path in [given] if isinstance(given, str) else given:
            if fault := list_fault(path):
                yield Fault(name, fault)
    for number, argument in enumerate(spec.get("arguments") or (), 1):
        if "\r" in argument:
            yield Fault(
                "arguments",
                f"item {number} holds a carriage return, which spark-submit drops; take it out",
            )


def list_fault(path: str) -> str | None:
    """What keeps spark-submit from reading a path as one file; None if nothing does."""
    if found := _NO_PATH.search(path):
        return f"{path!r} holds {found.group()!r}, which spark-submit reads otherwise; rename it"
    return None


# --- the command ----------------------------------------------------------------------------


def submit(
    spec: Spec,
    context: Context,
    application: str,
    *,
    options: Sequence[str] = (),
    arguments: Sequence[str] | None = None,
    files: Mapping[str, str] | None = None,
) -> Command:
    """The command of a job whose settings are the fields SPARK; `arguments`: its own if None."""
    values = rendered(spec, context)
    size = {name: each.of(spec) for name, each in _SIZES.items()}
    conf = {name: values(value) for name, value in (size["conf"] or {}).items()}
    own = ["--driver-memory", size["driver_memory"]]
    if not is_local(context.master):
        own += ["--driver-cores", str(size["driver_cores"])]
        own += ["--num-executors", str(size["executors"])]
        own += ["--executor-cores", str(size["executor_cores"])]
        own += ["--executor-memory", size["executor_memory"]]
        if context.master.startswith("spark://"):
            # --num-executors is YARN's and Kubernetes'; a standalone master counts cores.
            own += ["--total-executor-cores", str(size["executors"] * size["executor_cores"])]
    for option, name in (("--jars", "jars"), ("--py-files", "py_files"), ("--files", "files")):
        if paths := spec.get(name):
            own += [option, ",".join(local_file(path, context) for path in paths)]
    for name, value in conf.items():
        own += ["--conf", f"{name}={value}"]
    if arguments is None:
        arguments = [values(argument) for argument in spec.get("arguments") or ()]
    return spark_submit(
        spec,
        context,
        [*own, *options, application, *arguments],
        driver_cores=size["driver_cores"],
        driver_options=conf.get("spark.driver.extraJavaOptions", ""),
        files=files or {},
    )


def local_file(path: str, context: Context) -> str:
    """A workspace file's local copy as spark-submit is to name it.

    Relative to the working directory where it lies below: what stands above may hold letters
    that spark-submit reads as lists, patterns and addresses; the path itself was checked.
    """
    copy = context.files[path]
    if copy.is_relative_to(context.folder):
        copy = copy.relative_to(context.folder)
    return str(copy)


def spark_submit(
    spec: Spec,
    context: Context,
    line: Sequence[str],
    *,
    driver_cores: int,
    driver_options: str,
    files: Mapping[str, str],
) -> Command:
    """spark-submit with our settings first: what `line` says of the same thing wins.

    `driver_options` are the JVM options that the line gives the driver, by which ours are
    chosen. Raises CannotStart where the worker has no Spark.
    """
    spark = context.spark
    if spark is None:
        raise CannotStart("this worker has no Spark; install it with `./runyard up --spark`")
    local = is_local(context.master)
    application_id = f"local-{context.mark}" if local else ""
    conf = {
        "spark.app.name": context.name,
        # Any free port: several drivers share a worker, and 4040 may be anyone's.
        "spark.ui.port": "0",
        "spark.ui.killEnabled": "false",
    }
    if spark.class_path:
        conf["spark.driver.extraClassPath"] = spark.class_path
    if local:
        conf |= {
            # Works without a network, and opens no port to it.
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            # Jobs of other workspaces reach the loopback device too.
            "spark.authenticate": "true",
            # The id is in no log of a local Spark; so it is told its id.
            "spark.test.appId": application_id,
        }
    elif context.master == "yarn":
        conf["spark.yarn.tags"] = f"runyard-{context.mark}"
    elif context.master.startswith("k8s://"):
        for who in ("driver", "executor"):
            conf[f"spark.kubernetes.{who}.label.runyard-attempt"] = context.mark
    master = f"local[{driver_cores}]" if local else context.master
    argv = [str(spark.home / "bin" / "spark-submit"), "--master", master]
    for name, value in conf.items():
        argv += ["--conf", f"{name}={value}"]

    env = {
        **environment(spec, context),
        **spark.environment,
        "SPARK_HOME": str(spark.home),
        "JAVA_HOME": str(spark.java_home),
        "SPARK_LAUNCHER_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:-UsePerfData",
        "SPARK_SUBMIT_OPTS": _joined(_java_options(context, local, driver_options)),
        "PYSPARK_PYTHON": str(context.python),
        "PYSPARK_DRIVER_PYTHON": str(context.python),
        "PYTHONNOUSERSITE": "1",
    }
    if local:
        env["SPARK_LOCAL_IP"] = "127.0.0.1"
        # Relative: Spark takes a comma for the end of a path.
        env["SPARK_LOCAL_DIRS"] = "tmp"
    return Command(
        argv=(*argv, *line),
        env=env,
        cwd=context.folder,
        files={"log4j2.properties": LOGGING, **files},
        folders=FOLDERS,
        application_id=application_id,
    )


def _java_options(context: Context, local: bool, given: str) -> Iterator[str]:
    """Options of the driver's JVM. Those of the job come after them, and win where they can."""
    if local:
        # A short job spends its time on compiling: 40 % less CPU than the JVM's own choice.
        if "-XX:TieredStopAtLevel" not in given:
            yield "-XX:TieredStopAtLevel=1"
        # Two collectors are an error, whichever comes last.
        if not re.search(r"-XX:\+Use\w+GC\b", given):
            yield "-XX:+UseSerialGC"
    yield "-XX:-UsePerfData"
    # The JVM looks neither at TMPDIR nor at HOME.
    yield f"-Djava.io.tmpdir={context.folder / 'tmp'}"
    yield f"-Duser.home={context.folder}"
    # Relative to the working directory, so that no letter of the path can disturb it.
    yield "-Dlog4j2.configurationFile=log4j2.properties"
    if not context.known_user:
        yield f"--patch-module=jdk.security.auth={SPARK_USER}"


def _joined(options: Iterator[str]) -> str:
    """Options as Spark's launcher splits them: in double quotes, with backslashes."""

    def quoted(option: str) -> str:
        return '"' + re.sub(r'(["\\])', r"\\\1", option) + '"'

    return " ".join(quoted(each) if re.search(r"[\s\"'\\]", each) else each for each in options)


# --- what the log gives away ----------------------------------------------------------------

_LINE = re.compile(rb"\S+ \S+ INFO [\w$.]+: (.*)")
_APPLICATION = (
    re.compile(rb"Submitted application (application_\d+_\d+)"),
    re.compile(rb"Application report for (application_\d+_\d+)"),
    re.compile(rb"Connected to Spark cluster with app ID ([\w.-]{1,100})"),
    re.compile(rb"Driver successfully submitted as (driver-[\w-]{1,90})"),
    re.compile(rb"Deployed Spark application .* with application ID ([\w.-]{1,100})"),
    re.compile(rb"State of (driver-[\w-]{1,90}) is "),
)
_PORT = re.compile(rb"Successfully started service 'SparkUI' on port (\d{1,5})\.")
_ADDRESS = re.compile(
    rb"(?:Bound SparkUI to .* started at|tracking URL:) (https?://[A-Za-z0-9.:\[\]_-]+(?:/[^\s\"'<>]*)?)"
)
_LONGEST_LINE = 8192


class SparkTrace:
    """Finds a Spark application's id and the address of its UI in the bytes of a log.

    Feed it the log piece by piece, cut anywhere. `application_id` and `ui_url` are empty until
    they appear; the first of each counts, since what starts later is another application.
    """

    def __init__(self, command: Command, host: str = "") -> None:
        """`host` is this worker's name to others; a local Spark has only the loopback device."""
        self._local_id = command.application_id
        self._host = "127.0.0.1" if self._local_id else host or socket.gethostname()
        self._rest = b""
        self.application_id = ""
        self.ui_url = ""

    @property
    def is_complete(self) -> bool:
        return bool(self.application_id and self.ui_url)

    def feed(self, data: bytes) -> bool:
        """Take the next piece of the log; True if it told something new."""
        before = (self.application_id, self.ui_url)
        if not self.is_complete:
            *lines, rest = (self._rest + data).split(b"\n")
            # What is longer is no line of Spark's; its end must not pass for one.
            self._rest = rest if len(rest) <= _LONGEST_LINE else rest[:_LONGEST_LINE]
            for line in lines:
                if found := _LINE.match(line[:_LONGEST_LINE]):
                    self._read(found.group(1))
        return before != (self.application_id, self.ui_url)

    def _read(self, message: bytes) -> None:
        if not self.application_id:
            if self._local_id:
                if message.startswith(b"Submitted application: "):
                    self.application_id = self._local_id
            else:
                for pattern in _APPLICATION:
                    if found := pattern.search(message):
                        self.application_id = found.group(1).decode()
                        break
        if not self.ui_url:
            if found := _PORT.search(message):
                self.ui_url = f"http://{self._host}:{found.group(1).decode()}"
            elif found := _ADDRESS.search(message):
                self.ui_url = found.group(1).decode()[:255]
