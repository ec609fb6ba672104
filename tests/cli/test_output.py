"""What goes where: one JSON object alone on standard output, progress and noise on standard error."""
import io
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from edgekit import cli, progress, tables
from edgekit.progress import Progress

NOISY = """
import os, subprocess, sys
import edgekit.inspection
from edgekit.cli import main

def devices():
    print("a user's module says hello")
    os.write(1, b"and so does a library below Python\\n")
    subprocess.run([sys.executable, "-c", "print('and a child process')"], check=True)
    raise_ = os.environ.get("WRONG")
    if raise_:
        raise ZeroDivisionError(raise_)
    return []
edgekit.inspection.devices = devices
sys.exit(main(["targets", "--json", "-"]))
"""


def noisy(root, **env):
    return subprocess.run([sys.executable, "-c", NOISY], cwd=root, capture_output=True, text=True, timeout=60, check=False,
                          env=os.environ | env)


def test_nothing_but_the_json_is_on_standard_output(root):
    done = noisy(root)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"targets": []}
    for words in ("hello", "below Python", "a child process"):
        assert words in done.stderr


def test_an_error_is_one_json_object_too(root):
    done = noisy(root, WRONG="by zero")
    assert done.returncode == cli.BUG and "Traceback" not in done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["exit_code"] == cli.BUG and "ZeroDivisionError: by zero" in error["what"]


@pytest.fixture
def verb(monkeypatch):
    """`edgekit targets` with another result."""
    def use(result):
        monkeypatch.setattr("edgekit.inspection.devices", lambda: result)
        monkeypatch.setattr(tables, "targets", lambda r: "a table")
    return use


def test_json_in_a_file_leaves_the_table_on_standard_output(verb, tmp_path, capsys):
    verb([])
    assert cli.main(["targets", "--json", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text("utf-8")) == {"targets": []}
    assert capsys.readouterr().out == "a table\n"
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]


def test_a_file_that_cannot_be_written_is_a_message(verb, tmp_path, capsys):
    verb([])
    assert cli.main(["targets", "--json", str(tmp_path / "no" / "out.json")]) == 2
    assert "No such file" in capsys.readouterr().err and not list(tmp_path.iterdir())
    for folder in (str(tmp_path), "."):
        assert cli.main(["targets", "--json", folder]) == 2
        assert "Is a directory" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_json_has_no_numpy_and_no_nan(verb, capsys):
    verb([{"a": np.float32(0.5), "b": np.arange(3), "c": float("nan"), "d": np.float64("inf"), "e": (1, True, None), 3: "x"}])
    assert cli.main(["targets", "--json", "-"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["targets"]
    assert row == {"a": 0.5, "b": [0, 1, 2], "c": None, "d": None, "e": [1, True, None], "3": "x"}


def test_long_silence_gets_a_sign_of_life(monkeypatch):
    monkeypatch.setattr(progress, "_SILENCE", 0.04)
    stream = io.StringIO()
    with Progress(stream=stream) as tell:
        tell("compiling")
        end = time.monotonic() + 5
        while stream.getvalue().count("still at it: compiling") < 2 and time.monotonic() < end:
            time.sleep(0.01)
    said = stream.getvalue()
    assert said.count("still at it: compiling") >= 2 and "s] compiling" in said.splitlines()[0]
    time.sleep(0.1)
    assert stream.getvalue() == said              # over when the work is over


def test_quiet_is_quiet_and_bench_is_left_alone(monkeypatch):
    monkeypatch.setattr(progress, "_SILENCE", 0.01)
    for options, lines in (({"quiet": True}, 0), ({"alive": False}, 1)):
        stream = io.StringIO()
        with Progress(stream=stream, **options) as tell:
            tell("measuring")
            time.sleep(0.1)
        assert len(stream.getvalue().splitlines()) == lines


def test_nobody_listening_is_no_error():
    stream = io.StringIO()
    stream.close()
    with Progress(stream=stream) as tell:
        tell("one")
        tell("two")


@pytest.mark.parametrize("ms, text", [(None, "-"), (0, "0 us"), (0.0005, "0.5 us"), (0.25, "250 us"), (1.5, "1.5 ms"), (25000, "25 s")])
def test_durations_in_words(ms, text):
    assert tables.duration(ms) == text


@pytest.mark.parametrize("n, text", [(None, "-"), (0, "0 B"), (999, "999 B"), (2048, "2.05 kB"), (1.5e6, "1.5 MB"), (999_999, "1 MB")])
def test_sizes_in_words(n, text):
    assert tables.size(n) == text


def test_names_of_strangers_stay_on_their_line(capsys, monkeypatch):
    stranger = "x\nedgekit: all is well\x1b[2J"
    monkeypatch.setattr("edgekit.inspection.devices", lambda: [
        {"name": stranger, "title": stranger, "here": "measured", "can_compile": True, "can_run": True, "missing": {}}])
    assert cli.main(["targets"]) == 0
    Progress()(stranger)
    monkeypatch.setattr("edgekit.inspection.devices", lambda: (_ for _ in ()).throw(cli.InputError("no", where=stranger)))
    assert cli.main(["targets"]) == 2
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert not any(line.startswith("edgekit: all is well") for line in text.splitlines()) and "\x1b" not in text
    assert "x\\nedgekit: all is well\\x1b[2J" in said.out and said.err.count("\\nedgekit: all") == 2
