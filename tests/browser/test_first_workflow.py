"""From an empty workspace to a green workflow, by clicks alone."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

LINES = 30
EXTRACT = f"""for n in $(seq {LINES}); do
  echo "row $n"
  sleep 0.1
done
"""
REPORT = """import os, pathlib
print("made the report")
folder = pathlib.Path(os.environ["RUNYARD_OUTPUT_DIR"])
(folder / "report.md").write_text("# All is well\\n\\n| rows |\\n|--:|\\n| 30 |\\n")
wide = ",".join(f"column_number_{n}" for n in range(40))
(folder / "wide.csv").write_text(wide + "\\n" + wide + "\\n")
"""


def test_two_jobs_become_a_workflow_that_is_seen_to_run_and_turn_green(visit):
    it = visit()
    page = it.page
    expect(page.get_by_role("heading", name="Workflows", level=1)).to_be_visible()

    it.create_job("etl/extract", "Shell", EXTRACT)
    it.create_job("etl/report", "Python", REPORT)
    it.go("/w/default/jobs/")
    expect(page.get_by_role("row", name=re.compile("extract Shell v1"))).to_be_visible()

    it.go("/w/default/workflows/")
    it.click("Create workflow…", role="link")
    it.dialog.get_by_label("Name").fill("daily")
    it.dialog.get_by_role("button", name="Create workflow").click()
    page.wait_for_url(re.compile(r"/workflows/\d+/$"))

    it.click("Add node", role="link")
    page.get_by_label("Job", exact=True).fill("etl/extract")
    expect(page.get_by_label("Node name")).to_have_value("extract")
    expect(page.get_by_label("Node type")).to_have_value("Shell")
    it.click("Add node")
    expect(page.get_by_text("Added node extract.")).to_be_visible()

    it.click("Add node", role="link")
    page.get_by_label("Job", exact=True).fill("etl/report")
    page.get_by_label("extract", exact=True).check()
    it.click("Add node")
    expect(page.get_by_text("Added node report.")).to_be_visible()
    expect(page.locator("svg.oc-graph .oc-edge")).to_have_count(1)
    it.check_width()

    run = page.get_by_role("button", name="Run")
    expect(run).to_have_attribute("aria-disabled", "true")
    it.click("Publish…", role="link")
    it.dialog.get_by_label("Remarks").fill("extract, then report")
    it.dialog.get_by_role("button", name="Publish v1").click()
    expect(page.get_by_text("Published daily as v1.")).to_be_visible()

    run.click()
    page.wait_for_url(re.compile(r"/runs/\d+/$"))
    expect(it.log.get_by_text("row 1", exact=True)).to_be_visible()
    expect(it.state).to_have_text("Running")
    page.locator("svg.oc-graph a[data-node=extract]").click()  # else the panel follows the run
    expect(it.log.get_by_text(f"row {LINES}", exact=True)).to_be_visible()

    expect(it.state).to_have_text("Succeeded")
    expect(page.locator(".oc-nodes tbody tr [aria-label='Succeeded']").first).to_be_visible()
    expect(page.locator("svg.oc-graph .oc-node-succeeded")).to_have_count(2)
    expect(page.get_by_role("heading", name="All is well")).to_be_visible()
    it.check_width()

    # Every line came once, in order; and who shows a run that is over asks for nothing more.
    printed = it.log.locator("li > span").all_text_contents()
    assert printed == [f"row {n}" for n in range(1, LINES + 1)]
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(4_000)
    assert asked == []

    page.locator("svg.oc-graph a[data-node=report]").click()
    expect(it.log.get_by_text("made the report")).to_be_visible()
    expect(page).to_have_url(re.compile(r"\?node=report$"))

    on_call = visit(phone=True, dark=True)
    on_call.go(page.url.removeprefix(it.address))
    expect(on_call.page.get_by_role("heading", name="All is well")).to_be_visible()
    on_call.check_width()

    it.go("/w/default/workflows/")
    expect(page.get_by_role("row", name=re.compile("daily v1 manual Succeeded"))).to_be_visible()
    it.click("Log out")
    page.wait_for_url("**/login/**")
