"""How manage.py runs a command: what a person can mend is one sentence, not a traceback."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line
from django.core.management.base import BaseCommand, CommandParser
from django.db import OperationalError, connection

from apps.core.embedded import EmbeddedError
from apps.core.home import HomeError
from apps.core.up import CannotRun


class OwnCommand(BaseCommand):
    """A command of `./runyard` itself, as its usage says.

    What it raises of CannotRun, HomeError and EmbeddedError is said by `run`.
    """

    requires_system_checks = ()

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.prog = f"./runyard {subcommand}"
        return parser


def run(argv: Sequence[str]) -> None:
    """Run a command line. Ends the process with status 1 where something is to be mended first."""
    try:
        execute_from_command_line(list(argv))
    except (CannotRun, EmbeddedError, HomeError, ImproperlyConfigured) as error:
        sys.exit(f"runyard: {error}")
    except OperationalError as error:
        if connection.connection is not None:
            raise  # it was reached, so the fault is the command's
        sys.exit(f"runyard: {_unreached(error)}")


def _unreached(error: OperationalError) -> str:
    if settings.EMBEDDED_DATABASE:
        return (
            f"the database of the home {settings.HOME.path} does not run; start it by "
            "`./runyard up` in another terminal, and repeat the command while that runs"
        )
    why = str(error).strip().partition("\n")[0]
    return f"the database of DATABASE_URL is not reached ({why}); start it, or correct DATABASE_URL"
