"""Schedules: values from a processor's table, the rest from its registers; a table that is wrong says where."""
from dataclasses import replace

import pytest

from edgekit import targets
from edgekit.errors import InputError
from edgekit.exporters.kernels.schedule import KINDS, machine_of

ARM = replace(targets.load("arm64"), schedule=())


def test_a_table_fills_its_fields_and_registers_the_rest():
    plain, tuned = machine_of(ARM), machine_of(replace(ARM, schedule=(("conv", (("rows", 4),)), ("matmul", ()))))
    assert tuned == replace(plain, conv=replace(plain.conv, rows=4)) != plain


@pytest.mark.parametrize("table, words", [
    ((("cnov", ()),), "no kernel has the schedule 'cnov'"),
    ((("conv", (("row", 4),)),), "arm64, schedule.conv.*unknown key 'row'"),
    ((("conv", (("rows", 0),)),), "rows = 0"), ((("conv", (("rows", 4.0),)),), "rows = 4.0"), ((("conv", (("rows", True),)),), "rows = True"),
])
def test_a_wrong_table_says_where_and_what(table, words):
    with pytest.raises(InputError, match=words):
        machine_of(replace(ARM, schedule=table))


def test_levels_that_this_machine_lacks_are_not_here(monkeypatch):
    monkeypatch.setattr(targets.native, "x86_level", lambda: "x86-64-v3")
    x64 = replace(targets.load("x64"), runner="host", better=tuple(replace(t, runner="host") for t in targets.load("x64").better))
    assert [t.level for t in x64.here] == ["avx2", "sse2"] and [t.level for t in targets.load("wasm").here] == ["relaxed", "simd128"]


@pytest.mark.parametrize("name", targets.names())
def test_every_target_has_schedules_of_which_a_tuner_knows_others(name):
    machine = machine_of(targets.load(name))
    for schedule in KINDS.values():
        candidates = list(schedule.candidates(machine.accumulators))
        assert len(candidates) == len(set(candidates)) > 2
