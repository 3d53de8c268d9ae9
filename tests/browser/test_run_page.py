"""The run page while a run is under way, and what a session's end makes of it."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

#: 100 letters, as a name may have.
LONG = "a_very_long_name_" * 5 + "of_100_letters_"


def shown(page: Page) -> list[str]:
    """The node of the table's row, of the graph's ring and of the panel."""
    return page.evaluate(
        """() => [
          document.querySelector("tr.oc-selected")?.dataset.node,
          document.querySelector("a[data-node][aria-current]")?.dataset.node,
          document.querySelector("#oc-node")?.dataset.key,
        ]"""
    )


def test_the_panel_follows_the_run_until_a_click_and_login_comes_once(visit):
    it = visit()
    page = it.page
    it.create_job("follow/short", "Shell", "sleep 2")
    it.create_job("follow/long", "Shell", "echo begun; sleep 60")
    it.go("/w/default/workflows/create/")
    page.get_by_label("Name").fill(LONG)
    it.click("Create workflow")
    page.wait_for_url(re.compile(r"/workflows/\d+/$"))
    for name, upstream in {"short": None, "long": "short"}.items():
        it.click("Add node", role="link")
        page.get_by_label("Job", exact=True).fill(f"follow/{name}")
        if upstream:
            page.get_by_label(upstream, exact=True).check()
        it.click("Add node")
        expect(page.get_by_text(f"Added node {name}.")).to_be_visible()
    it.click("Publish…", role="link")
    it.dialog.get_by_role("button", name="Publish v1").click()
    expect(page.get_by_text(f"Published {LONG} as v1.")).to_be_visible()
    it.click("Run", exact=True)
    page.wait_for_url(re.compile(r"/runs/\d+/$"))
    run = page.url.removeprefix(it.address)

    expect(page.locator("#oc-node")).to_have_attribute("data-key", "long")
    assert shown(page) == ["long"] * 3

    page.locator("svg.oc-graph a[data-node=short]").click()
    expect(page.locator("#oc-node")).to_have_attribute("data-key", "short")
    with page.expect_response(lambda answer: "panel=short" in answer.url):
        pass
    assert shown(page) == ["short"] * 3

    small = visit(phone=True)
    for path in (run, "/w/default/workflows/", "/w/default/runs/"):
        small.go(path)
    small.go("/w/default/workflows/")
    expect(small.page.get_by_role("button", name=f"Run {LONG}")).to_be_in_viewport(ratio=1)

    it.click("Stop…")
    expect(page.locator(".oc-headline").get_by_text("stopped by admin")).to_be_visible()

    small.go("/w/default/runs/")
    small.page.context.clear_cookies()
    small.page.wait_for_url("**/login/?next=%2Fw%2Fdefault%2Fruns%2F")
    small.faults[:] = [fault for fault in small.faults if "401" not in fault]
