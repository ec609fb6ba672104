"""The demo from end to end, and what it does where tools are missing."""
import json
import subprocess
import sys
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path

import pytest

from edgekit.demo import run
from edgekit.errors import MissingToolError

ROOT = Path(__file__).parents[2]
WITHOUT_TORCH = """
import json, sys
from pathlib import Path
sys.modules["torch"] = None          # importing it fails
from edgekit.demo import main
lines = []
result = main(Path(sys.argv[1]), progress=lines.append, episodes=32)
print(json.dumps(result | {"lines": lines}))
"""


def test_a_target_without_its_runner_is_left_out(monkeypatch):
    said = []
    monkeypatch.setattr(run, "find_spec", lambda package: None if package == "wasmtime" else object())
    assert [t for t in ("host", "arm64", "wasm") if run._runs_here(t, said.append)] == ["host", "arm64"]
    assert said == ["wasm: left out, wasmtime is not installed (pip install 'edgekit-deploy[wasm]')"]


def test_without_the_tools_nothing_is_made(monkeypatch, tmp_path):
    def absent(name):
        raise metadata.PackageNotFoundError(name)
    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(MissingToolError, match=r"edgekit-deploy\[demo\]"):
        run.main(tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Pictures(HTMLParser):
    """Counts the drawings of a page and what it would load."""

    def __init__(self):
        super().__init__()
        self.svgs, self.loads = 0, []

    def handle_starttag(self, tag, attrs):
        self.svgs += tag == "svg"
        self.loads += [value for name, value in attrs if name in ("src", "href")]


@pytest.mark.slow
def test_the_whole_demo(tmp_path):
    for package in ("tvm", "ziglang", "onnxruntime", "wasmtime", "unicorn"):
        pytest.importorskip(package)
    for _ in range(2):          # over the output of an earlier run, too
        done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, tmp_path / "out"], cwd=ROOT, capture_output=True,
                              text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["targets"] == ["host", "arm64", "wasm"] and not result["left_out"]
    for network in result["networks"].values():
        dense, pruned, tuned = network["forms"].values()
        for facts in (dense, pruned, tuned):
            assert set(facts["verified"]) == {"host", "arm64", "wasm"}
            assert all(v["max_rel_error"] <= 1e-4 for v in facts["verified"].values())
        assert dense["macs"] == dense["dense_macs"]
        assert pruned["macs"] < 0.6 * dense["macs"] and tuned["macs"] < 0.6 * dense["macs"]
        assert tuned["weights_bytes"] < 0.65 * dense["weights_bytes"]
    dense, pruned, tuned = result["networks"]["forecaster"]["forms"].values()
    assert tuned["ade"] < 1.1 * dense["ade"] < 0.5 * pruned["ade"]
    said = result["networks"]["forecaster"]["provenance"]["dense"]          # in torch, on more traffic
    assert dense["ade"] == pytest.approx(said["ade"], rel=0.15)
    dense, pruned, tuned = result["networks"]["policy"]["forms"].values()
    assert len(dense["failed"]) <= 1 and len(tuned["failed"]) <= 1
    assert len(pruned["failed"]) > 5                                        # or there would be nothing to fine-tune
    page = Pictures()
    page.feed((tmp_path / "out" / "report.html").read_text("utf-8"))
    assert page.svgs == 2 + 3 + 4 and not page.loads
    assert "fine-tuned" in result["text"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "report.html", *(f"{n}-{f}.ekb" for n in ("forecaster", "policy") for f in ("dense", "pruned", "tuned"))}
