"""Values that nodes leave: from $RUNYARD_OUTPUT to the nodes below, the page and the API."""

from __future__ import annotations

import os
import re

import pytest

from apps.core.errors import Invalid
from apps.engine.roles import Role
from apps.engine.states import AttemptState, RunState
from apps.runs.models import Attempt, NodeRun, Run
from apps.runs.services.anew import Part, rerun_anew
from apps.runs.services.stop import stop_run
from apps.runs.services.values import MAX_BYTES, read_values
from apps.runs.variables import left_by, resolved
from apps.workspaces.secrets import set_secret
from apps.workspaces.variables import set_variable
from tests.api import program
from tests.factories import by_hand, job, published, workspace
from tests.people import member
from tests.waiting import until
from tests.workers import ended

CANARY = "canary-4711-of-the-warehouse"


# --- the file -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "values", "left_out"),
    [
        (b"", {}, []),
        (b"rows=7\nname=a=b \r\n\nrows=8", {"rows": "8", "name": "a=b "}, []),
        (b"rows 7\n1st=2\nok=1\n",
         {"ok": "1"},
         ["line 1 of $RUNYARD_OUTPUT was left out: write it as key=value",
          "line 2 of $RUNYARD_OUTPUT was left out: write it as key=value"]),
        (b"a=\x00\xff", {"a": "\N{REPLACEMENT CHARACTER}" * 2}, []),
        (b"a=" + b"x" * (MAX_BYTES - 2), {"a": "x" * (MAX_BYTES - 2)}, []),
        (b"a=" + b"x" * (MAX_BYTES - 1), {}, ["$RUNYARD_OUTPUT was left out: it has over 64 KiB"]),
        (f"a=<{CANARY}>\n".encode(), {"a": "<***>"}, []),
    ],
)  # fmt: skip
def test_lines_of_the_file_are_values_and_secrets_are_hidden(tmp_path, data, values, left_out):
    file = tmp_path / "output"
    file.write_bytes(data)

    assert read_values(file, [CANARY]) == (values, left_out)


def test_what_is_no_plain_file_is_left_out(tmp_path):
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    before = os.listdir("/proc/self/fd")

    found = [read_values(tmp_path / name, []) for name in ("none", "link", "pipe", "")]

    assert found == [
        ({}, []),
        ({}, ["$RUNYARD_OUTPUT was left out: Too many levels of symbolic links"]),
        ({}, ["$RUNYARD_OUTPUT was left out: it is no plain file"]),
        ({}, ["$RUNYARD_OUTPUT was left out: it is no plain file"]),
    ]
    assert os.listdir("/proc/self/fd") == before


# --- at publish -----------------------------------------------------------------------------


@pytest.mark.django_db
def test_only_values_of_nodes_above_can_be_published():
    uses = {
        "far": job("far", arguments=["${nodes.load.rows} ${nodes.mid.x:-1}"]),
        "side": job("side", arguments=["${nodes.load.rows}"]),
    }
    edges = [("load", "mid"), ("mid", "far")]

    with pytest.raises(Invalid) as refused:
        published("load", "mid", "far", "side", edges=edges, uses=uses)

    assert [(fault.field, fault.message) for fault in refused.value.faults] == [
        (
            "side",
            "node 'side': arguments: item 1: ${nodes.load.rows}: 'load' is no upstream of this "
            "node; draw an edge from it, through other nodes if you like, or write "
            "$${nodes.load.rows} to keep it as text",
        )
    ]


@pytest.mark.django_db
def test_no_variable_of_the_workspace_and_no_job_by_itself_has_values_of_nodes():
    with pytest.raises(Invalid, match="is no upstream of this node"):
        set_variable(workspace(), "rows", "${nodes.load.rows}", user=None)
    row = job("alone", arguments=["${nodes.load.rows}"])

    answer = program().post(f"jobs/{row.pk}/run", {"queue": "root_queue"})

    assert answer.status_code == 422
    assert Run.objects.count() == 0


# --- in a run -------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(180)
def test_values_reach_the_nodes_below_and_stay_with_their_attempt(start):
    set_secret(workspace(), "PASSWORD", CANARY, user=None)
    leave = 'printf "rows=7\\nodd\\ntold=$PASSWORD\\n" > $RUNYARD_OUTPUT'
    uses = {
        "load": job("load", leave, secrets=["PASSWORD"]),
        "mid": job("mid", "true", parameters={"rows": "${nodes.load.rows}"}),
        "far": job(
            "far",
            'echo "$1 $rows $told"; echo "kept=$rows" > $RUNYARD_OUTPUT',
            arguments=["${nodes.load.rows}/${nodes.mid.none:-x}"],
            parameters={"rows": "${nodes.load.rows}0", "told": "${nodes.load.told}"},
        ),
    }
    version = published("load", "mid", "far", edges=[("load", "mid"), ("mid", "far")], uses=uses)
    start()
    run = by_hand(version)

    until(lambda: ended(run), "the run's end")
    again = rerun_anew(run, Part("node", "far"), user=None)
    until(lambda: ended(again), "the rerun's end")

    def attempt(of: Run, key: str) -> Attempt:
        return Attempt.objects.get(node_run__run=of, node_run__key=key)

    assert [run.state, again.state] == [RunState.SUCCEEDED] * 2
    assert attempt(run, "load").values == {"rows": "7", "told": "***"}
    assert attempt(run, "load").log_tail == (
        "runyard: line 2 of $RUNYARD_OUTPUT was left out: write it as key=value\n"
    )
    assert attempt(run, "mid").values is None
    # The second run keeps `load` from the first, and with it what it left.
    for each in (run, again):
        assert attempt(each, "far").log_tail == "7/x 70 ***\n"
        assert attempt(each, "far").values == {"kept": "70"}
    mid = NodeRun.objects.get(run=run, key="mid")
    directly_below = resolved(mid, mid.attempts.get())
    assert (directly_below.fault, directly_below.variables[0].value) == ("", "7")
    far = NodeRun.objects.get(run=again, key="far")
    shown = resolved(far, far.attempts.get())
    assert (shown.fault, [(v.name, v.value, v.source, v.written) for v in shown.variables[:4]]) == (
        "",
        [
            ("rows", "70", "job", "${nodes.load.rows}0"),
            ("told", "***", "job", "${nodes.load.told}"),
            ("nodes.load.rows", "7", "node load", ""),
            ("nodes.load.told", "***", "node load", ""),
        ],
    )


@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(120)
def test_node_whose_upstream_left_no_such_value_fails_and_says_so(start):
    uses = {"far": job("far", "echo ran", arguments=["${nodes.load.rows}"])}
    version = published("load", "far", edges=[("load", "far")], uses=uses)
    start()
    run = by_hand(version)

    until(lambda: ended(run), "the run's end")

    far = run.nodes.get(key="far")
    assert (run.state, far.reason) == (
        RunState.FAILED,
        "node 'load' left no value 'rows'; write a line rows=… to $RUNYARD_OUTPUT there, or give "
        "a default as in ${nodes.load.rows:-0}",
    )
    assert far.attempts.get().log_tail == f"runyard: {far.reason}\n"


# --- seen -----------------------------------------------------------------------------------


def over(version, values: dict[str, str] | None) -> NodeRun:
    """A run whose one node has succeeded and left these."""
    run = by_hand(version)
    stop_run(run, user=None)
    node = run.nodes.select_related("run").get()
    Attempt.objects.create(
        node_run=node, number=1, state=AttemptState.SUCCEEDED, worker="w", values=values
    )
    return node


@pytest.mark.django_db
def test_numbers_are_drawn_over_the_last_runs(django_assert_num_queries):
    version = published("load")
    for values in ({"rows": "5"}, None, {"rows": "many"}, {"rows": "15", "name": "x"}):
        over(version, values)
    node = over(version, {"rows": "10", "name": "x", "new": "1e3"})
    attempt = node.attempts.get()

    with django_assert_num_queries(2):
        left = left_by(node, attempt)

    found = {each.key: (each.value, [number for _, number in each.past]) for each in left}
    assert found == {"name": ("x", []), "new": ("1e3", [1000.0]), "rows": ("10", [5.0, 15.0, 10.0])}
    [rows] = [each for each in left if each.key == "rows"]
    assert rows.line == "3.0,21.0 60.0,3.0 117.0,12.0"


@pytest.mark.django_db
def test_page_and_rest_show_every_value_and_where_it_came_from_and_no_secret():
    set_secret(workspace(), "PASSWORD", CANARY, user=None)
    set_variable(workspace(), "region", "eu <b>", user=None)
    used = job("load", secrets=["PASSWORD"], parameters={"many": "1", "file": "x"})
    version = published(
        "load",
        uses={"load": used},
        variables={"path": "/${region}/${many}"},
        node={"variables": {"many": "2"}},
    )
    run = by_hand(version, parameters={"since": "$[yyyy]"})
    stop_run(run, user=None)
    node = run.nodes.get()
    Attempt.objects.create(
        node_run=node, number=1, state=AttemptState.SUCCEEDED, worker="w", values={"rows": "7"}
    )

    panel = f"/w/default/runs/{run.pk}/nodes/{node.pk}/?tab=variables"
    html = member(Role.GUEST).get(panel).content.decode()
    guest = program(Role.GUEST)
    shown = guest.get(f"runs/{run.pk}/nodes/load/attempts/1/variables").json()
    attempt = guest.get(f"runs/{run.pk}/nodes/load/attempts/1").json()

    own = [list(each.values()) for each in shown["variables"] if each["source"] != "built-in"]
    assert (shown["fault"], own) == (
        "",
        [
            ["file", "x", "job", ""],
            ["many", "2", "node", ""],
            ["path", "/eu <b>/2", "workflow", "/${region}/${many}"],
            ["region", "eu <b>", "workspace", ""],
            ["since", f"{run.cycle.year}", "run", "$[yyyy]"],
            ["PASSWORD", "***", "secret", ""],
        ],
    )
    assert attempt["values"] == {"rows": "7"}
    assert CANARY not in html
    values = re.findall(r'<code class="oc-value">([^<]*)</code>', html)
    assert values[:4] == ["7", "x", "2", "/eu &lt;b&gt;/2"]
