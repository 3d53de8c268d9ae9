"""A daily workflow from nothing to a backfill of seven days, by clicks that are counted."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

#: What a person who wants seven days again may have to click.
MOST_CLICKS = 5


def test_seven_days_are_backfilled_in_at_most_five_clicks(visit):
    it = visit()
    page = it.page
    it.create_job("backfill/speak", "Shell", "echo the day is ${ds}")
    it.go("/w/default/workflows/")
    it.click("Create workflow…", role="link")
    it.dialog.get_by_label("Name", exact=True).fill("seven_days")
    it.dialog.get_by_label("Scheduling type").select_option("days")
    it.dialog.get_by_label("At", exact=True).fill("02:30")
    it.dialog.get_by_label("Last date").click()
    expect(it.dialog.locator(".oc-points tbody tr")).to_have_count(5)
    it.dialog.get_by_role("button", name="Create workflow").click()
    page.wait_for_url(re.compile(r"/workflows/\d+/$"))
    it.click("Add node", role="link")
    page.get_by_label("Job", exact=True).fill("backfill/speak")
    it.click("Add node")
    expect(page.get_by_text("Added node speak.")).to_be_visible()
    it.click("Publish…", role="link")
    it.dialog.get_by_role("button", name="Publish v1").click()
    expect(page.get_by_text("Published seven_days as v1.")).to_be_visible()
    page.get_by_role("navigation", name="Workflow").get_by_role("link", name="Schedule").click()
    it.click("Scheduling of seven_days", role="switch")
    expect(it.dialog.locator(".oc-points tbody tr")).to_have_count(5)
    it.dialog.get_by_role("button", name="Turn on").click()
    expect(page.get_by_text("Scheduling of seven_days is on.")).to_be_visible()

    clicks = 0

    def click(what: Locator) -> None:
        nonlocal clicks
        clicks += 1
        what.click()

    click(page.get_by_role("link", name="Choose how to run"))
    click(it.dialog.get_by_label("Backfill"))
    cycles = it.dialog.get_by_role("region", name="Cycles").locator("tbody tr")
    expect(cycles).to_have_count(7)
    previewed = [line.split()[0] for line in cycles.all_inner_texts()]
    it.check_width()
    click(it.dialog.get_by_role("button", name="Backfill 7 cycles"))

    page.wait_for_url(re.compile(r"/backfills/\d+/$"))
    expect(page.locator(".oc-headline .oc-pill")).to_have_text("Succeeded")
    ran = page.get_by_role("region", name="Cycles").locator("tbody tr")
    assert [line.split()[0] for line in ran.all_inner_texts()] == previewed
    assert ran.locator(".oc-is-succeeded").count() == 7
    assert clicks <= MOST_CLICKS
    it.check_width()

    ran.first.get_by_role("link").click()
    page.wait_for_url(re.compile(r"/runs/\d+/"))
    it.see_line(f"the day is {previewed[0]}")


def test_dates_typed_in_the_dialog_change_the_preview_and_its_button(visit):
    it = visit()
    page = it.page
    it.create_job("backfill/quiet", "Shell", "true")
    it.go("/w/default/workflows/")
    it.click("Create workflow…", role="link")
    it.dialog.get_by_label("Name", exact=True).fill("by_hand_alone")
    it.dialog.get_by_role("button", name="Create workflow").click()
    page.wait_for_url(re.compile(r"/workflows/\d+/$"))
    it.click("Add node", role="link")
    page.get_by_label("Job", exact=True).fill("backfill/quiet")
    it.click("Add node")
    expect(page.get_by_text("Added node quiet.")).to_be_visible()
    it.click("Publish…", role="link")
    it.dialog.get_by_role("button", name="Publish v1").click()
    expect(page.get_by_text("Published by_hand_alone as v1.")).to_be_visible()
    it.click("Choose how to run", role="link")

    it.dialog.get_by_label("Backfill").check()
    it.dialog.get_by_label("From").fill("2024-01-01")
    it.dialog.get_by_label("To", exact=True).fill("2024-12-31")
    it.dialog.get_by_label("At once").fill("4")
    expect(it.dialog.get_by_role("button", name="Backfill 366 cycles")).to_be_visible()
    cycles = it.dialog.get_by_role("region", name="Cycles").locator("tbody tr")
    expect(cycles).to_have_count(201)
    cycles.last.scroll_into_view_if_needed()
    expect(cycles).to_have_count(366)
    expect(it.dialog.get_by_label("At once")).to_have_value("4")

    it.dialog.get_by_label("Dry run").check()
    it.dialog.get_by_label("Data date").fill("2024-02-29")
    it.dialog.get_by_role("button", name="Show the dry run").click()
    page.wait_for_url(re.compile(r"/dry-run/\?"))
    expect(page.get_by_label("Command of quiet")).to_have_text("bash main.sh")
    it.check_width()
