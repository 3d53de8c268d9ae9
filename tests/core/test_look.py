"""The small parts of the look that carry a rule."""

from __future__ import annotations

import gzip
import json
import re
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from django.conf import settings

from apps.core.templatetags.look import STATES, cu, duration, size, state_mark
from apps.engine.states import AttemptState, NodeState, RunState

STATIC = Path(settings.BASE_DIR) / "static"
TEMPLATES = Path(settings.BASE_DIR) / "templates"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0s"),
        (0.02, "0s"),
        (0.44, "0.4s"),
        (19.9, "19s"),
        (188, "3m 08s"),
        (3840, "1h 04m"),
        (2 * 86400 + 3 * 3600, "2d 03h"),
    ],
)
def test_duration_in_the_two_units_that_matter(seconds, words):
    assert duration(timedelta(seconds=seconds)) == words


def test_compute_units_and_bytes_without_needless_digits():
    assert [cu(n) for n in (250, 1000, 2500, 64000, None)] == ["0.25", "1", "2.5", "64", ""]
    assert [size(n) for n in (0, 999, 91_000, 1_400_000, 2_000_000_000)] == [
        "0 B",
        "999 B",
        "91 kB",
        "1.4 MB",
        "2.0 GB",
    ]


def test_every_state_has_a_mark_and_each_shape_is_drawn_once():
    known = {str(s) for kind in (NodeState, RunState, AttemptState) for s in kind}
    drawn = re.findall(r'id="oc-m-(\w+)"', (TEMPLATES / "core/_marks.html").read_text())

    assert known <= STATES.keys()
    assert sorted({symbol for symbol, _ in STATES.values()}) == sorted(drawn)


def test_a_mark_says_its_word_to_those_who_cannot_see_it():
    assert 'role="img" aria-label="Waiting"' in state_mark("queued")


def test_our_classes_and_those_of_the_vendored_sheet_do_not_meet():
    ours = (STATIC / "app/oc.css").read_text()
    selectors = re.sub(r"/\*.*?\*/|\{[^{}]*\}|url\([^)]*\)", " ", ours, flags=re.DOTALL)
    foreign = set(re.findall(r"\.([A-Za-z][\w-]*)", selectors))

    assert {name for name in foreign if not name.startswith("oc-")} == {"htmx-request"}
    assert ".oc-" not in (STATIC / "vendor/tabler/tabler.min.css").read_text()


def test_pages_hold_no_inline_code_or_style_and_nothing_that_needs_eval():
    forbidden = re.compile(
        r"<style|\sstyle=|\son\w+=|javascript:|hx-on|js:|<script>|hx-trigger=\"[^\"]*\[", re.I
    )
    found = {
        str(path.relative_to(TEMPLATES)): forbidden.findall(path.read_text())
        for path in TEMPLATES.rglob("*.html")
        # A mail carries its style with it: it has no other, and our policy is not over it.
        if path.parent != TEMPLATES / "notifications/mail"
    }

    assert {path: hits for path, hits in found.items() if hits} == {}


def test_icons_that_templates_name_are_in_the_sprite():
    sprite = set(
        re.findall(r'symbol id="([\w-]+)"', (STATIC / "vendor/tabler-icons/icons.svg").read_text())
    )
    named = {
        name
        for path in TEMPLATES.rglob("*.html")
        for name in re.findall(r'\{% icon "([\w-]+)"', path.read_text())
    }

    assert named - sprite == set()


def test_vendored_files_are_what_the_manifest_says_and_keep_the_budget():
    vendor = STATIC / "vendor"
    manifest = json.loads((vendor / "MANIFEST.json").read_text())
    there = {
        str(path.relative_to(vendor)): sha256(path.read_bytes()).hexdigest()
        for path in vendor.rglob("*")
        if path.is_file() and path.suffix != ".gz" and path.name not in ("MANIFEST.json", "LICENSE")
    }
    packed = {
        str(path.relative_to(vendor)).removesuffix(".gz"): gzip.decompress(path.read_bytes())
        for path in vendor.rglob("*.gz")
    }

    assert {name: entry["sha256"] for name, entry in manifest.items()} == there
    assert all((vendor / name).parent.joinpath("LICENSE").is_file() for name in there)
    assert packed == {
        name: (vendor / name).read_bytes() for name in there if not name.endswith(".woff2")
    }
    # Gzip, of what every page loads; frontend.md allows 28 KB of script for a list.
    shell = [name for name in manifest if name.startswith(("htmx/", "idiomorph/"))]
    assert sum(manifest[name]["gzip"] for name in shell) < 24_000


def test_what_asks_for_itself_does_not_hand_its_swap_to_links_that_open_the_dialog():
    # They would put the answer in the dialog's place, and nothing would open any more.
    wrong = [
        path.name
        for path in TEMPLATES.rglob("*.html")
        if 'hx-target="#oc-dialog"' in (text := path.read_text())
        for tag in re.findall(r"<[^<]*hx-trigger=\"every[^\n]*>", text)
        if not re.search(r'hx-disinherit="[^"]*hx-swap', tag)
    ]

    assert wrong == []
