from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from apps.nodes.kinds.base import FOLDERS, Command
from apps.runs.desks import Desk, Desks


def command(**files: str) -> Command:
    return Command(argv=("true",), env={}, cwd=Path("/"), files=files, folders=FOLDERS)


@pytest.fixture
def desks(tmp_path: Path) -> Desks:
    return Desks(tmp_path, reuse=True, most=2)


def lying_on(desk: Desk) -> dict[str, str]:
    return {
        str(path.relative_to(desk.path)): path.read_text() if path.is_file() else ""
        for path in desk.path.rglob("*")
    }


def used(desks: Desks, kind: str = "shell", **files: str) -> Desk:
    desk = desks.take(kind)
    desk.lay_out(command(**files))
    return desk


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param({"main.sh": "a long text"}, {"main.sh": "short"}, id="shorter text"),
        pytest.param({"main.sh": "short"}, {"main.sh": "a long text"}, id="longer text"),
        pytest.param({"main.sh": "text"}, {"main.sh": ""}, id="no text"),
        pytest.param({"main.sh": "secret"}, {}, id="no file"),
        pytest.param({"a": "1"}, {"a": "2", "b": "3"}, id="one more file"),
    ],
)
def test_clean_desk_is_used_again_and_shows_nothing_of_the_job_before(desks, first, second):
    before = used(desks, **first)
    desks.leave(before)
    desks.sort()

    after = used(desks, **second)

    assert after is before
    assert lying_on(after) == {**dict.fromkeys(FOLDERS, ""), **second}


@pytest.mark.parametrize(
    "mess",
    [
        pytest.param(lambda at: (at / "left").touch(), id="a file"),
        pytest.param(lambda at: (at / "tmp" / "left").touch(), id="a file in tmp"),
        pytest.param(lambda at: (at / "outputs" / "report.md").touch(), id="an output"),
        pytest.param(lambda at: (at / "tmp").rmdir(), id="a folder gone"),
        pytest.param(lambda at: (at / "main.sh").unlink(), id="its text gone"),
        pytest.param(
            lambda at: ((at / "main.sh").unlink(), (at / "main.sh").symlink_to("/etc/passwd")),
            id="a link for a text",
        ),
        pytest.param(
            lambda at: ((at / "tmp").rmdir(), (at / "tmp").symlink_to("/etc")), id="a link for tmp"
        ),
        pytest.param(
            lambda at: (at.parent / "kept").hardlink_to(at / "main.sh"),
            id="another name for its text",
        ),
        pytest.param(
            lambda at: (
                (at / "main.sh").rename(at.parent / "moved"),
                (at / "main.sh").write_text("true"),
                (at / "main.sh").chmod(0o600),
            ),
            id="another text",
        ),
        pytest.param(lambda at: (at / "main.sh").chmod(0o644), id="its text open to all"),
        pytest.param(lambda at: (at / "main.sh").chmod(0), id="its text closed"),
        pytest.param(lambda at: (at / "tmp").chmod(0o777), id="tmp open to all"),
        pytest.param(lambda at: at.chmod(0o755), id="the desk open to all"),
        pytest.param(lambda at: shutil.rmtree(at), id="no desk"),
        pytest.param(
            lambda at: os.chown(at / "main.sh", 65534, -1),
            id="another owner",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away"),
        ),
    ],
)
def test_desk_that_a_job_changed_is_removed_and_links_are_not_followed(desks, mess):
    desk = used(desks, **{"main.sh": "true"})
    mess(desk.path)
    desks.leave(desk)
    desks.clear()

    assert (desk.path.exists(), desks.take("shell") is desk) == (False, False)
    assert os.path.exists("/etc/passwd")


def test_desk_of_one_user_is_never_anothers(tmp_path):
    desks = Desks(tmp_path, reuse=False, most=2)
    desk = used(desks, **{"main.sh": "true"})
    desks.leave(desk)
    desks.clear()

    assert (desk.path.exists(), desks.take("shell").path) == (False, tmp_path / "shell-1")


def test_kinds_do_not_share_desks_and_no_more_are_kept_than_there_are_slots(desks, tmp_path):
    for desk in [used(desks, "shell") for _ in range(5)]:
        desks.leave(desk)
    desks.clear()

    assert len(os.listdir(tmp_path)) == 2
    assert desks.take("python").kind == "python"


def test_writing_goes_through_no_link(desks, tmp_path):
    """Not even where a job put one there at the last moment."""
    desk = used(desks, **{"main.sh": "true"})
    (desk.path / "main.sh").unlink()
    (desk.path / "main.sh").symlink_to(tmp_path / "target")

    with pytest.raises(OSError, match="symbolic links"):
        desk.lay_out(command(**{"main.sh": "false"}))
    assert not (tmp_path / "target").exists()
