"""What every test can use: the repository, the shared real models, and a cache that is not the user's."""
import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
REQUIRE_SHARED = os.environ.get("EDGEKIT_REQUIRE_SHARED") == "1"


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """shared("models/pilotnet.onnx"): a file of ../shared; the test is skipped where it is absent."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"../shared/{name} is not here")
        return path

    return find


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Compiled kernels are kept for one run of the tests, apart from those of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def _fail_if_shared(report, kind: str) -> None:
    """EDGEKIT_REQUIRE_SHARED=1: where ../shared exists, not testing with it is a failure."""
    if not (REQUIRE_SHARED and report.skipped) or hasattr(report, "wasxfail"):
        return
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    if "shared" in reason:
        report.outcome = "failed"
        report.longrepr = f"{kind} skipped while EDGEKIT_REQUIRE_SHARED=1: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    _fail_if_shared(report, "test")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    _fail_if_shared(report, "module")
    return report
