"""`demo` as people start it, in a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from apps.core.home import Home
from tests.core.conftest import ROOT, environment


@dataclass
class Demo:
    """A `demo` in a process of its own, and what it prints."""

    process: subprocess.Popen[bytes]
    file: Path

    @classmethod
    def start(cls, home: Home, *arguments: str, **settings: str) -> Demo:
        descriptor, name = tempfile.mkstemp(prefix="output-", dir=home.path.parent)
        with open(descriptor, "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "manage.py", "demo", "--port", "0", *arguments],
                cwd=ROOT,
                env={**environment(home), **settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return cls(process, Path(name))

    @property
    def text(self) -> str:
        return self.file.read_text()

    def end(self) -> int:
        """As Ctrl-C does; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def is_over(self) -> bool:
        """Whether it has told the result."""
        return self.process.poll() is not None or "goes on serving" in self.text

    @property
    def carriers(self) -> dict[str, tuple[str, int, Decimal]]:
        """Of each line of its table: code -> airline, flights, mean delay."""
        lines = re.findall(r"^(\w\w) +(\S.*?) +([\d,]+) +(-?\d+\.\d\d)$", self.text, re.MULTILINE)
        return {
            code: (airline, int(flights.replace(",", "")), Decimal(mean))
            for code, airline, flights, mean in lines
        }
