"""Two loops that reach the limits of a core, `peaks.c`, compiled for a target and kept in the cache."""
import hashlib
import os
import tempfile
from importlib import resources
from pathlib import Path

from edgekit.exporters.emit.compile import cache_folder
from edgekit.exporters.emit.zig import processor, triple, zig
from edgekit.targets import Target

CHAINS = {16: 12, 32: 24}  # vector registers: sums that hide the latency of a multiply-add


def peaks_library(target: Target) -> Path:
    """The loadable library of ek_peak_fma and ek_peak_read. MissingToolError without zig."""
    source = resources.files(__package__).joinpath("peaks.c").read_bytes()
    wasm = target.triple.startswith("wasm32")
    flags = [f"-DLANES={target.lanes}", f"-DCHAINS={chains(target)}", f"-mcpu={processor(target)}", "-O3", "-g0", "-ffreestanding",
             "-ffp-contract=fast", "-fno-sanitize=all", "-fno-stack-protector", "-nostdlib", "-shared"]
    if target.cpu == "x86-64-v4":
        flags.append("-mprefer-vector-width=512")
    if wasm:
        flags = [f for f in flags if f != "-shared"] + ["-Wl,--no-entry", "-Wl,--export=ek_peak_fma", "-Wl,--export=ek_peak_read",
                                                        "-Wl,--export=__heap_base"]
    else:
        flags.append("-fPIC")
    key = hashlib.sha256(repr((source, flags, triple(target))).encode()).hexdigest()[:24]
    made = cache_folder() / "peaks" / f"{key}{Path(target.shared).suffix}"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=made.parent) as work:
            (Path(work) / "peaks.c").write_bytes(source)
            zig("cc", "-target", triple(target), *flags, "peaks.c", "-o", made.name, cwd=Path(work))
            os.replace(Path(work) / made.name, made)
    return made


def chains(target: Target) -> int:
    """Independent sums of ek_peak_fma."""
    return CHAINS[32 if target.registers >= 32 else 16]
