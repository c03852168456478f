"""The package on systems that lack what only Unix has: it imports, and explains itself."""

import os
import subprocess
import sys
from pathlib import Path

from htmuon._files import sealed_folder, verify_sealed_folder, write_text

# torch, and psutil, which transformers may load, are loaded first and as they are here; of the package itself nothing
# may need what is taken away.
WITHOUT_UNIX = """
import os, sys
import torch, torch.distributed.checkpoint, filelock, psutil
sys.modules["fcntl"] = sys.modules["resource"] = None
del os.getloadavg, os.sched_getaffinity, os.sysconf
"""
IMPORT_ALL = """
import importlib, pkgutil
import htmuon
names = [module.name for module in pkgutil.walk_packages(htmuon.__path__, "htmuon.", onerror=lambda name: None)]
names = [name for name in names if not name.startswith("htmuon.kernels.triton_") and name != "htmuon.__main__"]
names = [name for name in names if not name.startswith("htmuon.jax")]  # only where JAX is
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def without_unix(code):
    done = subprocess.run([sys.executable, "-c", WITHOUT_UNIX + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_imports():
    assert int(without_unix(IMPORT_ALL)) > 150


def test_help_and_list():
    printed = without_unix("from htmuon.cli import main; assert main(['--help']) == 0 and main(['list']) == 0")
    assert "htmuon compare llama-tiny" in printed
    assert "llama-tiny" in printed.partition("Recipes:")[2]


def test_what_the_system_does_not_say():
    code = """
from htmuon._device import load_average, memory_size, usable_cores
print(load_average(), usable_cores() >= 1, memory_size(torch.device("cpu")))
"""
    assert without_unix(code).split() == ["0.0", "True", "None"]


def test_folders_are_not_opened_to_wait_for_the_disk(tmp_path, monkeypatch):
    opened = os.open

    def open_file(path, flags, *arguments, **options):
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", path)
        return opened(path, flags, *arguments, **options)

    with monkeypatch.context() as system:
        system.setattr(os, "open", open_file)
        system.setattr(sys, "platform", "win32")
        with sealed_folder(tmp_path / "sealed") as folder:
            write_text(folder / "a.txt", "content")
        verify_sealed_folder(tmp_path / "sealed")
