"""Budgets: what parses, what it means, how evidence is judged."""
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.budget import Budget, Evidence, Rule, exit_code, seconds
from edgekit.errors import InputError

TIME, BYTES = ("p50", "p90", "p99", "p999", "mean", "min", "max"), ("arena", "weights", "code", "peak_rss")
NUMBERS = st.floats(min_value=0, max_value=1e12, allow_nan=False)


def rules():
    def of(names, units):
        return st.builds(Rule, st.sampled_from(names), st.sampled_from(["<", "<="]), NUMBERS, st.sampled_from(units))
    return st.one_of(of(TIME, ("us", "µs", "ms", "s")), of(BYTES, ("B", "kB", "KB", "KiB", "MB", "MiB", "GB", "GiB")),
                     of(("miss_rate", "accuracy_drop"), ("%", "")), of(("instructions",), ("", "k", "M", "G")))


def test_the_example_of_the_interface():
    budget = Budget.parse("p99<=10ms; arena<=4MB; accuracy_drop<=0.5%")
    assert [r.limit for r in budget.rules] == [0.01, 4e6, 0.005]
    assert str(budget) == "p99<=10ms; arena<=4MB; accuracy_drop<=0.5%"


@pytest.mark.parametrize("text, limit", [
    ("p50<=200us", 200e-6), ("max<1.5s", 1.5), ("arena <= 64 KiB", 65536), ("weights<1MiB", 2**20),
    ("code<=300kB", 300_000), ("code<=300KB", 300_000), ("peak_rss<=5e6B", 5e6), ("miss_rate<.01", 0.01),
    ("miss_rate<=1%", 0.01),
])
def test_units(text, limit):
    assert Budget.parse(text).rules[0].limit == pytest.approx(limit, rel=1e-12)


@given(st.lists(rules(), min_size=1, max_size=5))
def test_printing_round_trips(some):
    budget = Budget(tuple(some))
    assert Budget.parse(str(budget)) == budget


@given(st.text(max_size=20))
def test_any_text_parses_or_is_refused_with_its_own_words(text):
    try:
        budget = Budget.parse(text)
    except InputError as error:
        assert error.what and "budget" in error.where
    else:
        assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize("text, says", [
    ("", "empty"), (" ; ", "empty"), ("p99", "not a rule"), ("p99>=10ms", "not a rule"), ("p99<=fast", "not a rule"),
    ("p99<=-1ms", "not a rule"), ("p99<=10ms p50<=1ms", "not a rule"), ("p98<=10ms", "unknown quantity 'p98'"),
    ("p99<=10", "p99 needs a unit"), ("instructions<=1ms", "unknown unit 'ms'"), ("p99<=10MB", "unknown unit 'MB' for p99"), ("arena<=4", "arena needs a unit"),
    ("arena<=4ms", "unknown unit"), ("p99<=1e999ms", "too large"), ("miss_rate<=1ms", "unknown unit"),
])
def test_what_is_refused(text, says):
    with pytest.raises(InputError) as caught:
        Budget.parse(text)
    assert says in caught.value.what and caught.value.exit_code == 2


def test_none_lists_and_budgets_are_taken():
    one = Budget.parse("p99<=10ms")
    assert Budget.parse(None).rules == ()
    assert Budget.parse(one) is one
    assert Budget.parse(["p99<=10ms", one, "arena<=1MB; p50<1ms"]).rules == (
        *one.rules, *one.rules, *Budget.parse("arena<=1MB; p50<1ms").rules)


@pytest.mark.parametrize("evidence, ok", [
    (Evidence.exactly(0.009), True), (Evidence.exactly(0.010), True), (Evidence.exactly(0.011), False),
    (Evidence(low=0.011), False),                 # the sample already shows it
    (Evidence(low=0.009), None), (Evidence(), None),
    (Evidence(0.005, 0.004, 0.010), True), (Evidence(0.005, 0.004, 0.012), None),
])
def test_verdicts_of_intervals(evidence, ok):
    (verdict,) = Budget.parse("p99<=10ms").judge({"p99": evidence})
    assert verdict.ok is ok


def test_strict_limits_are_strict():
    (verdict,) = Budget.parse("arena<100B").judge({"arena": Evidence.exactly(100)})
    assert verdict.ok is False


def test_a_quantity_without_evidence_is_undecided():
    (verdict,) = Budget.parse("accuracy_drop<=1%").judge({})
    assert verdict.to_json() == {"rule": "accuracy_drop<=1%", "value": None, "limit": 0.01, "ok": None,
                                 "note": "not measured here"}


def test_json_of_times_is_in_milliseconds():
    (verdict,) = Budget.parse("p99<=0.01s").judge({"p99": Evidence.exactly(0.0081)})
    assert verdict.to_json() == {"rule": "p99<=0.01s", "value": pytest.approx(8.1), "limit": 10.0, "ok": True}


@given(rules(), st.floats(0, 1e15), st.floats(0, 1e15))
def test_more_knowledge_never_contradicts(rule, a, b):
    """A verdict on an interval is the verdict on every point of it."""
    low, high = sorted((a, b))
    ok = Budget((rule,)).judge({rule.name: Evidence(low=low, high=high)})[0].ok
    for point in (low, high, (low + high) / 2):
        exact = Budget((rule,)).judge({rule.name: Evidence.exactly(point)})[0].ok
        assert ok is None or exact is ok


@pytest.mark.parametrize("answers, code", [([], 0), ([True], 0), ([True, None], 3), ([None, False], 1), ([False], 1)])
def test_exit_codes(answers, code):
    assert exit_code([{"ok": ok} for ok in answers]) == code


@pytest.mark.parametrize("text, value", [("50ms", 0.05), (" 200 us", 2e-4), ("0.1s", 0.1), (0.25, 0.25), (2, 2.0)])
def test_durations(text, value):
    assert seconds(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["", "50", "fast", "50 min", "-5ms", "0ms", "1e999s", 0, -1.0, math.nan, math.inf])
def test_bad_durations(text):
    with pytest.raises(InputError, match="period"):
        seconds(text, what="period")
