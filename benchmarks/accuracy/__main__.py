"""`python -m benchmarks.accuracy`: see README.md of benchmarks."""
import argparse
import json
import sys
from pathlib import Path

from benchmarks.accuracy import tables
from benchmarks.accuracy.measure import measure
from benchmarks.accuracy.methods import METHODS
from benchmarks.accuracy.rows import MODULES, WORK, Absent, load

LEVELS = (0.3, 0.5, 0.7)


def main() -> None:
    """Measures what is asked for and not there yet, and prints the tables of all there is."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description="pruned nets on real data")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"{', '.join(MODULES)} (default: all)")
    parser.add_argument("--methods", nargs="+", metavar="NAME", default=list(METHODS), help=f"{'; '.join(METHODS)} (default: all)")
    parser.add_argument("--sparsity", nargs="+", type=float, metavar="S", default=LEVELS, help="default: 0.3 0.5 0.7")
    parser.add_argument("--seeds", type=int, default=3, help="default: 3")
    parser.add_argument("--work", type=Path, default=WORK / "accuracy", help="folder of what is measured; a row's file there is used again")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    parser.add_argument("--results", action="store_true", help="also write ACCURACY.md, accuracy.json and accuracy.svg beside RESULTS.md")
    arguments = parser.parse_args()
    for given, known in ((arguments.rows, MODULES), (arguments.methods, METHODS)):
        for name in given:
            if name not in known:
                parser.error(f"there is no {name!r}; there are {', '.join(known)}")
    for name in [] if arguments.tables else arguments.rows or MODULES:
        try:
            measure(load(name), arguments.methods, arguments.sparsity, arguments.seeds, arguments.work, say)
        except Absent as e:
            say(f"{name}: not run, {e}")
    results = {name: json.loads(path.read_text("utf-8")) for name in MODULES if (path := arguments.work / f"{name}.json").exists()}
    text = tables.render(results)
    print(text)
    if arguments.results:
        folder = Path(__file__).parents[1]
        plot = tables.plotted(results)
        if plot:
            (folder / "accuracy.svg").write_text(plot, "utf-8")
            text = text.replace("# Accuracy\n", "# Accuracy\n\n![error over dense, after label-free tuning](accuracy.svg)\n", 1)
        (folder / "ACCURACY.md").write_text(text, "utf-8")
        (folder / "accuracy.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
