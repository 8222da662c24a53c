"""A folder holds one result: whole, of one command, written by one process at a time."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from biology.folders import STAGED, claim, foreign_files, hold, replaced
from biology.records import InputError

OWNED = ("layer_*/weights", "config.yaml", "record.json", ".work/")


def write(folder: Path, *names: str, text: str = "old") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_result_takes_the_place_of_another_whole(tmp_path):
    out = tmp_path / "out"
    write(
        out, "layer_0/weights", "layer_1/weights", "record.json", ".work/checkpoint", f"{STAGED}/left by a killed run"
    )
    with replaced(out, OWNED, "make") as staged:
        write(staged, "config.yaml", "record.json", text="new")
        old = [name for name in names(out) if not name.startswith(STAGED)]
        assert len(old) == 4  # whole until the new one is
        with pytest.raises(InputError, match="another `biology make` is writing"), replaced(out, OWNED, "make"):
            pytest.fail("two at once")
    assert names(out) == ["config.yaml", "record.json"] and not (out / "layer_0").exists()
    assert {(out / name).read_text() for name in names(out)} == {"new"}


def test_a_command_that_fails_leaves_the_folder_as_it_was(tmp_path):
    write(tmp_path / "old", "record.json", "layer_0/weights")
    for name in ("old", "parent/absent"):
        with pytest.raises(KeyboardInterrupt), replaced(tmp_path / name, OWNED, "make") as staged:
            write(staged, "layer_7/weights", text="new")
            raise KeyboardInterrupt
    assert names(tmp_path) == ["old/layer_0/weights", "old/record.json"] and not (tmp_path / "parent").exists()


@pytest.mark.parametrize(
    "name", ["notes.txt", ".git/config", "layer_0/notes.txt", "layer_0/deep/weights", "deep/config.yaml"]
)
def test_a_folder_with_anything_else_is_refused_and_left_alone(tmp_path, name):
    write(tmp_path, "config.yaml", name)
    assert foreign_files(tmp_path, OWNED) == [name]
    with pytest.raises(InputError, match="not written by `biology make`") as error:
        claim(tmp_path, OWNED, "make")
    assert f"{tmp_path} holds {name}," in str(error.value)
    with pytest.raises(InputError), replaced(tmp_path, OWNED, "make"):
        pytest.fail("the work began")
    assert names(tmp_path) == sorted(["config.yaml", name])


def test_a_link_to_elsewhere_is_a_stranger(tmp_path):
    write(tmp_path, "elsewhere/layer_0/weights")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/layer_0").symlink_to(tmp_path / "elsewhere/layer_0")
    with pytest.raises(InputError, match="holds layer_0,"):
        claim(tmp_path / "out", OWNED, "make")


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path):
    """Even if that is killed; the file that is left locks nothing."""
    code = "import sys, time; from biology.folders import hold; hold(sys.argv[1], 'busy'); print('held', flush=True); time.sleep(60)"
    path = tmp_path / "folder/lock"
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"busy .process {holder.pid} on "):
            hold(path, "busy")
        holder.send_signal(signal.SIGKILL)
    hold(path, "busy")
