"""The log of a run as people read it: odd bytes, endless lines, a lost connection."""

from __future__ import annotations

import os
import re
import signal

import pytest
from playwright.sync_api import expect

from tests.waiting import until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

ODD = r"""import sys, time
time.sleep(3)  # so that the page follows from the first byte
out = sys.stdout.buffer
out.write(b"</script><img src=x onerror=alert(1)>\n")
out.write(b"\x1b[31mred\x1b[0m plain \x1b]0;title\x07\x1b[2Kcleared\n")
out.write(b"bad \xff\xfe bytes\n")
out.write(b"10%\r50%\r100%\n")
out.write(b"x" * 10_000_000 + b"\n")
out.write("Zürich 苏黎世\n".encode())
out.flush()
raise ValueError("no column <b>coupon_amt</b>")
"""


def test_what_a_job_prints_is_text_whatever_it_prints(visit):
    it = visit()
    it.create_job("odd", "Python", ODD, publish=False)
    it.run_once()
    expect(it.state).to_have_text("Failed", timeout=30_000)

    lines = it.log.locator("li > span")
    expect(it.log.get_by_text("Zürich 苏黎世")).to_be_attached()
    texts = lines.all_text_contents()
    assert texts[:4] == [
        "</script><img src=x onerror=alert(1)>",
        "red plain cleared",
        "bad \ufffd\ufffd bytes",
        "100%",
    ]
    assert re.fullmatch("x{20000} … 9,980,000 more characters in the download", texts[4])
    assert texts[5] == "Zürich 苏黎世"
    expect(lines.nth(1).locator(".oc-sgr-31")).to_have_text("red")

    # The page says why, before anything is clicked, and the log stands at that line.
    expect(it.page.locator(".oc-trouble-line")).to_have_text(
        "ValueError: no column <b>coupon_amt</b>"
    )
    expect(it.log.get_by_text(re.compile("^ValueError"))).to_be_in_viewport()
    it.check_width()

    # Opened anew, a log this long shows its end, and says so.
    it.page.reload()
    expect(it.log.get_by_text(re.compile("^The lines before are not shown"))).to_be_attached()
    expect(it.log.get_by_text(re.compile("^ValueError"))).to_be_in_viewport()

    with it.page.expect_download() as download:
        it.click("Download the whole log", role="link")
    with open(download.value.path(), "rb") as file:
        assert file.read(37) == b"</script><img src=x onerror=alert(1)>"


def test_a_long_log_is_searched_and_gone_to_by_line_though_only_its_end_is_shown(visit):
    it = visit()
    page = it.page
    long = "seq -f 'line %.0f of many' 60000 | sed 's/^line 4321 .*/the Needle/'; echo last"
    it.create_job("lengthy", "Shell", long, publish=False)
    it.run_once()
    expect(it.state).to_have_text("Succeeded", timeout=30_000)
    page.reload()

    # It opens at its end, with the numbers that the lines have.
    it.see_line("last")
    expect(it.log.locator("li", has_text="last").locator("i")).to_have_text("60001")

    find = page.get_by_label("Find in the log")
    find.fill("nEEDLE")
    find.press("Enter")
    hits = page.locator("[data-hits] li")
    expect(hits).to_have_text(["4321the Needle"])
    hits.first.get_by_role("button").click()
    it.see_line("the Needle")
    expect(it.log.get_by_text("line 4322 of many")).to_be_visible()

    to_line = page.get_by_label("Go to line")
    to_line.fill("33,333")
    to_line.press("Enter")
    it.see_line("line 33333 of many")
    to_line.fill("60002")
    to_line.press("Enter")
    expect(to_line).to_have_attribute("aria-invalid", "true")
    it.check_width()

    it.log.get_by_role("button", name="Back to the end").click()
    it.see_line("last")


def test_reading_further_up_stops_the_following_until_one_is_back_at_the_end(visit):
    it = visit()
    slow = "for n in $(seq 400); do echo line $n; sleep 0.02; done; sleep 1; echo last"
    it.create_job("slow", "Shell", slow, publish=False)
    it.run_once()
    expect(it.log.get_by_text("line 100", exact=True)).to_be_visible()

    it.log.hover()
    it.page.mouse.wheel(0, -10_000)
    follow = it.page.get_by_role("button", name="Follow")
    expect(follow).to_have_attribute("aria-pressed", "false")
    before = it.log.locator("li").count()
    expect(it.log.get_by_text("line 300", exact=True)).to_be_attached()
    assert it.log.locator("li").count() > before
    assert it.log.evaluate("log => log.scrollTop") == 0

    follow.click()
    expect(it.log.get_by_text("last", exact=True)).to_be_in_viewport()


def test_a_server_that_restarts_costs_no_line_and_doubles_none(visit, console):
    it = visit()
    lines = 60
    it.create_job(
        "steady",
        "Shell",
        f"for n in $(seq {lines}); do echo line $n; sleep 0.15; done",
        publish=False,
    )
    it.run_once()
    expect(it.log.get_by_text("line 5", exact=True)).to_be_visible()

    old = console.pids()["web"]
    os.kill(old, signal.SIGKILL)
    until(lambda: console.pids().get("web") not in (None, old), "the next web process", seconds=30)

    expect(it.log.get_by_text(f"line {lines}", exact=True)).to_be_visible(timeout=30_000)
    expect(it.state).to_have_text("Succeeded", timeout=30_000)
    assert it.log.locator("li > span").all_text_contents() == [
        f"line {n}" for n in range(1, lines + 1)
    ]
    it.faults[:] = [fault for fault in it.faults if "ERR_" not in fault]  # that was the point


def test_a_run_is_stopped_from_its_page(visit):
    it = visit()
    it.create_job("long", "Shell", "echo begun; sleep 300", publish=False)
    it.run_once()
    expect(it.log.get_by_text("begun")).to_be_visible()

    it.click("Stop…")

    expect(it.state).to_have_text("Stopped", timeout=30_000)
    expect(it.page.locator("#oc-rerun")).to_be_visible()


def test_the_panel_goes_on_with_the_next_attempt_by_itself(visit):
    it = visit()
    page = it.page
    content = "echo try $RUNYARD_ATTEMPT; case $RUNYARD_ATTEMPT in *.1) exit 3;; esac; sleep 2"
    it.create_job("flaky", "Shell", content)
    it.go("/w/default/workflows/")
    it.click("Create workflow…", role="link")
    it.dialog.get_by_label("Name").fill("flaky")
    it.dialog.get_by_label("Retries", exact=True).fill("1")
    it.dialog.get_by_label("Retry interval (seconds)").fill("1")
    it.dialog.get_by_role("button", name="Create workflow").click()
    it.click("Add node", role="link")
    page.get_by_label("Job", exact=True).fill("flaky")
    it.click("Add node")
    expect(page.get_by_text("Added node flaky.")).to_be_visible()
    it.click("Publish…", role="link")
    it.dialog.get_by_role("button", name="Publish v1").click()
    expect(page.get_by_text("Published flaky as v1.")).to_be_visible()
    it.click("Run")

    expect(it.log.get_by_text(re.compile(r"^try \d+\.2$"))).to_be_visible(timeout=30_000)
    expect(page.locator("#oc-node-head [aria-current]")).to_have_text("2")
    expect(it.state).to_have_text("Succeeded", timeout=30_000)

    page.get_by_title("Attempt 1: Failed").click()
    expect(it.log.get_by_text(re.compile(r"^try \d+\.1$"))).to_be_visible()
