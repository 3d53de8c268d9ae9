"""A schedule by clicks: drawn up, seen before it is saved, published, turned on, and followed."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]


def test_a_daily_workflow_shows_its_next_points_and_is_turned_on(visit):
    it = visit()
    page = it.page
    it.create_job("schedule/hello", "Shell", "echo ${ds}")

    it.go("/w/default/workflows/")
    it.click("Create workflow…", role="link")
    it.dialog.get_by_label("Name", exact=True).fill("every_day")
    expect(it.dialog.get_by_label("At", exact=True)).to_be_hidden()
    it.dialog.get_by_label("Scheduling type").select_option("days")
    it.dialog.get_by_label("At", exact=True).fill("02:30")
    it.dialog.get_by_label("Time zone").fill("Europe/Berlin")
    it.dialog.get_by_label("Last date").click()
    points = it.dialog.locator(".oc-points tbody tr")
    expect(points).to_have_count(5)
    expect(points.first).to_contain_text("02:30")
    it.dialog.get_by_role("button", name="Create workflow").click()
    page.wait_for_url(re.compile(r"/workflows/\d+/$"))

    it.click("Add node", role="link")
    page.get_by_label("Job", exact=True).fill("schedule/hello")
    it.click("Add node")
    expect(page.get_by_text("Added node hello.")).to_be_visible()
    it.click("Publish…", role="link")
    it.dialog.get_by_label(re.compile("Turn scheduling on")).check()
    it.dialog.get_by_role("button", name="Publish v1").click()
    expect(page.get_by_text("Its scheduling is on.")).to_be_visible()

    switch = page.get_by_role("switch")
    expect(switch).to_have_attribute("aria-checked", "true")
    expect(page.locator(".oc-points tbody tr")).to_have_count(5)
    it.check_width()
    switch.click()
    expect(switch).to_have_attribute("aria-checked", "false")
    expect(
        page.get_by_text("its schedule is off", exact=False).or_(
            page.get_by_text("turned its schedule off", exact=False)
        )
    ).to_be_visible()


def test_a_workflow_that_is_due_every_minute_is_seen_to_run(visit):
    it = visit()
    page = it.page
    it.create_job("schedule/minute", "Shell", "echo ${ds}")
    it.go("/w/default/workflows/")
    it.click("Create workflow…", role="link")
    it.dialog.get_by_label("Name", exact=True).fill("every_minute")
    it.dialog.get_by_label("Scheduling type").select_option("minutes")
    it.dialog.get_by_label("Every", exact=True).fill("1")
    it.dialog.get_by_role("button", name="Create workflow").click()
    page.wait_for_url(re.compile(r"/workflows/\d+/$"))
    it.click("Add node", role="link")
    page.get_by_label("Job", exact=True).fill("schedule/minute")
    it.click("Add node")
    expect(page.get_by_text("Added node minute.")).to_be_visible()
    it.click("Publish…", role="link")
    it.dialog.get_by_role("button", name="Publish v1").click()
    expect(page.get_by_text("Published every_minute as v1.")).to_be_visible()

    it.go("/w/default/workflows/")
    it.click("Scheduling of every_minute", role="switch")
    it.dialog.get_by_role("button", name="Turn on").click()
    expect(page.get_by_text("Scheduling of every_minute is on.")).to_be_visible()
    run = page.get_by_role("row").filter(has_text="Succeeded").get_by_role("link")
    for _ in range(90):
        page.reload()
        if run.count():
            break
        page.wait_for_timeout(1000)
    run.first.click()

    page.wait_for_url(re.compile(r"/runs/\d+/$"))
    expect(it.state).to_have_text("Succeeded")
    expect(page.get_by_text("Schedule", exact=True).first).to_be_visible()
