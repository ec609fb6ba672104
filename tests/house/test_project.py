"""README, pyproject, CHANGELOG and .ci/run say the same thing."""
import re
import stat
import tomllib
from pathlib import Path

import pytest

import edgekit
from edgekit import targets

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
README = (ROOT / "README.md").read_text("utf-8")
CI = ROOT / ".ci" / "run"


def commands(last_word: str) -> list[str]:
    """Lines of the README that make a virtual environment and end in a command."""
    return [line for line in README.splitlines() if line.startswith("python3 -m venv ") and line.endswith(last_word)]


@pytest.mark.parametrize("last_word", ["edgekit demo", "-m pytest"])
def test_the_two_commands_stand_in_the_first_screen(last_word):
    (command,) = commands(last_word)
    assert README.splitlines().index(command) < 30
    (extra,) = re.findall(r"\.\[(\w+)\]", command)
    assert extra in PROJECT["project"]["optional-dependencies"]


def test_ci_takes_the_test_command_from_the_readme():
    text = CI.read_text("utf-8")
    assert CI.stat().st_mode & stat.S_IXUSR
    (pattern,) = re.findall(r"grep -x '(.*pytest)' README\.md", text)
    assert [line for line in README.splitlines() if re.fullmatch(pattern, line)] == commands("-m pytest")
    for tool in ("ruff check", "mypy", "-m slow", "edgekit\" demo"):
        assert tool in text, f".ci/run does not run {tool}"


def test_the_base_needs_numpy_alone():
    assert [re.split(r"[<>=]", d)[0] for d in PROJECT["project"]["dependencies"]] == ["numpy"]


def test_extras_are_those_of_the_interface():
    extras = PROJECT["project"]["optional-dependencies"]
    assert {"export", "wasm", "arm64", "torch", "demo", "test"} <= set(extras)
    assert "apache-tvm==0.27.0.post1" in extras["export"]
    assert not [d for d in extras["torch"] if "==" in d or "<" in d], "torch has no upper pin"


def test_one_version():
    version = PROJECT["project"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.findall(r"^## (\d+\.\d+\.\d+)", changelog, re.MULTILINE)[0] == version
    assert edgekit.__version__ == version


def test_every_link_in_the_documents_leads_somewhere():
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
    wrong = [
        f"{document.name}: {link}"
        for document in documents
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text("utf-8"))
        if not (document.parent / link).exists()
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", targets.names())
def test_every_target_loads(name):
    target = targets.load(name)
    assert target.title and target.static.format(name="m").endswith((".a", ".lib"))
    assert target.runner in ("host", "arm", "wasm", "")


def test_every_data_file_is_packaged():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["edgekit"]
    packaged = {path for pattern in patterns for path in (ROOT / "edgekit").glob(pattern)}
    data = {p for p in (ROOT / "edgekit").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert data == packaged


def test_what_documents_point_at_exists():
    """Links, and the folders of tests that they name."""
    missing = []
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]:
        text = page.read_text("utf-8")
        links = [page.parent / link for link in re.findall(r"\]\(([^)#:]+)", text)]
        missing += [f"{page.name}: {p}" for p in [*links, *(ROOT / t for t in re.findall(r"\btests/\w+\b", text))] if not p.exists()]
    assert not missing
