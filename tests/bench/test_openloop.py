"""Inputs arrive on a clock: a slow inference delays those behind it, and that shows."""
import gc

import numpy as np
import pytest

from edgekit.bench.openloop import REAL, Clock, Responses, back_to_back, open_loop, undisturbed


def serve(fake, delays, overhead=0.0):
    def one(i):
        fake.t += delays[i] + overhead
        return delays[i]
    return one


def lindley(delays, period):
    """The same queue by recursion: W(i+1) = max(0, W(i) + S(i) - T), response = W + S."""
    wait, out = 0.0, []
    for s in delays:
        out.append(wait + s)
        wait = max(0.0, wait + s - period)
    return np.array(out)


def test_without_queueing_the_response_is_the_inference(fake_time):
    times = open_loop(serve(fake_time, [0.002] * 50), 50, 0.010, clock=fake_time.clock)
    assert times.response == pytest.approx(times.service, abs=1e-9)
    assert times.service == pytest.approx([0.002] * 50)


def test_a_slow_inference_delays_the_next_ones(fake_time):
    delays = [0.001] * 10
    delays[3] = 0.025                     # two and a half periods
    times = open_loop(serve(fake_time, delays), 10, 0.010, clock=fake_time.clock)
    assert times.response * 1e3 == pytest.approx([1, 1, 1, 25, 16, 7, 1, 1, 1, 1], abs=1e-9)
    assert times.service == pytest.approx(delays)


def test_an_overloaded_model_falls_behind_without_bound(fake_time):
    times = open_loop(serve(fake_time, [0.015] * 20), 20, 0.010, clock=fake_time.clock)
    assert times.response * 1e3 == pytest.approx(15 + 5 * np.arange(20), abs=1e-9)
    assert fake_time.waits == 1           # it never waits once it is late


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_queue_of_the_textbook(fake_time, seed):
    delays = np.random.default_rng(seed).exponential(0.008, 200)
    times = open_loop(serve(fake_time, delays), 200, 0.010, clock=fake_time.clock)
    assert times.response == pytest.approx(lindley(delays, 0.010), abs=1e-9)


def test_the_harness_is_not_part_of_a_response_it_does_not_delay(fake_time):
    times = open_loop(serve(fake_time, [0.001] * 20, overhead=0.005), 20, 0.010, clock=fake_time.clock)
    assert times.response == pytest.approx([0.001] * 20, abs=1e-9)


def test_a_machine_that_wakes_late_is_told_from_a_queue(fake_time):
    """Two inputs find the model free but are served late; one finds it busy."""
    delays, wake = [0.001, 0.001, 0.015, 0.001, 0.001], {0: 0.0, 10: 0.004, 20: 0.0, 30: 0.0, 40: 0.002}

    def wait_until(moment):
        if moment > fake_time.t:
            fake_time.t = moment + wake[round((moment - first) * 1e3)]
    first = 0.001
    times = open_loop(serve(fake_time, delays), 5, 0.010, clock=Clock(lambda: fake_time.t, wait_until))
    assert times.late * 1e3 == pytest.approx([0, 4, 0, 0, 2], abs=1e-9)
    assert times.response * 1e3 == pytest.approx([1, 5, 15, 6, 3], abs=1e-9)


def test_arrivals_do_not_drift(fake_time):
    starts = []

    def one(i):
        starts.append(fake_time.t)
        fake_time.t += 0.001
        return 0.001
    open_loop(one, 1000, 0.0123, clock=fake_time.clock)
    assert starts[-1] - starts[0] == pytest.approx(999 * 0.0123, abs=1e-9)


def test_the_real_clock_waits_for_the_moment():
    moment = REAL.now() + 0.005
    REAL.wait_until(moment)
    assert REAL.now() >= moment
    REAL.wait_until(moment - 1)           # past: at once


def test_progress_is_told_only_where_it_delays_nothing(fake_time):
    lines = []
    open_loop(serve(fake_time, [0.1] * 100), 100, 0.2, clock=fake_time.clock, progress=lines.append)
    assert 4 <= len(lines) <= 8 and lines[0].endswith("of 100 runs")
    lines.clear()
    open_loop(serve(fake_time, [0.3] * 100), 100, 0.2, clock=fake_time.clock, progress=lines.append)
    assert not lines


def test_back_to_back_stops_after_a_second(fake_time):
    long = back_to_back(serve(fake_time, [0.4] * 50, 0.1), fake_time.clock, 1, 50)
    assert len(long.service) == 2 and long.response == pytest.approx([0.5, 0.5], abs=1e-9)
    assert len(back_to_back(serve(fake_time, [0.001] * 50), fake_time.clock, 1, 50).service) == 50
    assert len(back_to_back(serve(fake_time, [2.0] * 50), fake_time.clock, 5, 50).service) == 5
    assert isinstance(back_to_back(serve(fake_time, []), fake_time.clock, 0, 0), Responses)


def test_no_garbage_collection_inside():
    assert gc.isenabled()
    with pytest.raises(RuntimeError), undisturbed():
        assert not gc.isenabled()
        raise RuntimeError
    assert gc.isenabled()
