"""Budgets as values: `Budget.parse("p99<=10ms; arena<=4MB; accuracy_drop<=0.5%")`, and how evidence is judged by them.

    rule    NAME (<= | <) NUMBER UNIT        rules are separated by ; or , or line ends
    time    p50 p90 p99 p999 mean min max    us ms s          of the response time
    bytes   arena weights code peak_rss      B kB MB GB (powers of 1000; KB is kB) KiB MiB GiB (powers of 1024)
    share   miss_rate accuracy_drop          % or none        0.5% is 0.005
    count   instructions                     none k M G       of one inference, where they are counted (arm64)

What is known of a quantity is an interval (`Evidence`). A rule is met if the whole interval keeps the limit, missed if
none of it does, and undecided in between: so an unmeasured or unsupported figure never turns a rule green.
"""
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgekit.errors import InputError

_TIME = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_BYTES = {"B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_SHARE = {"%": 0.01, "": 1.0}
_COUNT = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_UNITS: dict[str, Mapping[str, float]] = {"time": _TIME, "bytes": _BYTES, "share": _SHARE, "count": _COUNT}
_KIND = {
    **dict.fromkeys(("p50", "p90", "p99", "p999", "mean", "min", "max"), "time"),
    **dict.fromkeys(("arena", "weights", "code", "peak_rss"), "bytes"),
    **dict.fromkeys(("miss_rate", "accuracy_drop"), "share"),
    "instructions": "count",
}
_NUMBER = r"\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?"
_RULE = re.compile(rf"(?P<name>\w+)\s*(?P<op><=|<)\s*(?P<number>{_NUMBER})\s*(?P<unit>[A-Za-zµ%]*)")
_DURATION = re.compile(rf"(?P<number>{_NUMBER})\s*(?P<unit>[A-Za-zµ]*)")


def _spell(number: float) -> str:
    """The shortest text that reads back as `number`."""
    return repr(number).removesuffix(".0")


@dataclass(frozen=True)
class Rule:
    """One limit, kept as it was written: `Rule("p99", "<=", 10.0, "ms")`."""

    name: str
    op: str
    number: float
    unit: str

    @property
    def kind(self) -> str:
        """One of "time", "bytes", "share", "count"."""
        return _KIND[self.name]

    @property
    def limit(self) -> float:
        """In seconds, bytes, as a fraction, or a number."""
        return self.number * _UNITS[self.kind][self.unit]

    def keeps(self, value: float) -> bool:
        """Whether a value in seconds, bytes, or as a fraction, is within the limit."""
        return value <= self.limit if self.op == "<=" else value < self.limit

    def __str__(self) -> str:
        return f"{self.name}{self.op}{_spell(self.number)}{self.unit}"


@dataclass(frozen=True)
class Evidence:
    """What is known: surely (95 %) low <= quantity <= high; `value` is the estimate to show, None where there is none.

    Seconds, bytes or fractions. note: why the interval is not a point.
    """

    value: float | None = None
    low: float = 0.0
    high: float = math.inf
    note: str = ""

    @classmethod
    def exactly(cls, value: float) -> "Evidence":
        return cls(value, value, value)


@dataclass(frozen=True)
class Verdict:
    """A rule and what the evidence says: ok is True (met), False (missed) or None (undecided)."""

    rule: Rule
    value: float | None
    ok: bool | None
    note: str = ""

    def to_json(self) -> dict:
        """rule, value and limit (ms, bytes, fraction or number), ok, and note where there is one."""
        scale = 1e3 if self.rule.kind == "time" else 1
        value = None if self.value is None else self.value * scale
        out = {"rule": str(self.rule), "value": value, "limit": self.rule.limit * scale, "ok": self.ok}
        return out | ({"note": self.note} if self.note else {})


@dataclass(frozen=True)
class Budget:
    """Rules that all have to be met. Prints as text that parses to an equal value."""

    rules: tuple[Rule, ...]

    @classmethod
    def parse(cls, text: "str | Budget | Iterable[str | Budget] | None") -> "Budget":
        """From "p99<=10ms; arena<=4MB", a list of such texts, or None (no rules). InputError says what is wrong."""
        if text is None:
            return cls(())
        if isinstance(text, Budget):
            return text
        if not isinstance(text, str):
            return cls(tuple(rule for part in text for rule in cls.parse(part).rules))
        parts = [part.strip() for part in re.split(r"[;,\n]", text)]
        rules = tuple(_parse_rule(part) for part in parts if part)
        if not rules:
            raise InputError("the budget is empty", where=f"budget {text!r}", fix='write one such as "p99<=10ms"')
        return cls(rules)

    def judge(self, evidence: Mapping[str, Evidence]) -> tuple[Verdict, ...]:
        """One verdict a rule; quantities without evidence leave their rules undecided."""
        return tuple(_judge(rule, evidence.get(rule.name, Evidence(note="not measured here"))) for rule in self.rules)

    def __str__(self) -> str:
        return "; ".join(map(str, self.rules))


def _judge(rule: Rule, known: Evidence) -> Verdict:
    ok = True if rule.keeps(known.high) else None if rule.keeps(known.low) else False
    return Verdict(rule, known.value, ok, known.note)


def _parse_rule(text: str) -> Rule:
    where = f"budget {text!r}"
    match = _RULE.fullmatch(text)
    if not match:
        raise InputError("not a rule: a name, <= or <, a number and a unit are needed", where=where,
                         fix='write it as "p99<=10ms"')
    name, unit = match["name"], match["unit"]
    if name not in _KIND:
        raise InputError(f"unknown quantity {name!r}", where=where, fix="use one of: " + ", ".join(_KIND))
    units = _UNITS[_KIND[name]]
    if unit not in units:
        what = f"unknown unit {unit!r} for {name}" if unit else f"{name} needs a unit"
        raise InputError(what, where=where, fix="use one of: " + ", ".join(u for u in units if u))
    rule = Rule(name, match["op"], float(match["number"]), unit)
    if not math.isfinite(rule.limit):
        raise InputError("the number is too large", where=where)
    return rule


def seconds(duration: str | float, *, what: str = "duration") -> float:
    """50ms, 200us or 0.1s as seconds; a bare number is in seconds already. Finite and above zero, or InputError."""
    match = _DURATION.fullmatch(duration.strip()) if isinstance(duration, str) else None
    if isinstance(duration, str) and not (match and match["unit"] in _TIME):
        raise InputError(f"{what} {duration!r} is not a time", fix="write it with a unit: 50ms, 200us or 0.1s")
    value = float(match["number"]) * _TIME[match["unit"]] if match else float(duration)
    if not (0 < value < math.inf):
        raise InputError(f"{what} {duration!r} has to be above zero and finite")
    return value


def exit_code(verdicts: Iterable[Mapping]) -> int:
    """Of verdicts as JSON: 1 where a rule was missed, 3 where one stayed undecided, else 0."""
    answers = [v["ok"] for v in verdicts]
    return 1 if False in answers else 3 if None in answers else 0
