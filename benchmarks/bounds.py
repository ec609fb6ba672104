"""What edgekit means to reach, as ratios within one run, and whether it did."""
from dataclasses import dataclass

FASTEST, DENSE, PRODUCTS, ORT, LITERT = "fastest dense peer", "edgekit dense", "products", "onnxruntime", "litert"
IGNORED = "edgekit, zeros unused"


@dataclass(frozen=True)
class Bound:
    """edgekit at `level` takes at most `most` times as long as `over`."""

    network: str
    level: str
    over: str
    most: float


LEVELS = ("dense", "30%", "50%", "70%", "90%")


def _row(network: str, over: str, *most: float) -> list[Bound]:
    return [Bound(network, level, over, m) for level, m in zip(LEVELS, most)]


# XNNPACK's gain from unstructured zeros is 202.3 / 139.8 and 202.3 / 60.9 million instructions on AArch64 (on x86-64 with
# AVX it does not use them), and 34.1 / 18.3 and 34.1 / 9.6 ms in Chromium (LiteRT.js).
BREAK_EVEN = [Bound("mobilenet_v1", "5%", DENSE, 1.00), Bound("mobilenet_v1", "10%", DENSE, 0.995)]
NATIVE = [
    *_row("mobilenet_v1", FASTEST, 1.00, 0.78, 0.60, 0.43, 0.26),
    Bound("mobilenet_v1", "70% unstructured", DENSE, 0.69), Bound("mobilenet_v1", "90% unstructured", DENSE, 0.30),
    Bound("patchtst", "dense", FASTEST, 0.75), Bound("patchtst", "50%", FASTEST, 0.50),
    Bound("resnet18_policy", "dense", FASTEST, 1.05), Bound("resnet18_policy", "50%", FASTEST, 0.62),
    *(Bound(n, "dense", ORT, 0.80) for n in ("lstm", "lstm_step", "transformer_step")),
    *(Bound(n, "50%", DENSE, 1 / 1.8) for n in ("lstm", "lstm_step", "transformer_step")),
    *BREAK_EVEN,
    Bound("tgcn_los", "dense", IGNORED, 0.50),
    Bound("metadrive_ppo_expert", "dense", PRODUCTS, 3.0), Bound("mlp", "dense", PRODUCTS, 3.0),
]
WASM = [
    *_row("mobilenet_v1", LITERT, 1.00, 0.77, 0.58, 0.40, 0.24),
    Bound("mobilenet_v1", "70% unstructured", DENSE, 0.54), Bound("mobilenet_v1", "90% unstructured", DENSE, 0.28),
    *BREAK_EVEN,
]
# Absolute, MobileNet-v1: million instructions of an inference.
ARM64 = {**dict(zip(LEVELS, (173, 131, 98, 66, 32))), "70% unstructured": 140, "90% unstructured": 61}
# Million instructions of others on the same network (Cortex-A76 feature set, one thread, counted in qemu).
ARM64_PEERS = {
    "ncnn": {"dense": 173.0},
    "MNN, groups of 4": {"dense": 173.2, "30%": 168.3, "50%": 126.1, "70%": 86.6, "90%": 47.0,
                         "70% unstructured": 148.1, "90% unstructured": 70.7},
    "LiteRT/XNNPACK": {"dense": 202.3, "30%": 202, "50%": 202, "70%": 118.7, "90%": 53.8,
                       "70% unstructured": 139.8, "90% unstructured": 60.9},
    "onnxruntime": {"dense": 247.3},
}
MEMORY_SLACK = 4 << 20        # bytes over weights and arena
WASM_CODE = 120_000           # bytes of MobileNet-v1's module
PAGE_TO_RESULT = 0.150        # seconds, MobileNet-v1
TWO_THREADS = 1 / 1.7         # of the time of one, MobileNet-v1
EXPORT_SECONDS = 30           # MobileNet-v1, one target, two cores


def verdict(value: float, most: float) -> str:
    """"held", or by how much it is missed."""
    return "held" if value <= most else f"missed by {value / most - 1:.0%}"
