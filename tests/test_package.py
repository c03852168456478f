"""What is released: one version, a source distribution from which the tests run, pages whose links lead somewhere."""

import re
import shutil
import subprocess
import sys
import tomllib
from email.parser import HeaderParser
from pathlib import Path

import pytest

import htmuon

ROOT = Path(__file__).parent.parent
# What serves the repository alone.
NOT_RELEASED = (".github/", ".gitignore", ".pre-commit-config.yaml")


@pytest.fixture(scope="module")
def metadata(tmp_path_factory) -> Path:
    """What setuptools makes of pyproject.toml and MANIFEST.in."""
    folder = tmp_path_factory.mktemp("metadata")
    setup = [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", "egg_info", "--egg-base", str(folder)]
    subprocess.run(setup, cwd=ROOT, check=True, capture_output=True)
    return folder / "htmuon.egg-info"


@pytest.fixture(scope="module")
def released(metadata) -> set[str]:
    """The files of the source distribution."""
    return set((metadata / "SOURCES.txt").read_text().splitlines())


@pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="needs a clone and git")
def test_the_source_distribution_has_every_file_of_the_repository(released):
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    expected = {name for name in tracked.splitlines() if not name.startswith(NOT_RELEASED)}
    assert {name for name in expected if (ROOT / name).exists()} - released == set()
    assert [name for name in released if name.endswith(".pyc")] == []


def test_the_wheel_has_every_file_of_the_package():
    """Files beside the modules are named in pyproject.toml, folder by folder."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    packaged = {path for room, globs in data.items() for glob in globs for path in (ROOT / _folder(room)).glob(glob)}
    others = {
        path
        for path in (ROOT / "htmuon").rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    }
    assert others == packaged


def _folder(package: str) -> str:
    return package.replace(".", "/")


def test_there_is_one_version_and_the_changelog_has_it(metadata):
    assert HeaderParser().parsestr((metadata / "PKG-INFO").read_text())["Version"] == htmuon.__version__
    assert f"\n## {htmuon.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "findings/README.md"])
def test_the_files_that_a_page_links_are_released(page, released):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / page).read_text())
    linked = [((ROOT / page).parent / link).resolve().relative_to(ROOT.resolve()).as_posix() for link in links]
    assert [name for name in linked if name not in released] == []


def test_every_finding_is_listed_and_has_the_form():
    listed = (ROOT / "findings" / "README.md").read_text()
    for script in (ROOT / "findings").glob("*.sh"):
        text = script.read_text()
        assert f"`{script.name}`" in listed
        assert text.startswith("#!/usr/bin/env bash\n# ")
        assert "\n# Seen" in text
        assert "\n# Fails if that changes.\nset -euo pipefail\n" in text
        assert "folder=$(mktemp -d)\ntrap 'rm -rf \"$folder\"' EXIT\n" in text
        assert "htmuon" not in text
        installed = re.findall(r"pip\" install (?:--\S+ )*(.+)", text)
        assert installed
        assert all("==" in package for line in installed for package in line.split())


def test_the_rooms_are_those_of_the_linter():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [name for layer in contracts[0]["layers"] for name in layer.replace("htmuon.", "").split(" | ")]
    drawn = re.findall(r"^    (.+?)  +\S", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    assert [name for line in drawn for name in re.split(r" \| |, ", line) if not line.startswith("make")] == layers


def test_the_files_that_contributing_names_exist():
    named = re.findall(r"`((?:tests|htmuon|routing|optim)/[\w/.]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert named
    assert [name for name in named if not any((ROOT / folder / name).exists() for folder in ("", "htmuon"))] == []
