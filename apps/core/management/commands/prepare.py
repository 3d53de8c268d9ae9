from __future__ import annotations

from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand

from apps.core.up import first_password, first_rows


class Command(BaseCommand):
    help = "Bring the tables up to date; on a fresh database, make the first administrator."
    requires_system_checks = ()

    def handle(self, **_: Any) -> None:
        call_command("migrate", verbosity=1, interactive=False)
        if password := first_rows("default"):
            self.stdout.write(first_password(password))
