"""What a run of a workflow would do, without starting anything or writing a row.

The nodes are chosen by the functions that launch them, and their commands made by those that a
worker calls: what is shown is what would be started.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

from apps.engine.graph import Graph
from apps.engine.priority import Priority
from apps.engine.states import Trigger
from apps.engine.timevars import NODE_VALUE, Moment, built_in, names_in, upstream_mark
from apps.nodes.kinds.base import CannotStart, Command, Context, Given, Spark
from apps.nodes.kinds.fields import Spec
from apps.nodes.kinds.registry import UnknownKind, kind, kinds
from apps.nodes.models import JobVersion
from apps.nodes.services.files import open_blob
from apps.runs.services.planning import Chosen, choices
from apps.runs.services.prepare import (
    JobFacts,
    Prepared,
    RunFacts,
    check_secrets,
    context_of,
    run_facts,
    with_values,
)
from apps.runs.variables import Resolved, Variable, resolved_as
from apps.workflows.clock import zone_of
from apps.workflows.models import WorkflowVersion
from apps.workflows.services.publishing import whole
from apps.workspaces.models import ResourceQueue, Secret
from apps.workspaces.variables import variables_of

#: What only the machine knows on which an attempt runs, in words: its folder, which is its home;
#: the folder for data; Python, where none is named; Spark.
FOLDER, DATA, PYTHON = Path("~"), Path("${RUNYARD_DATA}"), Path("python3")
SPARK = Spark(Path("$SPARK_HOME"), Path("$JAVA_HOME"))

_NOWHERE = nullcontext("")

#: Bytes of one file into which variables are put; a longer one is not read here.
FILE_BYTES = 4 << 20
#: Characters shown of one text, and of all texts of a dry run.
TEXT, TEXTS = 20_000, 2_000_000


@dataclass(frozen=True)
class DryNode:
    """One node, as it would be started."""

    key: str
    chosen: Chosen
    #: Nodes that it waits for.
    upstream: tuple[str, ...]
    #: Argument list; empty where no command can be made: then there are faults.
    argv: tuple[str, ...] = ()
    #: Texts that are written into its folder before the start, by their names there.
    files: Mapping[str, str] = field(default_factory=dict)
    variables: Resolved = field(default_factory=lambda: Resolved([]))
    faults: tuple[str, ...] = ()

    @property
    def kind_label(self) -> str:
        """What its job is, in words; its kind's name where that is gone."""
        name = self.chosen.version.kind if self.chosen.version else ""
        return kinds()[name].label if name in kinds() else name

    @property
    def own_variables(self) -> list[Variable]:
        """Its variables but for those of time, which every node of the run has alike."""
        return [each for each in self.variables.variables if each.source != "built-in"]

    @property
    def command(self) -> str:
        """Its argument list as one would type it; "" without one."""
        return shlex.join(self.argv)

    @property
    def demand(self) -> int | None:
        """Thousandths of a CU; None where nothing says it yet."""
        return self.chosen.node.demand if self.chosen.node else None

    @property
    def priority(self) -> Priority | None:
        node = self.chosen.node
        return Priority(node.columns["priority"]) if node else None


@dataclass(frozen=True)
class DryRun:
    version: WorkflowVersion
    moment: Moment
    nodes: list[DryNode]

    @property
    def variables(self) -> Mapping[str, str]:
        """The variables of time that every node has."""
        return built_in(self.moment)

    @property
    def faults(self) -> int:
        """How many nodes could not be started."""
        return sum(bool(node.faults) for node in self.nodes)


def dry_run(
    version: WorkflowVersion,
    *,
    cycle: datetime,
    trigger: Trigger = Trigger.MANUAL,
    queue: ResourceQueue | None = None,
    priority: Priority | None = None,
    parameters: Mapping[str, str] | None = None,
) -> DryRun:
    """What `launch` would start with the same arguments, for one cycle, in the graph's order.

    `version` may be a draft that was never saved (`publishing.drafted`). What is wrong with a node
    stands with it, and the others are shown all the same. What a worker adds when it starts a
    node stays a name: its folder, its Python, values that other nodes leave, secrets.
    """
    workflow = version.workflow
    workspace = workflow.workspace
    graph = whole(version.graph)
    settings, edges = graph["settings"], [(up, down) for up, down in graph["edges"]]
    of_workspace, of_run = variables_of(workspace.pk), dict(parameters or {})
    facts = run_facts(
        workspace.pk,
        workspace.name,
        workflow.name,
        cycle=cycle,
        zone=zone_of(settings, workspace.zone),
        settings=settings,
        nodes=graph["nodes"],
        of_workspace=of_workspace,
        of_run=of_run,
    )
    given = Given(of_workspace, settings["variables"], run=of_run)
    # Names of variables are judged with the command, as a worker does.
    found = choices(version, trigger, queue, priority, {}, given, judged=False)
    shape = Graph.build([each.key for each in found], edges)
    by_key = {each.key: each for each in found}
    secrets = frozenset(
        Secret.objects.filter(workspace=workspace.pk).values_list("name", flat=True)
    )
    room = TEXTS
    nodes = []
    place = {key: n for n, key in enumerate(shape.in_order)}
    over: dict[str, set[str]] = {}  # by node, every one that it comes after
    for key in shape.in_order:
        upstream = tuple(sorted(shape.upstream[key], key=place.__getitem__))
        over[key] = set(upstream).union(*(over[up] for up in upstream))
        node = _node(by_key[key], upstream, over[key], facts, secrets)
        node, room = _cut(node, room)
        nodes.append(node)
    return DryRun(version, facts.moment, nodes)


def _node(
    chosen: Chosen,
    upstream: tuple[str, ...],
    over: set[str],
    facts: RunFacts,
    secrets: frozenset[str],
) -> DryNode:
    """`over`: every node that it comes after, however far up."""
    faults = [fault.message.removeprefix(f"node {chosen.key!r}: ") for fault in chosen.faults]
    version = chosen.version
    if version is None:
        return DryNode(chosen.key, chosen, upstream, faults=tuple(faults))

    def left(texts: Sequence[str]) -> Mapping[str, str]:
        """What upstreams would have left: each value by its own name."""
        found: dict[str, str] = {}
        for text in texts:
            for name in names_in(text):
                value = NODE_VALUE.fullmatch(name)
                if value and value["node"] in over:
                    found[upstream_mark(value["node"])] = ""
                    found[name] = f"${{{name}}}"
        return found

    command: Command | None = None
    prepared = Prepared(facts, JobFacts.of(version))
    context = context_of(
        prepared, chosen.key, run=None, node_run=None, attempt=1, folder=FOLDER, data=DATA
    )
    context = replace(context, spark=SPARK, python=_python(version.spec))
    if chosen.queue is not None:
        context = replace(context, master=chosen.queue.spark_master)
    try:
        what = kind(version.kind)
        paths = what.files_with_variables(version.spec)
        with (
            tempfile.TemporaryDirectory(prefix="runyard-dry-run-") if paths else _NOWHERE as folder
        ):
            context = _with_files(version, paths, context, folder)
            check_secrets(version.spec.get("secrets") or [], secrets)
            context = with_values(what, version.spec, context, left)
            command = what.command(version.spec, context)
    except CannotStart as error:
        faults.append(str(error))
    except UnknownKind:
        pass  # launching says so, too: it is a fault already
    except Exception as error:  # a kind may be anyone's code; shown with the node
        faults.append(f"no command can be made: {type(error).__name__}: {error}")
    return DryNode(
        chosen.key,
        chosen,
        upstream,
        argv=command.argv if command else (),
        files=command.files if command else {},
        variables=resolved_as(version, context.given, facts.moment, left),
        faults=tuple(faults),
    )


def _python(spec: Spec) -> Path:
    named = (spec.get("python") or {}).get("interpreter")
    return Path(named) if named else PYTHON


def _with_files(version: JobVersion, paths: set[str], context: Context, folder: str) -> Context:
    """With copies of the files into which variables are put. Raises CannotStart."""
    copies: dict[str, Path] = {}
    for number, path in enumerate(sorted(paths)):
        copy = Path(folder, str(number))
        try:
            with open_blob(version.files[path]) as source:
                content = source.read(FILE_BYTES + 1)
        except (KeyError, FileNotFoundError):
            raise CannotStart(f"the storage has lost {path}; upload it and publish") from None
        if len(content) > FILE_BYTES:
            raise CannotStart(
                f"{path} has over {FILE_BYTES >> 20} MiB and is not read in a dry run; a worker "
                "would read it"
            )
        copy.write_bytes(content)
        copies[path] = copy
    return replace(context, files=MappingProxyType({**context.files, **copies}))


def _cut(node: DryNode, room: int) -> tuple[DryNode, int]:
    """The node with its texts as far as there is room, and the room that is left."""

    def cut(text: str) -> str:
        nonlocal room
        most = max(min(TEXT, room), 0)
        room -= min(len(text), most)
        return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"

    variables = [
        replace(each, value=cut(each.value), written=cut(each.written))
        for each in node.variables.variables
    ]
    return (
        replace(
            node,
            argv=tuple(cut(word) for word in node.argv),
            files={name: cut(text) for name, text in node.files.items()},
            variables=replace(node.variables, variables=variables),
        ),
        room,
    )
