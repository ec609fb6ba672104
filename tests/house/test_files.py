"""What is in the repository: sizes, links, and nothing of the machine it was written on."""
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LONG: dict[str, str] = {}  # files of more than 500 lines, each with its reason
TEXT = {".py", ".c", ".h", ".toml", ".md", ".json", ".html", ".css", ".in", ".txt", ""}


def files() -> list[Path]:
    """Every file that is, or would be, committed; every file of an unpacked source distribution."""
    if not (ROOT / ".git").exists():
        return [p for p in ROOT.rglob("*") if p.is_file() and not re.search(r"/\.|__pycache__|egg-info", p.as_posix())]
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_files_are_short():
    long = {
        path.relative_to(ROOT).as_posix(): lines
        for path in files()
        if path.suffix in (".py", ".c", ".h") and (lines := len(path.read_text("utf-8").splitlines())) > 500
    }
    assert set(long) == set(LONG), f"past 500 lines: {long}; expected: {LONG}"


def test_no_paths_of_a_machine():
    home = re.compile(r"(?<![\w.<>])/(?:work|root|home|Users)/\w+")
    wrong = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in files()
        if path.suffix in TEXT and (found := home.findall(path.read_text("utf-8")))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_repository_is_small():
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in files() if not path.is_symlink()}
    assert sum(sizes.values()) < 20e6, sorted(sizes.items(), key=lambda item: -item[1])[:5]


@pytest.mark.parametrize("part", ["exporters", "runtimes", "targets"])
def test_the_parts_are_one_step_from_the_root(part):
    link = ROOT / part
    if not (ROOT / ".git").exists():
        pytest.skip("a source distribution has no links")
    assert link.is_symlink() and link.readlink() == Path("edgekit") / part
    assert (link / "__init__.py").is_file()


def test_every_folder_of_code_is_a_package():
    """A folder without __init__.py would be left out of the wheel."""
    without = {p.parent for p in (ROOT / "edgekit").rglob("*.py") if not (p.parent / "__init__.py").is_file()}
    assert not without


def test_every_public_module_says_what_it_is():
    wrong = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "edgekit").rglob("*.py")
        if (text := path.read_text("utf-8").strip()) and not text.startswith(('"""', 'r"""'))
    ]
    assert not wrong
