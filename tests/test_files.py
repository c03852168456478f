"""Files and folders that are complete or not there, and the locks on them."""

import contextlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from htmuon._files import (
    LOCK,
    DamagedFolderError,
    locked,
    new_file,
    one_at_a_time,
    sealed_folder,
    verify_sealed_folder,
    write_text,
)

HOLDER = """
import sys, time
from pathlib import Path
from htmuon._files import locked
with locked(Path(sys.argv[1]), "training"):
    print("held", flush=True)
    time.sleep(60)
"""
COUNTER = """
import sys, time
from pathlib import Path
from htmuon._files import one_at_a_time
folder = Path(sys.argv[1])
for _ in range(20):
    with one_at_a_time(folder / "lock"):
        count = int((folder / "count").read_text())
        time.sleep(0.001)
        (folder / "count").write_text(str(count + 1))
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()
        process.wait()


def test_a_folder_is_refused_at_once_while_another_process_holds_it(tmp_path, holder):
    began = time.monotonic()
    refused = pytest.raises(ValueError, match=r"another process is comparing in .*run; wait until it ends, or choose")
    with refused, locked(tmp_path / "run", "comparing"):
        pytest.fail("the folder is held")
    assert time.monotonic() - began < 1


def test_a_process_that_is_killed_holds_nothing(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / LOCK).exists()
    with locked(tmp_path / "run", "training"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_errors_of_what_is_done_in_the_folder_are_not_those_of_the_lock(tmp_path):
    with pytest.raises(FileNotFoundError, match="mine"), locked(tmp_path, "training"):
        raise FileNotFoundError("mine")
    with locked(tmp_path, "training"):
        pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    refused = pytest.raises(ValueError, match=r"must be a folder that can be written \([A-Z].+\). Choose another")
    with refused, locked(tmp_path / "file" / "run", "training"):
        pytest.fail("there is no folder")


def test_processes_wait_for_one_another(tmp_path):
    write_text(tmp_path / "count", "0")
    processes = [subprocess.Popen([sys.executable, "-c", COUNTER, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "60"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]


def test_threads_wait_for_one_another(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(5):
            with one_at_a_time(tmp_path / "lock"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.002)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write_text(tmp_path / "a", "old")
    with contextlib.suppress(KeyboardInterrupt), new_file(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


def test_a_sealed_folder_knows_its_content(tmp_path):
    with sealed_folder(tmp_path / "sealed") as folder:
        (folder / "a").write_text("content")
    verify_sealed_folder(tmp_path / "sealed")
    (tmp_path / "sealed" / "a").write_text("changed")
    with pytest.raises(DamagedFolderError, match="is damaged: a changed after it was written"):
        verify_sealed_folder(tmp_path / "sealed")
