"""A sweep of jobs whose results outlive an interruption: one line of JSON a result, appended and synced; models beside it.

    fit.jsonl      first {"fingerprint": ...}, then {"key", "result", "models"}; a last line that was cut off is dropped
    models/        NAME.N.onnx, written aside and renamed before the line that names them
"""
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.errors import InputError, MissingToolError
from edgekit.fitting.subject import Job, Subject, Workshop

Progress = Callable[[str], None]
Done = tuple[dict, list[bytes]]


class Sweep:
    """Results by key in a folder. InputError where the folder holds another sweep, or a damaged one."""

    def __init__(self, folder: Path, fingerprint: str):
        self.folder = folder
        self._file = folder / "fit.jsonl"
        (folder / "models").mkdir(parents=True, exist_ok=True)
        self._known: dict[str, dict] = {}
        if self._file.exists():
            self._read(fingerprint)
        if not self._file.exists() or not self._file.stat().st_size:
            self._append({"fingerprint": fingerprint})
        self.resumed = len(self._known)

    def find(self, key: str) -> dict | None:
        """The result of a key; None where there is none, or where a model of its is gone."""
        line = self._known.get(key)
        return line["result"] if line and all(self._model(n).is_file() for n in line["models"]) else None

    def models(self, key: str) -> list[bytes]:
        """The models that were kept with a result."""
        return [self._model(name).read_bytes() for name in self._known[key]["models"]]

    def add(self, key: str, result: dict, models: Sequence[bytes] = ()) -> dict:
        """Keeps a result; it is on the disk when this returns."""
        names = [f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.{k}.onnx" for k in range(len(models))]
        for name, data in zip(names, models):
            aside = self._model(name).with_suffix(f".{os.getpid()}")
            aside.write_bytes(data)
            aside.replace(self._model(name))
        line = {"key": key, "result": result, "models": names}
        self._append(line)
        self._known[key] = line
        return result

    def _model(self, name: str) -> Path:
        return self.folder / "models" / Path(name).name

    def _append(self, line: dict) -> None:
        with open(self._file, "ab") as f:
            f.write(json.dumps(line).encode() + b"\n")
            f.flush()
            os.fsync(f.fileno())

    def _read(self, fingerprint: str) -> None:
        data = self._file.read_bytes()
        whole = data[:data.rfind(b"\n") + 1]
        if len(whole) < len(data):  # cut off while it was written
            with open(self._file, "r+b") as f:
                f.truncate(len(whole))
        try:
            lines = [json.loads(x) for x in whole.splitlines()]
            known = {x["key"]: {"result": dict(x["result"]), "models": list(map(str, x["models"]))} for x in lines[1:]}
            theirs = lines[0]["fingerprint"] if lines else fingerprint
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"the state of a fit cannot be read: {error}", where=str(self._file), fix="remove the folder to start anew") from None
        if theirs != fingerprint:
            raise InputError("this folder keeps the state of a fit of another model, target, calibration or evaluation", where=str(self.folder),
                             fix="remove it, or write to another output")
        self._known = known


def run_all(sweep: Sweep, jobs: Sequence[Job], subject: Subject, workers: int, ray: str | None, progress: Progress, what: str) -> list[dict]:
    """Results of jobs in their order: those known, and the others computed and kept as they come in."""
    missing = list({j.key: j for j in jobs if sweep.find(j.key) is None}.values())
    if missing:
        progress(f"{what}: {len(jobs) - len(missing)} of {len(jobs)} known")
    if missing:
        with _computed(subject, missing, min(workers, len(missing)), ray) as results:
            for count, (job, (result, models)) in enumerate(results, 1):
                sweep.add(job.key, result, models)
                progress(f"{what}: {len(jobs) - len(missing) + count} of {len(jobs)}")
    return [sweep.find(j.key) or {} for j in jobs]


@contextmanager
def _computed(subject: Subject, jobs: Sequence[Job], workers: int, ray: str | None) -> Iterator[Iterator[tuple[Job, Done]]]:
    if ray is not None:
        yield _on_ray(subject, jobs, ray)
    elif workers <= 1:
        yield _here(subject, jobs)
    else:
        from concurrent.futures import ProcessPoolExecutor, as_completed
        from multiprocessing import active_children, get_context
        others = set(active_children())
        pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (subject,))
        try:
            futures = {pool.submit(_do, j): j for j in jobs}
            yield ((futures[f], f.result()) for f in as_completed(futures))
        except BaseException:
            for process in set(active_children()) - others:  # nobody waits for what they are at
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_WORKSHOPS: list[Workshop] = []  # of a worker process: one


def _begin(subject: Subject) -> None:
    import signal
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits for the results decides
    os.environ["OMP_NUM_THREADS"] = "1"
    _WORKSHOPS[:] = [Workshop(subject)]


def _do(job: Job) -> Done:
    return _WORKSHOPS[0].do(job)


def _here(subject: Subject, jobs: Sequence[Job]) -> Iterator[tuple[Job, Done]]:
    workshop = Workshop(subject)
    for job in jobs:
        yield job, workshop.do(job)


def _on_ray(subject: Subject, jobs: Sequence[Job], address: str) -> Iterator[tuple[Job, Done]]:
    """On a Ray cluster; a job whose node dies is done again on another."""
    try:
        import ray  # type: ignore[import-not-found]
    except ImportError:
        raise MissingToolError("ray is not installed", fix="pip install 'edgekit-deploy[ray]'") from None
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False)
    shared = ray.put(subject)

    @ray.remote(max_retries=5)
    def done(subject: Subject, job: Job) -> Done:
        return Workshop(subject).do(job)
    waiting: dict[Any, Job] = {done.remote(shared, j): j for j in jobs}
    while waiting:
        ready, _ = ray.wait(list(waiting), num_returns=1)
        for reference in ready:
            yield waiting.pop(reference), ray.get(reference)
