"""Pause, set to success and rerun of one node, as a person on call does them."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

#     fetch ─→ check (fails) ─→ report
JOBS = {"fetch": "sleep 4", "check": "echo no rows; exit 3", "report": "echo reported"}
UPSTREAM = {"fetch": [], "check": ["fetch"], "report": ["check"]}


def test_a_paused_run_goes_on_and_its_failed_node_is_passed_by_hand(visit):
    it = visit()
    page = it.page
    for name, content in JOBS.items():
        it.create_job(f"hand/{name}", "Shell", content)
    it.go("/w/default/workflows/create/")
    page.get_by_label("Name").fill("by_hand")
    it.click("Create workflow")
    page.wait_for_url(re.compile(r"/workflows/\d+/$"))
    for name, upstream in UPSTREAM.items():
        it.click("Add node", role="link")
        page.get_by_label("Job", exact=True).fill(f"hand/{name}")
        for each in upstream:
            page.get_by_label(each, exact=True).check()
        it.click("Add node")
        expect(page.get_by_text(f"Added node {name}.")).to_be_visible()
    it.click("Publish…", role="link")
    it.dialog.get_by_label("Remarks").fill("first")
    it.dialog.get_by_role("button", name="Publish v1").click()
    expect(page.get_by_text("Published by_hand as v1.")).to_be_visible()
    it.click("Run", exact=True)
    page.wait_for_url(re.compile(r"/runs/\d+/$"))
    expect(it.state).to_have_text("Running")

    it.click("Pause", exact=True)
    head = page.locator(".oc-run-head")
    expect(head.get_by_text("Paused", exact=True)).to_be_visible()
    expect(it.state).to_have_text("Running")
    held = page.get_by_role("row", name=re.compile("check.*waits for run .* paused"))
    expect(held).to_be_visible()
    expect(head.get_by_text("No node starts until the run is resumed.")).to_be_visible()
    on_call = visit(phone=True, dark=True)
    on_call.go(page.url.removeprefix(it.address))
    expect(on_call.page.get_by_role("button", name="Resume")).to_be_visible()

    it.click("Resume", exact=True)
    expect(it.state).to_have_text("Failed")
    expect(head.get_by_text("Paused", exact=True)).to_have_count(0)

    # The panel has learnt by itself that the run is over; it shows what failed.
    page.get_by_role("link", name="Set to success…").click()
    it.dialog.get_by_role("button", name="Set to success").click()
    expect(it.dialog.get_by_label("Reason")).to_be_focused()
    it.dialog.get_by_label("Reason").fill("there are no rows on Sundays")
    it.dialog.get_by_role("button", name="Set to success").click()
    expect(page.get_by_text("Node check counts as succeeded.")).to_be_visible()
    expect(it.state).to_have_text("Succeeded")
    expect(page.locator("svg.oc-graph .oc-node-forced")).to_have_count(1)
    expect(page.locator("#oc-node-head [aria-label='Succeeded (forced)']")).to_be_visible()
    page.get_by_role("navigation", name="Node").get_by_role("link", name="Details").click()
    by_hand = page.locator("#oc-node").get_by_role("definition").filter(has_text="admin")
    expect(by_hand).to_contain_text("there are no rows on Sundays")

    page.locator("svg.oc-graph a[data-node=fetch]").click()
    expect(page.locator("#oc-node-head h2")).to_have_text("fetch")
    page.locator("#oc-rerun-node").click()
    shown = it.dialog.locator(".oc-plan:visible")
    expect(shown).to_contain_text("Runs again (3)")
    it.dialog.get_by_label("This node alone").check()
    expect(shown).to_contain_text("Runs again (1)")
    expect(shown).to_contain_text("Kept (2)")
    it.check_width()
    it.dialog.get_by_role("button", name="Rerun", exact=True).click()
    expect(page.get_by_text("Runs again: fetch.")).to_be_visible()
    expect(it.state).to_have_text("Succeeded")
    attempts = page.locator(".oc-nodes tbody tr td:nth-child(2)")
    expect(attempts).to_have_text([re.compile("^2"), re.compile("^1"), re.compile("^1")])
