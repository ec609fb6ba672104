"""What is not raced: executed instructions on AArch64, and each layer against what the machine allows."""
import numpy as np

import edgekit
from benchmarks.models import Level, Refused, Workshop
from edgekit.runtimes import open_session
from edgekit.runtimes.abi.bundle import read


def count(shop: Workshop, level: Level) -> dict:
    """{"millions": of instructions of one inference}, exact, by the emulator; or {"why"}."""
    try:
        files = read(shop.bundle(level, "arm64").path)
        session = open_session(files, "arm64")
    except (Refused, edgekit.EdgekitError) as e:
        return {"why": str(e)}
    try:
        with np.load(shop.inputs) as inputs:
            return {"millions": session.instructions(dict(inputs), files.manifest["entries"][0]["name"]) / 1e6}
    finally:
        session.close()


def layers(shop: Workshop, level: Level) -> dict:
    """Rows of `bench --layers` and their sum, under "rows" and "total"; or {"why"}."""
    try:
        result = edgekit.open(shop.bundle(level).path).bench(runs=5, warmup=5, layers=True)
    except (Refused, edgekit.EdgekitError) as e:
        return {"why": str(e)}
    return {"rows": result["layers"], "total": result["layers_total"]}
