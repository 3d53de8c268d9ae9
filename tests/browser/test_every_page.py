"""Every page in both themes, on a desk and on a phone: nothing too wide, nothing blocked."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

PAGES = [
    "/workspaces/",
    "/workspaces/create/",
    "/w/default/workflows/",
    "/w/default/workflows/create/",
    "/w/default/workflows/schedule-preview/?schedule_kind=days&schedule_time=02:00",
    "/w/default/runs/",
    "/w/default/backfills/",
    "/w/default/jobs/",
    "/w/default/jobs/create/",
    "/w/default/files/",
    "/w/default/files/upload/",
    "/w/default/notifications/",
    "/w/default/notifications/mails/",
    "/w/default/notifications/test/",
    "/w/default/notifications/channels/",
    "/w/default/notifications/heartbeat/",
    "/w/default/notifications/rules/",
    "/w/default/notifications/rules/create/",
    "/w/default/notifications/channels/create/?kind=webhook",
    "/w/default/queues/",
    "/w/default/queues/create/",
    "/w/default/secrets/",
    "/w/default/secrets/create/",
    "/w/default/variables/",
    "/w/default/variables/create/",
]


@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_fit_and_keep_the_policy(visit, dark, phone):
    it = visit(dark=dark, phone=phone)
    for path in PAGES:
        it.go(path)
        expect(it.page.get_by_role("heading", level=1)).to_be_visible()
    assert it.page.evaluate("document.documentElement.dataset.bsTheme") == (
        "dark" if dark else "light"
    )


def test_the_theme_that_was_chosen_stays(visit):
    it = visit()
    for theme in ("light", "dark"):
        it.click("Change theme")
        assert it.page.evaluate("document.documentElement.dataset.bsTheme") == theme

    it.go("/w/default/jobs/")

    assert it.page.evaluate("document.documentElement.dataset.bsTheme") == "dark"


def test_typed_text_is_not_lost_by_a_fault(visit):
    it = visit()
    it.go("/w/default/queues/")
    it.click("Create queue…", role="link")
    it.dialog.get_by_label("Name").fill("a b")
    it.dialog.get_by_role("button", name="Save queue").click()

    expect(it.dialog.get_by_text("use 1 to 64 letters")).to_be_visible()
    expect(it.dialog.get_by_label("Name")).to_have_value("a b")
    it.faults[:] = [fault for fault in it.faults if "422" not in fault]


def test_on_a_phone_the_menu_opens_and_leads_on(visit):
    it = visit(phone=True)
    it.click("Menu")

    it.click("Jobs", role="link")

    expect(it.page.get_by_role("heading", name="Jobs", level=1)).to_be_visible()


def test_a_secret_is_set_in_the_console_and_its_value_is_not_seen_again(visit):
    it = visit()
    it.go("/w/default/secrets/")
    it.click("Create secret…", role="link")
    it.dialog.get_by_label("Name").fill("WAREHOUSE_PASSWORD")
    it.dialog.get_by_label("Value").fill("canary-4711")
    it.dialog.get_by_role("button", name="Save secret").click()
    expect(it.page.get_by_text("Jobs that start from now on get it.")).to_be_visible()

    it.click("Replace WAREHOUSE_PASSWORD", role="link")
    expect(it.dialog.get_by_label("Value")).to_have_value("")
    it.dialog.get_by_role("button", name="Close").click()
    it.click("Delete WAREHOUSE_PASSWORD")

    expect(it.page.get_by_text("No secrets yet")).to_be_visible()


def test_a_queue_is_held_from_its_row_and_released_from_the_banner(visit):
    it = visit()
    it.go("/w/default/queues/")
    it.click("Edit dev_queue", role="link")
    it.dialog.get_by_role("button", name="Close").click()
    it.click("Hold dev_queue", role="link")
    it.dialog.get_by_label("Reason").fill("disk full")
    it.dialog.get_by_role("button", name="Hold", exact=True).click()
    expect(it.page.get_by_text("Queue dev_queue is held")).to_be_visible()

    it.click("Release queue dev_queue", role="link")
    it.dialog.get_by_role("button", name="Release", exact=True).click()

    expect(it.page.get_by_text("Queue dev_queue is held")).to_have_count(0)


def test_a_webhook_is_added_in_the_console_and_its_url_is_not_seen_again(visit):
    it = visit()
    it.go("/w/default/notifications/channels/")
    it.click("Add channel…", role="link")
    it.dialog.get_by_role("link", name="Webhook").click()
    expect(it.dialog.get_by_label("Secret")).to_have_value(re.compile(r"^whsec_"))
    it.dialog.get_by_label("Name", exact=True).fill("ops")
    it.dialog.get_by_label("URL").fill("https://hooks.example.com/canary")
    it.dialog.get_by_role("button", name="Save channel").click()

    expect(it.page.get_by_text("Saved channel ops.")).to_be_visible()
    expect(it.page.get_by_text("https://hooks.example.com/…")).to_be_visible()
    expect(it.page.get_by_text("canary")).to_have_count(0)
    it.click("Delete ops")
    expect(it.page.get_by_text("No channels yet")).to_be_visible()
