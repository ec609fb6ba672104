"""The report: well-formed, self-contained, escaped, and it says what the data say."""
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit import report
from edgekit.bench import bench
from edgekit.errors import InputError
from edgekit.report import charts
from tests.bench.conftest import FakeSession, FakeTime, files  # noqa: F401 - a fixture

EVIL = "</title><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Text, tags and attributes of a page whose every tag is closed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *a) for a in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *a) for a in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def safe(html):
    page = Page(html)
    assert not {"script", "img", "link", "iframe", "object", "base", "form"} & set(page.tags)
    assert not [a for a in page.attributes if a[1].startswith("on") or a[1] in ("src", "href", "srcset", "style")]
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style
    return page


@pytest.fixture
def data(files):  # noqa: F811
    def run(target, measured=True, delays=lambda i: 0.001 + 1e-5 * (i % 7), **options):
        fake = FakeTime()
        return bench(files, target, session=FakeSession(fake, delays, measured=measured), clock=fake.clock, **options)
    files.manifest["layers"] = [{"name": "fc1", "op": "Gemm", "macs": 200, "sparsity": 0.5, "group": 8, "reason": ""},
                                {"name": "head", "op": "Gemm", "macs": 50, "sparsity": 0.0, "group": None, "reason": "the head"}]
    good = {"ok": True, "max_abs_error": 1e-6, "max_rel_error": 2e-7, "outputs": []}
    return {"manifest": files.manifest, "bench": [run("host", layers=True, deadline="40ms", budget="p99<=10ms"), run("arm64", False)],
            "verify": {"ok": True, "tolerance": 1e-4, "targets": {"host": good}, "not_run": {"wasm": "wasmtime is missing"}}}


def test_everything_is_on_the_page(data):
    page = safe(report.render(data))
    for words in ("Every budget is met", "p99<=10ms", "40 ms", "123,456", "wasmtime is missing", "4.1 kB", "fc1", "the head",
                  "Numbers agree with the reference on host", data["bench"][0]["machine"]["cpu"]):
        assert words in page.text, words
    assert page.tags.count("svg") == 2 and page.tags.count("h1") == 1


@pytest.mark.parametrize("budget, words, kind", [
    ("p99<=10ms", "Every budget is met", "met"), ("p99<=10us", "A limit was missed", "missed"),
    ("p999<=10ms", "Undecided", "undecided"), ("p99<=10us; p999<=10ms", "A limit was missed", "missed"),
    (None, "No budget was set", "none")])
def test_the_verdict_is_on_top(data, files, budget, words, kind):  # noqa: F811
    fake = FakeTime()
    result = bench(files, session=FakeSession(fake), clock=fake.clock, budget=budget)
    html = report.render({"manifest": files.manifest, "bench": [result]})
    assert words in safe(html).text and f'class="verdict {kind}"' in html
    assert html.index("verdict " + kind) < html.index("<h2>")


@pytest.mark.parametrize("given, words, never", [("40ms", "deadline 40 ms", "next input"), (None, "next input", "deadline")])
def test_a_deadline_that_nobody_set_is_not_called_one(files, given, words, never):  # noqa: F811
    fake = FakeTime()
    text = safe(report.render({"bench": [bench(files, session=FakeSession(fake), clock=fake.clock, deadline=given)]})).text
    assert words in text and never not in text.split("</style>")[-1]


def test_wrong_numbers_are_louder_than_a_met_budget(data):
    data["verify"] |= {"ok": False}
    data["verify"]["targets"]["host"] |= {"ok": False}
    page = safe(report.render(data))
    assert "A limit was missed" in page.text and "Numbers differ from the reference on host" in page.text
    assert "WRONG" in page.text


@pytest.mark.parametrize("keys", [[], ["manifest"], ["bench"], ["verify"], ["manifest", "verify"], ["bench", "verify"]])
def test_parts_without_data_are_left_out(data, keys):
    page = safe(report.render({k: data[k] for k in keys}))
    assert ("Latency" in page.text) is ("bench" in keys)
    assert ("Memory" in page.text) is ("manifest" in keys)
    if not keys:
        assert not re.search("<h2>", report.render({}))


def test_names_of_strangers_are_only_text(data):
    m = data["manifest"]
    m["name"] = m["license"] = m["layers"][0]["name"] = m["layers"][1]["reason"] = EVIL
    m["entries"][0]["inputs"][0]["name"] = EVIL
    m["targets"][EVIL] = m["targets"].pop("wasm")
    data["bench"][0]["layers"][0]["name"] = EVIL
    section = {"title": EVIL, "text": [EVIL], "table": {"head": [EVIL, "n"], "rows": [[EVIL, 1.0]]},
               "figures": [{"svg": charts.bars([EVIL], {EVIL: [1.0]}), "caption": EVIL},
                           {"svg": charts.lines({EVIL: [(0, 1), (1, 2)]}, EVIL, EVIL)}]}
    page = safe(report.render(data | {"title": EVIL, "summary": [EVIL], "sections": [section]}))
    assert page.text.count("<script>") >= 10


def test_only_drawn_pictures_are_embedded():
    section = {"title": "x", "figures": [{"svg": "<svg><script>alert(1)</script></svg>"}]}
    with pytest.raises(InputError, match="charts.Svg"):
        report.render({"sections": [section]})


def test_tables_put_figures_to_the_right():
    html = report.render({"sections": [{"title": "t", "table": {"head": ["who", "error"], "rows": [["dense", 0.51234], ["none", None]]}}]})
    assert '<td class="number">0.5123</td>' in html and '<td class="number">-</td>' in html and "<td>dense</td>" in html


def marks(svg, tag, kind):
    return [e for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}" + tag) if e.get("class") == kind]


def test_histogram_bars_and_lines_are_where_they_belong():
    svg = charts.histogram([0, 1, 2, 3], [1, 0, 4], {"p50": 2.5}, ("deadline", 4.0))
    first, last = marks(svg, "rect", "c0")                     # no bar where there are no runs
    assert float(last.get("height")) == pytest.approx(4 * float(first.get("height")), rel=0.01)
    (p50,), (deadline,) = marks(svg, "line", "mark"), marks(svg, "line", "limit")
    left, right = float(last.get("x")), float(last.get("x")) + float(last.get("width"))
    assert left < float(p50.get("x1")) < right < float(deadline.get("x1")) <= 860
    assert "deadline 4 ms" in svg


def test_bars_are_in_proportion():
    svg = charts.bars(["a", "b"], {"x": [1.0, 2.0], "y": [None, 4.0]}, shared=True)
    a, b = (float(r.get("width")) for r in marks(svg, "rect", "c0"))
    (c,) = (float(r.get("width")) for r in marks(svg, "rect", "c1"))
    assert b == pytest.approx(2 * a, rel=0.01) and c == pytest.approx(2 * b, rel=0.01)


VALUES = st.floats(-1e9, 1e9, allow_subnormal=False)


@given(st.dictionaries(st.text(max_size=8), st.lists(st.tuples(VALUES, VALUES), max_size=5), max_size=6), st.booleans())
@settings(max_examples=80)
def test_plots_of_anything_are_well_formed_and_inside(series, from_zero):
    for svg in (charts.lines(series, "x", "y", points=True, from_zero=from_zero), charts.scatter(series, "x", "y")):
        plain = re.sub(r"[^\t\n\r -\ud7ff\ue000-\ufffd]", "", svg)      # what XML cannot hold at all, HTML can
        root = ElementTree.fromstring(plain)
        for dot in root.iter("{http://www.w3.org/2000/svg}circle"):
            assert -1 <= float(dot.get("cx")) <= 861 and -1 <= float(dot.get("cy")) <= 301


@given(st.lists(st.integers(0, 500), min_size=1, max_size=40), st.floats(1e-6, 1e3), st.floats(1e-6, 1e5), st.floats(1.001, 3))
@settings(max_examples=80)
def test_histograms_of_anything_are_well_formed(counts, low, deadline, ratio):
    edges = [low * ratio**i for i in range(len(counts) + 1)]
    svg = charts.histogram(edges, counts, {"p50": edges[0]}, ("deadline", deadline))
    for rect in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}rect"):
        assert 0 <= float(rect.get("x")) <= 861 and float(rect.get("width")) > 0
