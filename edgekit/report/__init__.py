"""The report: one HTML file that a person reads, self-contained: no scripts, nothing loaded from anywhere.

`render(data)` takes plain data; every key may be missing, and what has no data has no place on the page:

    title      of the page (default: the model's name)
    summary    [text, ...] under it
    manifest   of the bundle: what it is, its layers, memory, targets
    bench      [result of `bench`, ...] one a target, or several of one
    verify     result of `verify`
    machine    from `bench.machine.describe()` (default: that of the first bench)
    sections   [{"title", "text": [text, ...], "table": {"head": [...], "rows": [[...], ...]},
                 "figures": [{"svg": charts.Svg, "caption": text}, ...]}, ...] of one's own, in this order

All text is escaped. Pictures are `charts.Svg`: of the functions of `charts`, or drawn elsewhere and wrapped by who trusts them.
"""
from edgekit.report import charts
from edgekit.report.page import render

__all__ = ["charts", "render"]
