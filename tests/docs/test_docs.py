"""The docs against the product: links, commands, variables, services, states, blocks that run."""

from __future__ import annotations

import re
import shlex
import subprocess
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from django.conf import settings
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand
from markdown_it import MarkdownIt

from apps.engine.states import AttemptState, NodeState, RunState, Trigger
from apps.engine.timevars import FUNCTIONS, Moment, built_in, render
from apps.engine.waiting import Code
from apps.notifications.addresses import MAX_ADDRESSES
from apps.notifications.models import Kind
from apps.notifications.services import nodes, outbox
from tests.bench.__main__ import parser as bench_parser
from tests.chaos.run import parser as chaos_parser

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARKDOWN = MarkdownIt("commonmark").enable("table")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@dataclass(frozen=True)
class Block:
    page: Path
    #: The words after the fence: the language, and `runnable` where it is to be run here.
    words: tuple[str, ...]
    text: str

    def commands(self) -> list[str]:
        """The lines of a shell block, joined where they go on."""
        return self.text.replace("\\\n", " ").splitlines() if self.words[:1] == ("sh",) else []


def blocks(page: Path) -> list[Block]:
    return [
        Block(page, tuple(token.info.split()), token.content)
        for token in MARKDOWN.parse(page.read_text())
        if token.type == "fence"
    ]


def inline(page: Path, kind: str) -> Iterator[str]:
    """What stands in the running text: the code in it, the targets of its links and pictures."""
    for token in MARKDOWN.parse(page.read_text()):
        for child in token.children or ():
            if child.type != kind:
                continue
            if kind == "code_inline":
                yield child.content
            else:
                yield str(child.attrs["src" if kind == "image" else "href"])


def anchors(page: Path) -> set[str]:
    """The headings of a page, as the hosts of repositories make addresses of them."""
    tokens = MARKDOWN.parse(page.read_text())
    headings = [
        tokens[n + 1].content for n, token in enumerate(tokens) if token.type == "heading_open"
    ]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --- links ------------------------------------------------------------------------------------


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for target in [*inline(page, "link_open"), *inline(page, "image")]:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)

    assert dead == []


def test_index_names_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    named = {(index.parent / target).resolve() for target in inline(index, "link_open")}

    assert named == set(PAGES) - {index}


# --- commands ---------------------------------------------------------------------------------


def runyard_lines() -> Iterator[tuple[str, str]]:
    """Every `./runyard …` of the docs: (page, the words after it)."""
    for page in PAGES:
        code = [*inline(page, "code_inline")]
        code += [line for block in blocks(page) for line in block.commands()]
        for text in code:
            for found in re.findall(r"(?<!\S)\./runyard(?: ([^|;&#>]*))?", text):
                yield name_of(page), found.strip()


def refuses(command: BaseCommand, arguments: list[str]) -> bool:
    """Whether a command of Django's cannot read these arguments."""
    parser: ArgumentParser = command.create_parser("manage.py", command.__class__.__name__)
    try:
        parser.parse_args(arguments)
    except (SystemExit, Exception):
        return True
    return False


class OtherCommand(BaseCommand):
    """`./runyard bench` or `chaos`, which are none of Django's, so far as their arguments go."""

    def __init__(self, parser: Callable[[], ArgumentParser]) -> None:
        super().__init__()
        self._parser = parser

    def create_parser(self, *_: object, **__: object) -> ArgumentParser:  # type: ignore[override]
        return self._parser()


OTHERS = {"bench": bench_parser, "chaos": chaos_parser}


def django_command(name: str) -> BaseCommand | None:
    app = get_commands().get(name)
    return load_command_class(app, name) if isinstance(app, str) else app


def test_every_command_line_is_one_that_runyard_takes() -> None:
    usage = subprocess.run(
        [ROOT / "runyard", "help"], capture_output=True, text=True, check=True
    ).stdout
    known = set(re.findall(r"^  (\w+)", usage, re.MULTILINE))
    lines = sorted(set(runyard_lines()))
    wrong = []
    for page, line in lines:
        name, *arguments = shlex.split(line) or [""]
        if name in ("", "help", "test") or line == "manage":
            continue
        if name == "manage":
            name, *arguments = arguments
        elif name not in known:
            wrong.append((page, line))
            continue
        command = OtherCommand(OTHERS[name]) if name in OTHERS else django_command(name)
        if command is None or refuses(command, arguments):
            wrong.append((page, line))

    assert wrong == []
    assert {line.split()[0] for _, line in lines if line} >= {
        "up",
        "demo",
        "test",
        "bench",
        "chaos",
        "doctor",
    }


def compose_services() -> set[str]:
    text = (ROOT / "docker-compose.yml").read_text()
    services = text.partition("\nservices:\n")[2].partition("\nvolumes:\n")[0]
    return set(re.findall(r"^  (\w+):$", services, re.MULTILINE))


def compose_lines() -> Iterator[tuple[str, str, list[str]]]:
    """Every `docker compose …` of the docs: (page, subcommand, words after it)."""
    for page in PAGES:
        code = [*inline(page, "code_inline")]
        code += [line for block in blocks(page) for line in block.commands()]
        for text in code:
            for found in re.findall(r"docker compose ([^|;&#<>]*)", text):
                subcommand, *words = shlex.split(found)
                yield name_of(page), subcommand, words


#: Options of docker compose that take a word.
WITH_WORD = {"--volume", "--build-arg", "--scale"}


def test_services_that_the_docs_name_are_those_of_the_compose_file() -> None:
    services = compose_services()
    named = set()
    wrong = []
    for page, subcommand, words in compose_lines():
        operands: list[str] = []
        rest = iter(words)
        for word in rest:
            if word == "--scale":
                operands.append(next(rest).partition("=")[0])
            elif word in WITH_WORD:
                next(rest)
            elif not word.startswith("-"):
                operands.append(word)
        # `run` and `exec` take one service, and then a command in it.
        meant = operands[:1] if subcommand in ("run", "exec") else operands
        named |= set(meant)
        wrong += [(page, subcommand, service) for service in meant if service not in services]
        command = operands[1:] if subcommand in ("run", "exec") else []
        if command[:2] == ["python", "manage.py"]:
            found = django_command(command[2])
            if found is None or refuses(found, command[3:]):
                wrong.append((page, subcommand, " ".join(command)))

    assert wrong == []
    assert named <= services
    assert {"postgres", "web", "worker", "beat", "migrate"} <= named


@pytest.mark.parametrize(
    "block",
    [block for page in PAGES for block in blocks(page) if "runnable" in block.words],
    ids=lambda block: f"{block.page.name}: {block.text.splitlines()[0]}",
)
def test_runnable_block_runs(block: Block, tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-eu", "-c", block.text], cwd=tmp_path, capture_output=True, text=True, timeout=30
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_secrets_that_the_docs_make_are_those_that_compose_asks_for(tmp_path: Path) -> None:
    [secrets, _] = [
        block
        for block in blocks(ROOT / "docs" / "production.md")
        if "runnable" in block.words and ".env" in block.text
    ]
    subprocess.run(["sh", "-eu", "-c", secrets.text], cwd=tmp_path, check=True)
    file = tmp_path / ".env"
    made = dict(line.split("=", 1) for line in file.read_text().splitlines())
    compose = (ROOT / "docker-compose.yml").read_text()

    assert set(made) == set(re.findall(r"\$\{(\w+):\?", compose))
    assert [bool(re.fullmatch("[0-9a-f]{64}", value)) for value in made.values()] == [True] * 3
    assert len(set(made.values())) == 3
    assert file.stat().st_mode & 0o777 == 0o600


# --- words ------------------------------------------------------------------------------------


def sources() -> str:
    """Where a variable's name may stand that the product reads or gives."""
    files = [
        ROOT / "runyard",
        ROOT / "docker-compose.yml",
        *(file for folder in ("apps", "config") for file in (ROOT / folder).rglob("*.py")),
    ]
    return "\n".join(file.read_text() for file in files)


@every_page
def test_variables_that_a_page_names_exist(page: Path) -> None:
    known = set(re.findall(r"\bRUNYARD_[A-Z_]+\b", sources()))
    named = set(re.findall(r"\bRUNYARD_[A-Z_]+\b", page.read_text()))

    assert named - known == set()


def test_variables_of_the_launcher_are_described() -> None:
    read = set(re.findall(r"\$\{?(RUNYARD_[A-Z_]+)", (ROOT / "runyard").read_text()))
    described = (ROOT / "docs" / "configuration.md").read_text()

    assert read != set()
    assert {name for name in read if f"`{name}`" not in described} == set()


def section(page: Path, heading: str) -> str:
    text = page.read_text()
    start = re.search(rf"^#+ {re.escape(heading)}$|^\*\*{re.escape(heading)}\.\*\*", text, re.M)
    assert start is not None, heading
    return re.split(r"^(?:#|\*\*)", text[start.end() :], maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize(
    ("heading", "words"),
    [
        ("Of a node run", NodeState),
        ("Of a run", RunState),
        ("Of an attempt", AttemptState),
        ("Trigger", Trigger),
    ],
)
def test_concepts_explain_every_state(heading: str, words: type[NodeState]) -> None:
    rows = re.findall(r"^\| `(\w+)` \|", section(ROOT / "docs" / "concepts.md", heading), re.M)

    assert sorted(rows) == sorted(word.value for word in words)


def test_the_table_of_waiting_has_every_reason_in_its_order() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "waiting.md").read_text(), re.M)

    assert rows == [code.value for code in Code]


#: The cycle of the examples.
CYCLE = Moment(
    datetime(2026, 3, 2, 2, 30, tzinfo=ZoneInfo("Europe/Berlin")), ZoneInfo("Europe/Berlin")
)


def rows(page: Path, heading: str) -> list[list[str]]:
    lines = section(page, heading).splitlines()
    table = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    return [[cell.strip("| ") for cell in row] for row in table[2:]]


def test_every_built_in_variable_is_described_with_its_value() -> None:
    described = {
        name: row[1].strip("`")
        for row in rows(ROOT / "docs" / "variables.md", "Built-in variables")
        for name in re.findall(r"\$\{(\w+)\}", row[0])
    }

    assert described == built_in(CYCLE)


def test_every_time_that_the_docs_write_has_the_value_beside_it() -> None:
    found = rows(ROOT / "docs" / "variables.md", "Times of the cycle: `$[…]`")

    assert [render(text.strip("`"), {}, CYCLE) for text, *_ in found] == [
        value.strip("`") for _, value, *_ in found
    ]
    used = {call for text, *_ in found for call in re.findall(r"\[(\w+)\(", text)}
    assert used == set(FUNCTIONS)


def test_notifications_are_described_with_their_numbers() -> None:
    said = " ".join((ROOT / "docs" / "notifications.md").read_text().split())
    every = settings.CELERY_BEAT_SCHEDULE["notifications.tick"]["schedule"]
    *kinds, last = (f"`{kind}`" for kind in Kind)

    for words in (
        f"up to {MAX_ADDRESSES} e-mail addresses",
        f"(every {every:g} s)",
        f"tried again after {outbox.FIRST_PAUSE_SECONDS} s",
        f"up to {outbox.LONGEST_PAUSE_SECONDS // 60} min, for {outbox.GIVE_UP.days} days",
        f"its {settings.MAIL_PER_HOUR} mails of the hour",
        f"{outbox.DIGEST_AFTER.seconds // 60} minutes after the first",
        f"longer than {nodes.SLOW_TIMES:g} times what nine in ten of the last {nodes.HISTORY} ",
        f"of fewer than {nodes.HISTORY_LEAST} nothing is known",
        f"`type` is {', '.join(kinds)} or {last}.",
    ):
        assert words in said
    assert timedelta(hours=1) == outbox.DIGEST_EVERY
