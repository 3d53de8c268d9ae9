"""A real browser on a real `up`. On every page that a test opens, nothing may break the
policy, write an error to the console, or be wider than the window."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from apps.core.home import Home
from tests.core.conftest import Up, processes_of

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-quic",
    "--no-first-run",
]
DESKTOP = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}

#: Before any script of the page: tell of what the policy stopped.
WATCH = """
document.addEventListener("securitypolicyviolation", (e) =>
  window.reportViolation(`${e.violatedDirective}: ${e.blockedURI} on ${location.pathname}`));
"""

expect.set_options(timeout=15_000)


@pytest.fixture(scope="session")
def console() -> Iterator[Up]:
    """Everything up, in a home of its own."""
    folder = Path(tempfile.mkdtemp(prefix="runyard-browser-"))
    up = Up(Home(folder / "home"))
    try:
        yield up.ready()
    finally:
        up.end()
        for pid in processes_of(up.home):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(up.home.sockets, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """One person's window, and what went wrong in it."""

    page: Page
    address: str
    faults: list[str] = field(default_factory=list)

    def report(self, fault: str) -> None:
        self.faults.append(fault)

    def go(self, path: str) -> None:
        self.page.goto(self.address + path)
        self.check_width()

    def check_width(self) -> None:
        wide = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        if wide > 0:
            self.faults.append(f"{self.page.url} is {wide} px too wide")

    def log_in(self, password: str) -> None:
        self.go("/login/")
        self.page.get_by_label("User name").fill("admin")
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Log in").click()
        self.page.wait_for_url("**/w/default/workflows/")

    def click(self, name: str, *, role: str = "button", exact: bool = False) -> None:
        self.page.get_by_role(role, name=name, exact=exact).first.click()  # type: ignore[arg-type]

    @property
    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog")

    def create_job(self, path: str, kind: str, content: str, *, publish: bool = True) -> None:
        """As a person would: create, type, publish with remarks."""
        self.go("/w/default/jobs/")
        self.click("Create job…", role="link")
        self.dialog.get_by_label("Path").fill(path)
        self.dialog.get_by_label(kind, exact=True).check()
        self.dialog.get_by_role("button", name="Create job").click()
        self.page.get_by_label("Content").fill(content)
        if publish:
            self.click("Publish…")
            self.page.get_by_label("Remarks").fill("first version")
            self.click("Publish v1")
            expect(self.page.get_by_text(f"Published {path} as v1.")).to_be_visible()

    def run_once(self) -> None:
        """The draft in the editor, once; leads to the run's page."""
        self.click("Run once")
        self.page.wait_for_url(re.compile(r"/runs/\d+/$"))

    @property
    def log(self) -> Locator:
        return self.page.get_by_role("log")

    def see_line(self, text: str) -> None:
        """That the log shows this line. It waits for the line without an expectation, since each
        look that fails makes Playwright describe the whole page: minutes with 20,000 lines that
        were never laid out."""
        line = self.log.get_by_text(text, exact=True)
        line.wait_for(state="attached")
        expect(line).to_be_in_viewport()

    @property
    def state(self) -> Locator:
        return self.page.locator(".oc-run-head .oc-pill")


@pytest.fixture
def visit(console: Up, browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Open a window, logged in."""
    opened: list[tuple[BrowserContext, Visit]] = []

    def open_window(*, dark: bool = False, phone: bool = False, log_in: bool = True) -> Visit:
        context = browser.new_context(
            viewport=PHONE if phone else DESKTOP,  # type: ignore[arg-type]
            color_scheme="dark" if dark else "light",
        )
        page = context.new_page()
        it = Visit(page, console.address)
        context.expose_function("reportViolation", it.report)
        context.add_init_script(WATCH)
        page.on("pageerror", lambda error: it.report(f"{page.url}: {error}"))
        page.on(
            "console",
            lambda said: it.report(said.text) if said.type == "error" else None,
        )
        page.on("dialog", lambda dialog: dialog.accept())
        opened.append((context, it))
        if log_in:
            it.log_in(console.password)
        return it

    yield open_window
    faults = [fault for _, it in opened for fault in it.faults]
    for context, _ in opened:
        context.close()
    assert faults == []
