"""The command line: verbs that are a few lines each over the Python API.

Exit codes: 0 done; 1 a budget, verification or accuracy limit was missed; 2 bad usage or input; 3 a tool or device is
missing, or a budget stayed undecided; 70 a bug of edgekit (EDGEKIT_DEBUG=1 shows where); 130 interrupted; 143 told to
end (SIGTERM); 141 the reader of standard output went away.
"""
import argparse
import io
import json
import math
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from edgekit import tables
from edgekit.budget import exit_code
from edgekit.errors import EdgekitError, InputError, MissingToolError
from edgekit.files import check_place, write_text
from edgekit.progress import Progress
from edgekit.text import printable

BUG, NO_READER, SIGNALLED = 70, 141, 128


class Answer(NamedTuple):
    """What a verb found: for `--json`, for people (text of the result with printable names), and for the shell."""

    result: dict
    show: Callable[[dict], str]
    code: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. argparse ends the process itself for bad usage (2) and --help (0)."""
    _open_streams()
    args = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without Unicode
    try:
        return _answered(args)
    except EdgekitError as error:
        return _failed(args, error, type(error).__name__, error.exit_code)
    except KeyboardInterrupt as stop:
        _say("edgekit: interrupted; nothing half-written is left")
        return SIGNALLED + (stop.args[0] if stop.args else signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains once more when it ends
        return NO_READER
    except OSError as error:
        what = error.strerror or str(error)
        return _failed(args, InputError(what, where=str(error.filename or "")), "OSError", 2)
    except Exception as error:  # noqa: BLE001 - no traceback reaches a user unasked
        if os.environ.get("EDGEKIT_DEBUG") == "1":
            traceback.print_exc()
        wrong = EdgekitError(f"this is a bug in edgekit: {type(error).__name__}: {error}",
                             fix="run it again with EDGEKIT_DEBUG=1 and report what it prints")
        return _failed(args, wrong, "Bug", BUG)


def _open_streams() -> None:
    """Gives a closed standard stream its number back, or the next file that is opened would take it and what is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def _answered(args: argparse.Namespace) -> int:
    with _stdout_kept(args.json == "-") as stdout, Progress(args.quiet, alive=args.alive) as progress, _interrupts(progress):
        for place in (args.json, getattr(args, "report", None)):
            if place and place != "-":
                check_place(Path(place))
        answer: Answer = args.verb(args, progress)
    if args.json:
        _write_json(args.json, stdout, answer.result)
    if args.json != "-":
        print(answer.show(printable(answer.result)), file=stdout)
    stdout.flush()
    return answer.code


@contextmanager
def _interrupts(progress: Progress) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the command, at the next line of progress where native code lost the exception."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        progress.interrupted = number
        raise KeyboardInterrupt(number)
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Exception:
        if progress.interrupted:  # an import that it cuts short says that a package is missing
            raise KeyboardInterrupt(progress.interrupted) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _failed(args: argparse.Namespace, error: EdgekitError, kind: str, code: int) -> int:
    _say(f"edgekit: error: {EdgekitError(printable(error.what), where=printable(error.where), fix=printable(error.fix))}")
    if args.json == "-":
        told = {"kind": kind, "what": error.what, "where": error.where, "fix": error.fix, "exit_code": code}
        _say(json.dumps({"error": told}), sys.stdout)
    return code


def _say(line: str, stream: TextIO | None = None) -> None:
    with suppress(OSError, ValueError):
        print(line, file=stream or sys.stderr, flush=True)


@contextmanager
def _stdout_kept(wanted: bool) -> Iterator[TextIO]:
    """The real standard output; where it is kept for JSON, whatever else prints there (a user's module, a library, a
    child process) prints to standard error instead."""
    real = sys.stdout
    if not wanted:
        yield real
        return
    try:
        saved = os.dup(1) if real.fileno() == 1 else None
    except (OSError, ValueError):
        saved = None  # not a file: nothing below Python writes to it
    try:
        if saved is not None:
            os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield real
    finally:
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)


def _write_json(where: str, stdout: TextIO, result: dict) -> None:
    text = json.dumps(_plain(result), indent=2, allow_nan=False) + "\n"
    if where == "-":
        stdout.write(text)
    else:
        write_text(Path(where), text)


def _plain(value: Any) -> Any:
    """Only what JSON has: numpy scalars and arrays, tuples and paths converted, numbers that are not finite as null."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


# --- verbs --------------------------------------------------------------------------------------------------------


def _demo(args: argparse.Namespace, progress: Progress) -> Answer:
    from edgekit.demo import main as demo
    result = demo(Path(args.output), progress=progress)
    return Answer(result, lambda _: result["text"])


def _export(args: argparse.Namespace, progress: Progress) -> Answer:
    from edgekit.export import export
    bundle = export(_model(args.model), targets=args.target or ["host"], sparsity=args.sparsity, group=args.group,
                    pattern=args.pattern, calibration=args.calibration, tune=args.tune, input_shapes=_shapes(args.input_shape), states=_states(args.state),
                    output=args.output, name=args.name, dtype=args.dtype, source=not args.no_source,
                    trust_model=args.trust_model, overwrite=args.overwrite, progress=progress)
    return Answer(bundle.summary, tables.export)


def _bench(args: argparse.Namespace, progress: Progress) -> Answer:
    from edgekit.bench import bench
    result = bench(Path(args.bundle), args.target, entry=args.entry, runs=args.runs, warmup=args.warmup, period=args.period,
                   deadline=args.deadline, budget=args.budget, allow_predicted=args.allow_predicted, threads=args.threads,
                   layers=args.layers, trace=args.trace, progress=progress)
    if args.report:
        from edgekit import report
        from edgekit.runtimes.abi.bundle import read
        write_text(Path(args.report), report.render({"manifest": read(Path(args.bundle)).manifest, "bench": [result]}))
    return Answer(result, tables.bench, exit_code(result["budget"]))


def _verify(args: argparse.Namespace, progress: Progress) -> Answer:
    from edgekit import bundle as bundles
    from edgekit.inspection import verification
    found: dict = {}
    skipped: dict[str, str] = {}
    with bundles.open(args.bundle) as bundle:
        for target in args.target or bundle.targets:
            progress(f"verifying on {target}")
            try:
                found |= bundle.verify(target)
            except MissingToolError as error:
                if args.target:
                    raise
                skipped[target] = error.what + (f" ({error.fix})" if error.fix else "")
        result = verification(found, skipped, bundle.tolerance, bundle.manifest.get("pruning"))
    return Answer(result, tables.verify, 3 if not found else 0 if result["ok"] else 1)


def _check(args: argparse.Namespace, progress: Progress) -> Answer:
    from edgekit.checking import check
    result = check(_model(args.model), args.target, progress=progress, input_shapes=_shapes(args.input_shape),
                   states=_states(args.state), trust_model=args.trust_model)
    return Answer(result, tables.check, 0 if result["ok"] else 2)


def _fit(args: argparse.Namespace, progress: Progress) -> Answer:
    from edgekit.fitting import fit, page
    drop = [f"accuracy_drop<={args.accuracy_drop}"] if args.accuracy_drop else []
    result = fit(_model(args.model), args.target, budget=[*args.budget, *drop], output=args.output, calibration=args.calibration,
                 evaluation=args.eval, group=args.group, trials=args.trials, workers=args.workers, ray=args.ray, overwrite=args.overwrite,
                 progress=progress, input_shapes=_shapes(args.input_shape), states=_states(args.state), trust_model=args.trust_model)
    return Answer(result, page.text)


def _inspect(args: argparse.Namespace, progress: Progress) -> Answer:
    from edgekit.inspection import inspect_bundle, inspect_model, is_bundle
    if len(args.model) == 1 and is_bundle(args.model[0]):
        from edgekit.runtimes.abi.bundle import read
        result = inspect_bundle(read(Path(args.model[0])))
    else:
        result = inspect_model(_model(args.model), progress, input_shapes=_shapes(args.input_shape),
                               states=_states(args.state), trust_model=args.trust_model)
    return Answer(result, tables.inspect)


def _pack(args: argparse.Namespace, progress: Progress) -> Answer:
    from edgekit.pack import pack
    progress(f"packing {args.bundle} as {args.form}")
    result = pack(args.bundle, args.form, args.output, args.overwrite)
    return Answer(result, tables.pack)


def _tune(args: argparse.Namespace, progress: Progress) -> Answer:
    from edgekit.tune import tune
    result = tune(args.tuned, args.kernels or (), _model(args.model) if args.model else None, output=args.output, progress=progress,
                  input_shapes=_shapes(args.input_shape), states=_states(args.state), trust_model=args.trust_model)
    return Answer(result, tables.tune)


def _calibrate(args: argparse.Namespace, progress: Progress) -> Answer:
    from edgekit.predict.calibrate import calibrate
    return Answer(calibrate(args.calibrated, count=args.networks, output=args.output, progress=progress), tables.calibrate)


def _targets(args: argparse.Namespace, progress: Progress) -> Answer:
    from edgekit.inspection import devices
    result = {"targets": devices()}
    return Answer(result, tables.targets)


# --- arguments ----------------------------------------------------------------------------------------------------


def _model(texts: list[str]) -> Any:
    """One model, a list of shape variants, or {entry: model} for texts NAME=MODEL."""
    named = [re.fullmatch(r"([A-Za-z_]\w*)=(.+)", t) if not Path(t).exists() else None for t in texts]
    if not any(named):
        return texts[0] if len(texts) == 1 else texts
    entries = {m[1]: m[2] for m in named if m}
    if len(entries) != len(texts):
        raise InputError("name every entry, each once", fix="write encode=encoder.onnx decode=decoder.onnx")
    return entries


def _shapes(texts: list[str]) -> dict[str, Any] | None:
    """{"x": (1, 3, 224, 224)} or {"n": 8}; what the name means is known when the model is loaded."""
    out: dict[str, Any] = {}
    for text in texts:
        match = re.fullmatch(r"\s*([^=]+?)\s*=\s*(\d+(?:\s*,\s*\d+)*)\s*", text)
        if not match:
            raise InputError(f"--input-shape {text!r} is not NAME=NUMBER,NUMBER,...", fix="write x=1,3,224,224 or n=8")
        numbers = tuple(int(n) for n in match[2].split(","))
        if match[1] in out:
            raise InputError(f"--input-shape gives {match[1]!r} twice")
        out[match[1]] = numbers if len(numbers) > 1 else numbers[0]
    return out or None


def _states(texts: list[str]) -> dict[str, str] | None:
    out: dict[str, str] = {}
    for text in texts:
        name, equals, source = (part.strip() for part in text.partition("="))
        if not (name and equals and source):
            raise InputError(f"--state {text!r} is not INPUT=OUTPUT", fix="write h_in=h_out")
        if name in out:
            raise InputError(f"--state gives {name!r} twice")
        out[name] = source
    return out or None


def _group(text: str) -> int | str:
    if text != "auto" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor auto")
    return text if text == "auto" else int(text)


def _whole(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edgekit", description="Compiles trained networks into small C libraries, "
                                     "and measures, verifies and reports what they do.",
                                     epilog="exit codes: 0 done; 1 a limit was missed; 2 bad usage or input; "
                                     "3 a tool or device is missing, or a budget stayed undecided")
    parser.add_argument("--version", action="version", version=f"edgekit {_version()}")
    verbs = parser.add_subparsers(dest="command", required=True, metavar="VERB")

    def verb(name: str, run: Any, text: str, alive: bool = True) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        made.set_defaults(verb=run, alive=alive)
        made.add_argument("--json", metavar="FILE", help="write the result as one JSON object; - is standard output")
        made.add_argument("-q", "--quiet", action="store_true", help="no progress on standard error")
        return made

    demo = verb("demo", _demo, "prune, export, verify, bench and report on models that ship with edgekit")
    demo.add_argument("-o", "--output", metavar="DIR", default="edgekit-demo", help="folder (default: %(default)s)")

    export = verb("export", _export, "compile a model into a bundle")
    _model_arguments(export)
    export.add_argument("-o", "--output", metavar="OUT.ekb", required=True)
    export.add_argument("-t", "--target", action="append", help="repeatable (default: host); see `edgekit targets`")
    export.add_argument("--sparsity", type=float, help="share of the weights to prune, 0 to below 1 (default: 0, or what an N:M pattern drops)")
    export.add_argument("--pattern", default="groups", metavar="groups|N:M|unstructured|channels", help="which weights may go together (default: %(default)s)")
    export.add_argument("--group", type=_group, default=8, help="outputs that share inputs: a number or auto (default: %(default)s)")
    export.add_argument("--calibration", metavar="X.npz", help="inputs in_NAME (axis 0 is the case), a few hundred, to prune by; the first few are the test vectors")
    export.add_argument("--tune", action="store_true", help="then train it, zeros held, to answer the calibration inputs as the dense net does: minutes, no labels")
    export.add_argument("--dtype", default="float32", help="of products with constant weights: float32 or, on AArch64, float16 (default: %(default)s)")
    export.add_argument("--name", help="of the model and of its C functions (default: of the file)")
    export.add_argument("--no-source", action="store_true", help="leave the ONNX form out of the bundle")
    export.add_argument("--overwrite", action="store_true", help="replace an existing output")

    bench = verb("bench", _bench, "measure response times, open loop, and judge a budget", alive=False)
    bench.add_argument("bundle", metavar="OUT.ekb")
    bench.add_argument("-t", "--target", default="host", help="one in the bundle, or onnx (default: %(default)s)")
    bench.add_argument("--entry", help="default: the first")
    bench.add_argument("--runs", type=int, help="default: 500, fewer where that takes minutes")
    bench.add_argument("--warmup", type=int, help="default: up to 50 or a second")
    bench.add_argument("--period", metavar="50ms", help="time between inputs (default: 1.5 x p90 of a call)")
    bench.add_argument("--deadline", metavar="40ms", help="from the arrival (default: the period)")
    bench.add_argument("--budget", action="append", metavar='"p99<=10ms"', help="repeatable; rules are separated by ;")
    bench.add_argument("--allow-predicted", action="store_true", help="let p50 be judged by a prediction where one exists")
    bench.add_argument("--threads", type=int, default=1, help="of the host (default: %(default)s)")
    bench.add_argument("--layers", action="store_true", help="every layer too, with the time that is possible on this machine, or with its instructions on arm64")
    bench.add_argument("--trace", metavar="FILE.json", help="write the steps of some inferences for chrome://tracing or ui.perfetto.dev")
    bench.add_argument("--report", metavar="FILE.html", help="write the report")

    verify = verb("verify", _verify, "compare the bundle's vectors on its targets with `expected`")
    verify.add_argument("bundle", metavar="OUT.ekb")
    verify.add_argument("-t", "--target", action="append", help="repeatable (default: all that can run here)")

    check = verb("check", _check, "tell whether a model compiles, and what pruning would gain: each layer and the whole, before anyone trains")
    _model_arguments(check)
    check.add_argument("-t", "--target", default="host")

    fit = verb("fit", _fit, "find the least damaging sparsity that meets a budget on a target")
    _model_arguments(fit)
    fit.add_argument("-t", "--target", default="host", help="measured there; arm64 by executed instructions (default: %(default)s)")
    fit.add_argument("--budget", action="append", required=True, metavar='"p99<=8ms"', help="repeatable; rules are separated by ;")
    fit.add_argument("--accuracy-drop", metavar="0.5%", help="of the evaluation's score, in its worst domain")
    fit.add_argument("--eval", metavar="module:callable", help="gets a function that runs the model on numpy arrays; returns a number, higher is better, or {domain: number}")
    fit.add_argument("--calibration", metavar="X.npz", help="inputs in_NAME (axis 0 is the case) to reconstruct, judge and tune with")
    fit.add_argument("-o", "--output", metavar="OUT.ekb", required=True, help="results are kept in OUT.ekb.fit, where a later call goes on")
    fit.add_argument("--group", type=_group, default="auto", help="outputs that share inputs: a number or auto (default: %(default)s)")
    fit.add_argument("--trials", type=int, default=4, help="configurations to build and measure, and as many of random search (default: %(default)s)")
    fit.add_argument("--workers", type=int, help="processes that judge configurations (default: one a core)")
    fit.add_argument("--ray", metavar="ADDRESS", help="of a Ray cluster that judges them instead")
    fit.add_argument("--overwrite", action="store_true", help="replace an existing output")

    inspect = verb("inspect", _inspect, "show what is inside a bundle or a model: layers, sparsity, bytes, MACs, arena")
    _model_arguments(inspect, "OUT.ekb|MODEL")

    pack = verb("pack", _pack, "wrap a bundle for an app: CMake, npm, Android, Apple or ROS 2")
    pack.add_argument("bundle", metavar="OUT.ekb")
    pack.add_argument("--as", dest="form", required=True, metavar="cmake|npm|android|apple|ros2")
    pack.add_argument("-o", "--output", metavar="DIR", required=True)
    pack.add_argument("--overwrite", action="store_true", help="replace what an earlier pack made there")

    tune = verb("tune", _tune, "find the tile sizes of a target by the clock, or by counted instructions on arm64")
    tune.add_argument("tuned", metavar="TARGET")
    _model_arguments(tune, several="*")
    tune.add_argument("--kernels", action="append", metavar="KIND", help="only this kind: conv, depthwise, linear, ... (repeatable)")
    tune.add_argument("-o", "--output", metavar="DIR", help="write PROCESSOR.toml there; `export` reads it where EDGEKIT_SCHEDULES=DIR")

    calibrate = verb("calibrate", _calibrate, "measure what kernels cost on a target, for the forecasts of `check`")
    calibrate.add_argument("calibrated", metavar="TARGET")
    calibrate.add_argument("--networks", type=_whole, default=34, help="of random layers, that are measured (default: %(default)s)")
    calibrate.add_argument("-o", "--output", metavar="DIR", help="write PROCESSOR.toml there; `check` reads it where EDGEKIT_COSTS=DIR")

    verb("targets", _targets, "list the devices edgekit knows, and how each can be run here")
    return parser


def _model_arguments(parser: argparse.ArgumentParser, metavar: str = "MODEL", several: str = "+") -> None:
    parser.add_argument("model", nargs=several, metavar=metavar, help="FILE.onnx, FILE.pt2, module:callable that returns (module, "
                        "example_inputs); several are shape variants, or entries where written NAME=MODEL")
    parser.add_argument("--input-shape", action="append", default=[], metavar="x=1,3,224,224",
                        help="of an input; n=8 binds a named dimension, n=2,4,8 makes one entry each (repeatable)")
    parser.add_argument("--state", action="append", default=[], metavar="h_in=h_out",
                        help="an input that takes an output of the call before (repeatable)")
    parser.add_argument("--trust-model", action="store_true", help="allow a .pt2 file to be unpickled")


def _version() -> str:
    from edgekit import __version__
    return __version__
