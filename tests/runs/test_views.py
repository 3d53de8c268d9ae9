"""Pages of runs: list, one run live, its log, stop and rerun."""

from __future__ import annotations

import asyncio
import json
import os
import re
from datetime import timedelta
from io import BytesIO
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.test import AsyncClient
from django.utils import timezone

from apps.engine.states import NodeState, RunState
from apps.nodes.services.files import store
from apps.nodes.services.jobs import publish_job, save_draft
from apps.runs.logs import log_of
from apps.runs.models import Attempt, NodeRun, Output, Run
from apps.runs.services.advance import advance
from apps.runs.services.hot_path import Claim, Outcome, claim, finish
from apps.runs.services.sweep import expire_leases
from apps.runs.services.workers import show_life
from apps.runs.shown import Past, bars_of, last_runs, run_shown, shares_of
from apps.workflows.services.drafting import NodeSettings, add_node, remove_node
from apps.workflows.services.publishing import publish
from tests.factories import by_hand, published, workspace
from tests.html import errors, requests, rows
from tests.people import member, user

RUNS = "/w/default/runs/"
ME = "worker@here:1"

SUCCEEDED = Outcome(NodeState.SUCCEEDED, exit_code=0)
FAILED = Outcome(
    NodeState.FAILED,
    exit_code=1,
    reason="exit code 1",
    error_line="ValueError: <b>no</b> such column",
    log_bytes=5,
    log_lines=1,
)


def take() -> Claim:
    mine = claim(workspace().queues.get(name="root_queue").pk, ME, uuid4())
    assert mine is not None
    return mine


def end(mine: Claim, outcome: Outcome = SUCCEEDED) -> None:
    if finish(mine, outcome, worker=ME, request=uuid4(), take=False).needs_advance:
        advance(mine.run_id)


def write(mine: Claim, data: bytes) -> None:
    handle = log_of(mine.run_id, mine.node_run_id, mine.attempt).open_for_child()
    os.write(handle, data)
    os.close(handle)


def page(run: Run, **query: str) -> str:
    return member().get(f"{RUNS}{run.pk}/", query).content.decode()


def live(run: Run) -> str:
    client = member()
    return client.get(f"{RUNS}{run.pk}/", headers={"HX-Request": "true"}).content.decode()


@pytest.mark.django_db
@pytest.mark.parametrize("many", [1, 3])
def test_runs_newest_first(django_assert_num_queries, many):
    client = member()
    version = published("a", "b", edges=[("a", "b")])
    made = [by_hand(version).pk for _ in range(many)]

    # session, user, member; runs
    with django_assert_num_queries(4):
        html = client.get(RUNS).content.decode()

    assert [row[:5] for row in rows(html)] == [
        [str(pk), "Pending", "flow v1", "Manual", "of 2"] for pk in reversed(made)
    ]
    assert requests(html) == [RUNS]


@pytest.mark.django_db
def test_filters_are_in_the_address_and_pages_go_on_by_key():
    client, version = member(), published("a")
    made = [by_hand(version).pk for _ in range(53)]
    end(take())

    first = client.get(RUNS, {"state": "open", "q": "FLO"}).content.decode()
    assert [row[0] for row in rows(first)] == [str(pk) for pk in reversed(made[3:])]
    assert f"?state=open&amp;q=FLO&amp;before={made[3]}" in first

    second = client.get(RUNS, {"state": "open", "before": made[3]}).content.decode()
    assert [row[0] for row in rows(second)] == [str(pk) for pk in reversed(made[1:3])]
    assert requests(second) == []
    assert [row[0] for row in rows(client.get(RUNS, {"state": "succeeded"}).content.decode())] == [
        str(made[0])
    ]


@pytest.mark.django_db
@pytest.mark.parametrize("odd", ["x", "-1", "9" * 40, ""])
def test_an_odd_page_key_is_the_first_page(odd):
    by_hand(published("a"))

    answer = member().get(RUNS, {"before": odd})

    assert (answer.status_code, len(rows(answer.content.decode()))) == (200, 1)


@pytest.mark.django_db
def test_a_running_run_asks_for_itself_and_says_what_each_node_waits_for():
    run = by_hand(published("a", "b", edges=[("a", "b")]))
    take()

    html = page(run)

    listed = rows(html)
    assert [row[0] for row in listed] == ["(Running) a", "(Pending) b"]
    assert listed[1][4] == "waits for a"
    node = run.nodes.get(key="a").pk
    assert requests(html) == [
        f"{RUNS}{run.pk}/",
        f"{RUNS}{run.pk}/nodes/{node}/?part=head&amp;shown=1&amp;tab=log",
    ]


@pytest.mark.django_db
def test_a_waiting_node_says_which_queue_lacks_how_much():
    queue = workspace().queues.get(name="root_queue")
    queue.capacity = 250
    queue.save()
    run = by_hand(published("a", "b"))
    take()

    html = page(run)
    assert rows(html)[1][4] == "(Waiting) waits for a worker: none is alive"

    show_life("w1", host="etl-1", slots=4, why_trusted="")
    html = page(run)
    assert rows(html)[1][4] == (
        "(Waiting) waits for 0.25 CU in queue root_queue, which has 0 of 0.25 free: a has 0.25"
    )
    assert f'href="/w/default/queues/{queue.pk}/line/" data-oc-away>root_queue</a>' in html
    assert f'href="{RUNS}{run.pk}/?node=a" data-oc-away>a</a>' in html


def selection(html: str) -> tuple[list[str], list[str]]:
    """(nodes marked in table and graph, nodes whose panel is there)."""
    marked = re.findall(r'<tr data-node="([^"]*)" class="oc-selected"', html)
    marked += re.findall(r'data-node="([^"]*)" aria-current="true"', html)
    return marked, re.findall(r'id="oc-node" data-key="([^"]*)"', html)


@pytest.mark.django_db
def test_the_panel_follows_the_selection_until_somebody_chooses():
    run = by_hand(published("a", "b", "c", edges=[("a", "b")]))
    client, here = member(), f"{RUNS}{run.pk}/"

    def refreshed(**query: str) -> tuple[list[str], list[str]]:
        answer = client.get(here, query, headers={"HX-Request": "true"})
        return selection(answer.content.decode())

    end(take())
    running = take().key
    assert selection(page(run)) == ([running, running], [running])
    assert refreshed(panel=running) == ([running, running], [])
    assert refreshed(panel="a") == ([running, running], [running])
    assert refreshed(panel="a", node="a") == (["a", "a"], [])


@pytest.mark.django_db
def test_the_page_stops_asking_when_the_run_is_over():
    run = by_hand(published("a"))
    end(take())

    assert requests(page(run)) == []
    assert requests(live(run)) == []


@pytest.mark.django_db
def test_a_failed_run_opens_on_the_node_that_failed_and_why():
    run = by_hand(published("a", "good", "b", "c", edges=[("a", "b"), ("b", "c")]))
    for _ in range(2):
        mine = take()
        end(mine, FAILED if mine.key == "a" else SUCCEEDED)

    html = page(run)

    assert "<b>ValueError</b>: &lt;b&gt;no&lt;/b&gt; such column" in html
    assert "<strong>2 nodes not run</strong>: b, c" in html
    assert 'aria-label="Node a"' in html
    assert "Rerun failed (3)" in html
    assert [row[0] + " " + row[4] for row in rows(html) if "Not run" in row[0]] == [
        "(Not run) b was not run: a failed",
        "(Not run) c was not run: a failed",
    ]


@pytest.mark.django_db
def test_a_run_that_goes_on_says_how_much_of_it_has_failed():
    run = by_hand(published("a", "b"))
    end(take(), FAILED)
    going, [listed] = live(run), rows(member().get("/w/default/runs/").content.decode())
    end(take())

    assert '<span class="oc-second oc-text-failed">1 failed</span>' in going
    assert listed[1] == "Running, 1 failed"
    [over] = rows(member().get("/w/default/runs/").content.decode())
    assert over[1] == "Failed"
    assert "1 failed</span>" not in live(run)  # it is Failed as a whole


@pytest.mark.django_db
def test_everything_that_failed_is_named_and_nothing_is_said_twice():
    run = by_hand(published("a", "b", "good"))
    order = []
    for _ in range(3):
        mine = take()
        order += [mine.key] if mine.key != "good" else []
        end(mine, SUCCEEDED if mine.key == "good" else FAILED)

    html = page(run)

    first, second = order
    said = re.search(r"<h2>(\w+) failed <span>(.*?)</span></h2>", html)
    assert said.groups() == (first, "exit code 1")
    assert re.search(r"Failed as well \(1\):</span> <a [^>]*>(\w+)</a></p>", html)[1] == second
    assert "stdout + stderr · 1 line, 5 B<" in html
    assert page(run, tab="details").count("exit code 1") == 3  # heading, node, attempt


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (1, ["12:00:00"]),
        (2, ["12:00:00", "12:00:01"]),
        (60, ["12:00:00", "12:00:15", "12:00:30", "12:00:45"]),
        (600, ["12:00", "12:02", "12:05", "12:07"]),
    ],
)
def test_the_time_axis_never_says_one_time_twice(seconds, said):
    run = by_hand(published("a"))
    end(take())
    noon = timezone.now().replace(hour=12, minute=0, second=0, microsecond=0)
    ended = noon + timedelta(seconds=seconds)
    Run.objects.filter(pk=run.pk).update(started_at=noon, ended_at=ended)
    Attempt.objects.update(started_at=noon, ended_at=ended)
    run.refresh_from_db()

    assert [text for _, text in run_shown(run).ticks] == said


@pytest.mark.django_db
def test_an_attempt_whose_worker_went_away_is_missed_not_failed():
    run = by_hand(published("a"))
    mine = take()
    write(mine, b"half a line")
    NodeRun.objects.filter(pk=mine.node_run_id).update(lease_until=timezone.now())
    expire_leases()

    html = page(run)

    assert [row[0] for row in rows(html)] == ["(Waiting) a"]
    assert "oc-piece-lost" in html
    assert "oc-piece-failed" not in html
    assert "stdout + stderr · 11 B<" in html


@pytest.mark.django_db
def test_a_stopped_run_says_who_stopped_it():
    run = by_hand(published("a", "b", edges=[("a", "b")]))
    client = member()
    client.post(f"{RUNS}{run.pk}/stop/")

    html = page(run)

    assert "stopped by a owner" in html
    assert "Rerun what did not succeed (2)" in html


@pytest.mark.django_db
@pytest.mark.parametrize("many", [1, 4])
def test_a_run_page_reads_as_often_whatever_its_size(django_assert_num_queries, many):
    run = by_hand(published(*(f"n{n}" for n in range(many))))
    client = member()
    for _ in range(many):
        mine = take()
        sha256, size = store(BytesIO(b"# Report\n"))
        end(mine)
        attempt = Attempt.objects.get(node_run=mine.node_run_id)
        Output.objects.create(attempt=attempt, name="report.md", sha256=sha256, size=size)

    # session, user, member; run, nodes, attempts, outputs; run before and after; the panel's
    # attempts
    with django_assert_num_queries(10):
        html = client.get(f"{RUNS}{run.pk}/").content.decode()

    assert html.count("<h1>Report</h1>") == many


@pytest.mark.django_db
def test_the_panel_is_new_when_a_new_attempt_has_begun():
    run = by_hand(published("a", retries=1, retry_interval_seconds=0))
    node = run.nodes.get()
    client, here = member(), f"{RUNS}{run.pk}/nodes/{node.pk}/"
    end(take(), Outcome(NodeState.RETRYING, exit_code=1, retry_in=0))

    same = client.get(here, {"part": "head", "shown": "1"}, headers={"HX-Request": "true"})
    other = client.get(here, {"part": "head", "shown": ""}, headers={"HX-Request": "true"})

    assert "HX-Retarget" not in same.headers
    assert same.content.decode().count('id="oc-node-head"') == 1
    assert (other.headers["HX-Retarget"], other.headers["HX-Reswap"]) == ("#oc-node", "outerHTML")
    assert 'data-module="log"' in other.content.decode()


@pytest.mark.django_db
def test_stop_and_rerun_by_button():
    client = member()
    run = by_hand(published("a", "b", edges=[("a", "b")]))

    client.post(f"{RUNS}{run.pk}/stop/")
    run.refresh_from_db()
    assert run.state == RunState.STOPPED
    assert client.post(f"{RUNS}{run.pk}/stop/").status_code == 409

    again = client.post(f"{RUNS}{run.pk}/rerun-failed/")
    run.refresh_from_db()
    assert (again.headers["Location"], run.state) == (f"{RUNS}{run.pk}/", RunState.RUNNING)

    client.post(f"{RUNS}{run.pk}/stop/")
    whole = client.post(f"{RUNS}{run.pk}/rerun/", {"scope": "all"})
    new = Run.objects.latest("pk")
    assert (whole.headers["Location"], new.rerun_of) == (f"{RUNS}{new.pk}/", run)


@pytest.mark.django_db
def test_a_paused_run_says_so_and_which_nodes_are_held():
    client = member()
    run = by_hand(published("a", "b", "below", edges=[("a", "below")]))
    take()
    here = f"{RUNS}{run.pk}/"

    assert client.post(f"{here}pause/").headers["Location"] == here
    assert client.post(f"{here}pause/").status_code == 409

    html = page(run)
    said = [row[0] + " " + re.sub(r"\d+ s ago", "now", row[4]) for row in rows(html)]
    assert said == [
        "(Running) a (Running)",
        f"(Pending) b waits for run {run.pk} of flow, which a owner paused now",
        "(Pending) below waits for a",
    ]
    assert "What runs goes on to its end; no other node starts until the run is resumed." in html
    assert 'id="oc-resume"' in live(run)
    assert 'id="oc-pause"' not in html
    assert [row[1] for row in rows(client.get(RUNS).content.decode())] == ["Running Paused"]

    assert client.post(f"{here}resume/").headers["Location"] == here
    assert 'id="oc-pause"' in page(run)
    assert client.post(f"{here}resume/").status_code == 409


@pytest.mark.django_db
def test_a_node_is_set_to_success_by_a_dialog_that_asks_why():
    client = member()
    run = by_hand(published("a", "b", edges=[("a", "b")]))
    end(take(), FAILED)
    node = run.nodes.get(key="a")
    here = f"{RUNS}{run.pk}/nodes/{node.pk}/"
    panel = client.get(here).content.decode()
    assert f'href="{here}success/"' in panel

    unsaid = client.post(f"{here}success/", {"reason": "  "})
    said = client.post(f"{here}success/", {"reason": "loaded <b>by hand</b>"})
    twice = client.post(f"{here}success/", {"reason": "once more"})

    assert (unsaid.status_code, errors(unsaid.content.decode())) == (
        422,
        ["Say why the node counts as succeeded"],
    )
    assert (said.status_code, said.headers["Location"]) == (303, f"{RUNS}{run.pk}/?node=a")
    assert (twice.status_code, errors(twice.content.decode())) == (
        422,
        ["Node &#x27;a&#x27; has succeeded already"],
    )
    html = page(run, node="a", tab="details")
    assert [row[0] for row in rows(html)] == ["(Succeeded (forced)) a", "(Waiting) b"]
    assert "oc-node-forced" in html
    assert f'href="{here}success/"' not in html
    by_hand_said = re.search(r"<dt>By hand</dt><dd>(.*?)</dd>", html)[1]
    assert re.sub(r"<time.*?</time>", "…", by_hand_said) == (
        "a owner, …: set to success (was failed): loaded &lt;b&gt;by hand&lt;/b&gt;"
    )


@pytest.mark.django_db
def test_a_running_node_is_not_set_to_success_and_runs_again_only_after_the_run():
    run = by_hand(published("a"))
    mine = take()
    client, here = member(), f"{RUNS}{run.pk}/nodes/{mine.node_run_id}/"

    panel = client.get(here).content.decode()
    assert (f'href="{here}success/"' in panel, f'href="{here}rerun/"' in panel) == (False, False)
    assert client.post(f"{here}success/", {"reason": "x"}).status_code == 422
    assert client.post(f"{here}rerun/", {"scope": "node"}).status_code == 422
    assert (
        "Node &#x27;a&#x27; is running; stop it first"
        in client.get(f"{here}rerun/").content.decode()
    )

    end(mine)
    panel = client.get(here).content.decode()
    assert (f'href="{here}success/"' in panel, f'href="{here}rerun/"' in panel) == (False, True)
    assert requests(panel) == []


@pytest.mark.django_db
def test_the_panel_of_a_node_asks_until_the_run_is_over():
    run = by_hand(published("a", "b"))
    mine = take()
    end(mine)

    here = f"{RUNS}{run.pk}/nodes/{mine.node_run_id}/"
    assert requests(member().get(here).content.decode()) == [
        f"{here}?part=head&amp;shown=1&amp;tab=log"
    ]


def facts(html: str, plan: str) -> list[str]:
    """What the rerun dialog says of one choice."""
    block = re.search(rf'oc-plan-{plan}">(.*?)</dl>', html, flags=re.DOTALL)
    if block is None:
        return []
    marked = re.sub(r'<svg[^>]*aria-label="([^"]*)".*?</svg>', r"(\1) ", block[1], flags=re.DOTALL)
    found = re.findall(r"<dt>(.*?)</dt><dd[^>]*>(.*?)</dd>", marked, flags=re.DOTALL)
    return [
        f"{name}: {re.sub('<[^>]*>', ' ', text.replace('</span><span>', ', ')).strip()}"
        for name, text in found
    ]


@pytest.mark.django_db
def test_rerun_of_a_node_shows_before_what_runs_and_what_is_kept():
    run = by_hand(published("a", "b", "c", "d", edges=[("a", "b"), ("b", "c")]))
    for _ in range(2):
        mine = take()
        end(mine, FAILED if mine.key == "a" else SUCCEEDED)
    client = member()

    def dialog(key: str) -> tuple[str, str]:
        url = f"{RUNS}{run.pk}/nodes/{run.nodes.get(key=key).pk}/rerun/"
        return url, client.get(url, headers={"HX-Request": "true"}).content.decode()

    url, html = dialog("b")
    assert facts(html, "node") == [
        "Runs again (1): (Not run) b",
        "Kept (3): (Failed) a, (Succeeded) d, (Not run) c",
        "Not waited for: (Failed) a",
    ]
    assert facts(html, "downstream") == [
        "Runs again (2): (Not run) b, (Not run) c",
        "Kept (2): (Failed) a, (Succeeded) d",
        "Not waited for: (Failed) a",
    ]
    # Nothing waits for d: there is nothing to choose.
    alone = dialog("d")[1]
    assert (facts(alone, "downstream"), 'type="radio"' in alone) == ([], False)

    done = client.post(url, {"scope": "downstream"})

    assert (done.status_code, done.headers["Location"]) == (303, f"{RUNS}{run.pk}/?node=b")
    states = dict(run.nodes.values_list("key", "state"))
    assert states == {"a": "failed", "b": "queued", "c": "pending", "d": "succeeded"}


@pytest.mark.django_db
def test_rerun_as_a_new_run_preselects_what_is_newer_and_shows_its_plan():
    version = published("a", "b", edges=[("a", "b")], name="since", content="false")
    run = by_hand(version, parameters={"since": "2026-11-01"})
    end(take())
    end(take(), FAILED)
    used = run.nodes.first().job_version.job
    save_draft(used, {"content": "true"}, revision=used.revision)
    publish_job(used, remarks="", user=None)
    flow = version.workflow
    add_node(
        flow, NodeSettings(job_path=used.path, name="c", upstream=["b"]), revision=flow.revision
    )
    publish(flow, remarks="", user=None)
    client, url = member(), f"{RUNS}{run.pk}/rerun/"

    html = client.get(url, headers={"HX-Request": "true"}).content.decode()
    assert 'value="2" selected>v2 (published since)' in html
    assert 'value="newest" selected' in html
    assert "since=2026-11-01" in html
    assert "as <strong>v2</strong> (the run has v1)" in html
    plan = re.sub(r"<svg.*?</svg>|<[^>]*>", " ", html[html.index("oc-facts") :], flags=re.DOTALL)
    assert re.findall(r"[A-Z][a-z ]+ \(\d\)", plan) == ["Runs again (2)", "Kept (1)"]
    asked = client.get(url, {"scope": "all", "version": "1", "job_versions": "used"})
    assert "Runs again (2)" in asked.content.decode()
    wrong = client.post(url, {"scope": "failed", "parameters": "nonsense"})
    assert (wrong.status_code, "is no pair" in wrong.content.decode()) == (422, True)

    answer = client.post(url, {"scope": "failed", "version": "2", "parameters": "since=2026-11-09"})

    again = Run.objects.latest("pk")
    assert answer.headers["Location"] == f"{RUNS}{again.pk}/"
    assert (again.version.number, again.parameters) == (2, {"since": "2026-11-09"})
    assert dict(again.nodes.values_list("key", "state")) == {
        "a": "succeeded",
        "b": "queued",
        "c": "pending",
    }


@pytest.mark.django_db
def test_rerun_of_a_node_that_the_newest_version_lacks_is_offered_with_an_older_one():
    version = published("a", "b")
    run = by_hand(version)
    end(take(), FAILED)
    end(take())
    flow = version.workflow
    flow.refresh_from_db()
    remove_node(flow, "a", revision=flow.revision)
    flow.refresh_from_db()
    publish(flow, remarks="", user=None)
    client, url = member(), f"{RUNS}{run.pk}/rerun/?node=a"

    opened = client.get(url)
    assert opened.status_code == 200
    assert "has no node &#x27;a&#x27;; name one of its nodes." in opened.content.decode()
    asked = client.get(f"{url}&scope=node&version=1").content.decode()
    assert "Runs again (1)" in asked
    client.post(url, {"scope": "node", "version": "1"})

    again = Run.objects.latest("pk")
    assert (again.version.number, again.rerun_of) == (1, run)


@pytest.mark.django_db
def test_the_log_by_stretches_until_nothing_more_can_come():
    run = by_hand(published("a"))
    mine = take()
    write(mine, b"</script> one\n")
    client, here = member(), f"{RUNS}{run.pk}/nodes/{mine.node_run_id}/log/"

    first = client.get(here, {"attempt": 1, "from": 0}).json()
    assert first == {"from": 0, "to": 14, "text": "</script> one\n", "ended": False}

    write(mine, b"two\n")
    end(mine)
    second = client.get(here, {"attempt": 1, "from": 14}).json()
    assert second == {"from": 14, "to": 18, "text": "two\n", "ended": True}
    assert client.get(here, {"attempt": 2}).status_code == 404


async def stream_of(url: str, headers: dict[str, str] | None = None) -> list[tuple[str, str, dict]]:
    """The events of a stream that ends: (name, id, data)."""
    client = AsyncClient()
    await client.aforce_login(await sync_to_async(user)())
    answer = await client.get(url, headers=headers or {})
    assert answer.headers["Content-Type"] == "text/event-stream"
    text = b"".join([part async for part in answer.streaming_content]).decode()
    events = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line[1:])
        if "event" in lines:
            events.append((lines["event"], lines["id"], json.loads(lines["data"])))
    return events


@pytest.mark.django_db(transaction=True)
def test_a_stream_gives_the_log_and_its_end_and_goes_on_where_it_was_cut():
    run = by_hand(published("a"))
    mine = take()
    write(mine, "héllo\r\nworld\n".encode())
    end(mine)
    url = f"{RUNS}{run.pk}/nodes/{mine.node_run_id}/stream/?attempt=1&from=0"

    whole = async_to_sync(stream_of)(url)
    rest = async_to_sync(stream_of)(url, {"Last-Event-ID": "8"})

    assert whole == [
        ("log", "14", {"from": 0, "to": 14, "text": "héllo\r\nworld\n"}),
        ("end", "14", {}),
    ]
    assert rest == [("log", "14", {"from": 8, "to": 14, "text": "world\n"}), ("end", "14", {})]


@pytest.mark.django_db(transaction=True)
def test_a_stream_tells_of_lines_and_states_as_they_come():
    run = by_hand(published("a"))
    mine = take()
    url = f"{RUNS}{run.pk}/nodes/{mine.node_run_id}/stream/?attempt=1&from=0"

    async def follow() -> list[str]:
        reading = asyncio.create_task(stream_of(url))
        write(mine, b"late\n")
        await sync_to_async(end)(mine)
        return [name for name, _, _ in await reading]

    assert async_to_sync(follow)() in (
        ["log", "state", "end"],
        ["state", "log", "end"],
        ["log", "end"],
    )


@pytest.mark.django_db(transaction=True)
def test_the_whole_log_as_a_file():
    run = by_hand(published("a"))
    mine = take()
    content = b"\xff\x1b[31mred\n" * 200_000
    write(mine, content)

    async def read() -> tuple[dict[str, str], bytes]:
        client = AsyncClient()
        await client.aforce_login(await sync_to_async(user)())
        answer = await client.get(f"{RUNS}{run.pk}/nodes/{mine.node_run_id}/raw/?attempt=1")
        return answer.headers, b"".join([part async for part in answer.streaming_content])

    headers, got = async_to_sync(read)()

    assert got == content
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert headers["Content-Disposition"] == (
        f'attachment; filename="run-{run.pk}-node-{mine.node_run_id}-attempt-1.log"'
    )


def test_bars_are_as_high_as_the_runs_were_long_and_shares_never_vanish():
    bars = bars_of([Past(1, "succeeded", 10), Past(2, "failed", 1), Past(3, "running", None)])

    assert [(bar.x, bar.height) for bar in bars] == [(0, 18.0), (4, 3.6), (8, 9.0)]
    shares = shares_of([("succeeded", 999), ("failed", 1)])
    assert [(share.state, share.width > 4.5) for share in shares] == [
        ("succeeded", True),
        ("failed", True),
    ]
    assert round(sum(share.width for share in shares), 1) == 100


@pytest.mark.django_db
def test_last_runs_are_each_workflows_newest_oldest_first():
    version, other = published("a"), published("a", name="other")
    made = [by_hand(version).pk for _ in range(4)]

    found = last_runs([version.workflow_id, other.workflow_id], count=3)

    assert {pk: [each.pk for each in past] for pk, past in found.items()} == {
        version.workflow_id: made[1:],
        other.workflow_id: [],
    }


@pytest.mark.django_db
def test_a_job_published_since_is_offered_for_the_failed_part_and_kept_nodes_say_so():
    client = member()
    run = by_hand(published("a", "b", edges=[("a", "b")], content="false"))
    mine = finish(take(), SUCCEEDED, worker=ME, request=uuid4(), take=True).next
    finish(mine, FAILED, worker=ME, request=uuid4(), take=True)
    url = f"{RUNS}{run.pk}/"
    assert "oc-rerun-anew" not in client.get(url).content.decode()
    used = run.nodes.first().job_version.job
    save_draft(used, {"content": "true"}, revision=used.revision)
    publish_job(used, remarks="", user=None)

    assert "Rerun failed with newest versions (1)" in client.get(url).content.decode()
    answer = client.post(f"{url}rerun-anew/")

    again = Run.objects.order_by("-pk").first()
    assert (again.rerun_of, answer["Location"]) == (run, f"{RUNS}{again.pk}/")
    assert list(again.nodes.order_by("pk").values_list("key", "state")) == [
        ("a", "succeeded"),
        ("b", "queued"),
    ]
    page = client.get(f"{RUNS}{again.pk}/?node=a").content.decode()
    assert f"kept from run {run.pk}" in page
