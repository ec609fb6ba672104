"""SqueezeNet 1.1 and MobileNet-v1 0.25: how often a pruned net names the same class as the dense one.

No labelled images are at hand, so photographs that Python packages ship are cut into crops. Every photograph serves one
purpose only: calibration, choice of recipes, or score.
"""
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx

from benchmarks.accuracy.rows import CASES, Absent, Bar, Row, Run, runner, shared

PHOTOGRAPHS = {  # package: files in it; those of one thing stand side by side and count as one
    "foolbox": [f"data/imagenet_{name}.jpg" for name in (
        "00_243", "01_559", "02_438", "03_990", "04_949", "05_853", "06_609", "07_609", "08_915", "09_455", "10_541", "11_630",
        "12_741", "13_471", "14_129", "15_99", "16_251", "17_22", "18_317", "19_305")],
    "skimage": [f"data/{name}" for name in ("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png",
                                            "grass.png", "gravel.png", "motorcycle_left.png", "rocket.jpg")],
    "sklearn": ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
    "matplotlib": ["mpl-data/sample_data/grace_hopper.jpg"],
    "mahotas": ["demos/data/DepartmentStore.jpg", "demos/data/lena.jpg", "demos/data/luispedro.jpg"],
    "gradio": [f"media_assets/images/{name}" for name in ("cheetah.jpg", "groot.jpeg", "lion.jpg", "tower.jpg")],
    "imgaug": ["quokka.jpg"],
    "ultralytics": ["assets/bus.jpg", "assets/zidane.jpg"],
}
AGREEMENTS = ("agreement", "agreement if sure")
TURNS = {"calibration": (0, 2), "tuning": (4,), "test": (1, 3)}  # of each five photographs in turn
SIZE = 224
CROPS = 20         # of each photograph that is scored
LEAST = 0.7        # side of a crop, of the shorter side of its photograph; the usual evaluation takes 224 / 256
NETS = {"squeezenet": ("SqueezeNet 1.1", "models/squeezenet11.onnx", (0.90, 0.80)),
        "mobilenet": ("MobileNet-v1 0.25", "models/mobilenet_v1_025_224.onnx", (0.82, 0.65))}
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def photographs(split: str) -> list[Path]:
    """The files of a split."""
    files = []
    for package, names in PHOTOGRAPHS.items():
        found = find_spec(package)
        if found is None or found.origin is None:
            raise Absent(f"{package}, whose photographs are used, is not installed: see benchmarks/README.md")
        files += [Path(found.origin).parent / name for name in names]
    missing = [f.name for f in files if not f.exists()]
    if missing:
        raise Absent(f"photographs are not in their packages: {', '.join(missing)}")
    return [f for number, f in enumerate(files) if number % 5 in TURNS[split]]


def crops(split: str, seed: int, each: int) -> np.ndarray:
    """(photographs * each, SIZE, SIZE, 3) in 0..1: crops of any place, half of them mirrored."""
    from PIL import Image

    rng = np.random.default_rng((seed, list(TURNS).index(split)))
    found = []
    for path in photographs(split):
        with Image.open(path) as file:
            image = file.convert("RGB")
        for _ in range(each):
            side = int(min(image.size) * rng.uniform(LEAST, 1))
            left, top = (int(rng.integers(extent - side + 1)) for extent in image.size)
            crop = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, (left, top, left + side, top + side), reducing_gap=3.0)
            x = np.asarray(crop, np.float32) / 255
            found.append(x[:, ::-1] if rng.random() < 0.5 else x)
    return np.stack(found)


def prepared(name: str, x: np.ndarray) -> np.ndarray:
    """(n, SIZE, SIZE, 3) in 0..1 as the net takes it: (n, 1, 3, SIZE, SIZE)."""
    x = (x - MEAN) / DEVIATION if name == "squeezenet" else x * 2 - 1
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)[:, None])


def sure(logits: np.ndarray) -> np.ndarray:
    """(n,) of (n, classes): is a probability over one half?"""
    return np.exp(logits.max(1) - np.logaddexp.reduce(logits, 1)) > 0.5


def row(name: str) -> Row:
    """squeezenet and mobilenet."""
    title, path, (at_30, at_50) = NETS[name]
    scored = len(photographs("test"))

    @cache
    def model() -> onnx.ModelProto:
        loaded = onnx.load(shared(path))
        for value in (*loaded.graph.input, *loaded.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1  # in one of the files it is a name
        return loaded

    def calibration(seed: int) -> dict[str, np.ndarray]:
        x = crops("calibration", seed, -(-CASES // len(photographs("calibration"))))
        return {model().graph.input[0].name: prepared(name, x[np.random.default_rng(seed).permutation(len(x))[:CASES]])}

    @cache
    def inputs(split: str) -> np.ndarray:
        return prepared(name, crops(split, 0, CROPS))

    def logits(run: Run, split: str) -> np.ndarray:
        return np.concatenate([run({model().graph.input[0].name: x})[0] for x in inputs(split)])

    @cache
    def dense(split: str) -> np.ndarray:
        return logits(runner(model()), split)

    def score(run: Run, split: str) -> dict[str, float]:
        wanted = dense(split)
        same = logits(run, split).argmax(1) == wanted.argmax(1)
        return {"agreement": float(same.mean()), "agreement if sure": float(same[sure(wanted)].mean())}

    bars = (Bar("one-shot", 0.3, "agreement", at_30, "least"), Bar("one-shot", 0.5, "agreement", at_50, "least"),
            Bar("tuned", 0.3, "agreement", 0.0, "improves"), Bar("tuned", 0.5, "agreement", 0.0, "improves"))
    return Row(name, f"{title}, photographs of Python packages", model, calibration, score,
               {"agreement": "share of crops for which the dense net's first class comes first",
                "agreement if sure": f"the same over the {sure(dense('test')).mean():.0%} of the crops to which the dense net gives more than one half"},
               f"calibration: {CASES} crops of {len(photographs('calibration'))} photographs; recipes: {len(photographs('tuning'))} others; scored: "
               f"{scored * CROPS} crops of {scored} others again", bars, higher=AGREEMENTS, shares=AGREEMENTS)
