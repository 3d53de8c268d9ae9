from __future__ import annotations

import os
from uuid import uuid4

import pytest

from apps.nodes.services.files import open_blob
from apps.runs.models import Output
from apps.runs.services.hot_path import Claim, claim
from apps.runs.services.outputs import store_outputs
from tests.factories import by_hand, chain, workspace

pytestmark = pytest.mark.django_db


@pytest.fixture
def mine() -> Claim:
    by_hand(chain(1))
    claimed = claim(workspace().queues.get(name="root_queue").pk, "me", uuid4())
    assert claimed is not None
    return claimed


def test_what_is_no_plain_file_is_left_out_and_the_others_are_kept(mine, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "d.txt").mkdir()
    os.mkfifo(tmp_path / "p.txt")
    (tmp_path / "s.txt").symlink_to("/etc/passwd")
    (tmp_path / "t.txt").touch()
    os.truncate(tmp_path / "t.txt", 1 << 40)
    (tmp_path / "z.md").write_text("z")
    before = os.listdir("/proc/self/fd")

    left_out = store_outputs(mine, tmp_path)

    assert left_out == [
        "output 'd.txt' was left out: it is no plain file",
        "output 'p.txt' was left out: it is no plain file",
        "output 's.txt' was left out: Too many levels of symbolic links",
        "output 't.txt' was left out: one attempt may keep 20 MiB",
    ]
    kept = {}
    for output in Output.objects.filter(attempt__node_run=mine.node_run_id):
        with open_blob(output.sha256) as file:
            kept[output.name] = file.read()
    assert kept == {"a.txt": b"a", "z.md": b"z"}
    assert os.listdir("/proc/self/fd") == before
