"""NAME.h and NAME.c from the plan: one header for all targets; a source a library, with units and CPU bits by level."""
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.errors import UnsupportedError
from edgekit.exporters.emit.compile import Symbol
from edgekit.exporters.emit.cpu import cpuid_bits, register_state
from edgekit.exporters.emit.weights import payload_bytes, plan_id, saved_state_bytes
from edgekit.exporters.kernels.spec import Kernel
from edgekit.exporters.lower.plan import Buffer, Entry, Plan, Port, Step
from edgekit.runtimes.abi.layout import STATE_HEADER, WEIGHTS_HEADER
from edgekit.runtimes.abi.names import C_TYPES, comment, entry_names, model_name, parameter_names

_PARALLEL_WORK = 1 << 15  # multiply-adds or elements: less is not worth waking a thread for


def api_symbols(plan: Plan) -> list[str]:
    """Every function that a library of this plan exports."""
    name = model_name(plan.name)
    runs = [f"{name}_run{end}" for end in entry_names([e.name for e in plan.entries]).values()]
    return [f"{name}_{f}" for f in ("init", "reset", "save", "restore", "load", "steps", "level")] + runs


def header(plan: Plan) -> str:
    """NAME.h."""
    name = model_name(plan.name)
    upper = name.upper()
    ends = entry_names([e.name for e in plan.entries])
    parts = [f"""\
/* {name}.h - a model compiled by edgekit. What the functions promise is in edgekit.h. */
#ifndef EDGEKIT_MODEL_{name}_H
#define EDGEKIT_MODEL_{name}_H

#include "edgekit.h"

#ifdef __cplusplus
extern "C" {{
#endif

#define {upper}_ARENA_BYTES {plan.arena_bytes}u
#define {upper}_WEIGHTS_BYTES {WEIGHTS_HEADER + payload_bytes(plan)}u
#define {upper}_STATE_BYTES {saved_state_bytes(plan)}u

/* One instance: yours to place, never to copy, move or look into. */
typedef struct {name} {{
    ek_model model_;
}} {name};

/* weights: weights.bin, {upper}_WEIGHTS_BYTES; arena: {upper}_ARENA_BYTES; both aligned to EK_ALIGN bytes.
 * threads: NULL for one thread. */
EK_API ek_status {name}_init({name} *m, const void *weights, size_t weights_bytes, void *arena, size_t arena_bytes,
    const ek_parallel *threads);
{_state_comment(plan)}
EK_API ek_status {name}_reset({name} *m);
EK_API ek_status {name}_save({name} *m, void *state, size_t bytes);
EK_API ek_status {name}_restore({name} *m, const void *state, size_t bytes);

/* For profilers. Entries and their steps:{"".join(_entry_comment(i, e) for i, e in enumerate(plan.entries))} */
EK_API ek_status {name}_load({name} *m, uint32_t entry, const ek_view *in, size_t n_in);
EK_API ek_status {name}_steps({name} *m, uint32_t entry, uint32_t from, uint32_t to);

/* For tests: other code than init has chosen. */
EK_API ek_status {name}_level({name} *m, uint32_t level);
"""]
    parts += [_entry_header(name, e, ends[e.name]) for e in plan.entries]
    parts.append("\n#ifdef __cplusplus\n}\n#endif\n#endif\n")
    return "".join(parts)


@dataclass(frozen=True)
class Level:
    """The kernels of a plan for one kind of processor. features: those of `cpu_features`, which init asks for."""

    symbols: Mapping[Kernel, Symbol]
    features: tuple[str, ...] = ()


def source(plan: Plan, levels: Sequence[Level]) -> str:
    """NAME.c. levels: best first."""
    name = model_name(plan.name)
    ends = entry_names([e.name for e in plan.entries])
    kernels = {level.symbols[s.kernel].name: len(s.args) for level in levels for e in plan.entries for s in e.steps}
    states = {b.name: b for b in plan.state_buffers}
    parts = [f'#include "{name}.h"\n#include "ek_runtime.h"\n\n']
    parts += [f"void {k}({'void *, ' * n}int32_t, int32_t, int32_t);\n" for k, n in kernels.items()]
    parts += [_entry_source(plan, e, i) for i, e in enumerate(plan.entries)]
    parts += [_level_source(plan, level, k) for k, level in enumerate(levels)]
    parts += ["\n", _ports("ek_states_", [(states[s.buffer], s.dtype) for s in plan.states])]
    parts.append(_table("ek_level", "ek_levels_", [
        f"ek_steps_{k}, {_name_or_null(f'ek_cpu_{k}', level.features)}, {len(level.features)}, {register_state(level.features):#x}"
        for k, level in enumerate(levels)]))
    parts.append(_table("ek_entry", "ek_entries_", [
        ", ".join([*(_name_or_null(f"ek_{k}_{i}", rows) for k, rows in _entry_tables(e) if k != "steps"),
                   *(f"{len(rows)}" for _, rows in _entry_tables(e))]) for i, e in enumerate(plan.entries)]))
    parts.append(f"""
static const ek_program ek_program_ = {{
    {plan_id(plan):#018x}u, {plan.arena_bytes}u, {payload_bytes(plan)}u, {saved_state_bytes(plan) - STATE_HEADER}u,
    ek_entries_, {_name_or_null("ek_states_", plan.states)}, ek_levels_,
    {len(plan.entries)}, {len(plan.states)}, {len(levels)},
}};

ek_status {name}_init({name} *m, const void *weights, size_t weights_bytes, void *arena, size_t arena_bytes,
    const ek_parallel *threads)
{{
    return ek_init(&ek_program_, (ek_model *)m, weights, weights_bytes, arena, arena_bytes, threads);
}}

ek_status {name}_reset({name} *m) {{ return ek_reset(&ek_program_, (ek_model *)m); }}

ek_status {name}_save({name} *m, void *state, size_t bytes)
{{
    return ek_save(&ek_program_, (ek_model *)m, state, bytes);
}}

ek_status {name}_restore({name} *m, const void *state, size_t bytes)
{{
    return ek_restore(&ek_program_, (ek_model *)m, state, bytes);
}}

ek_status {name}_load({name} *m, uint32_t entry, const ek_view *in, size_t n_in)
{{
    return ek_load(&ek_program_, (ek_model *)m, entry, in, n_in);
}}

ek_status {name}_steps({name} *m, uint32_t entry, uint32_t from, uint32_t to)
{{
    return ek_steps(&ek_program_, (ek_model *)m, entry, from, to);
}}

ek_status {name}_level({name} *m, uint32_t level)
{{
    return ek_set_level(&ek_program_, (ek_model *)m, level);
}}
""")
    parts += [f"""
ek_status {name}_run{ends[e.name]}({name} *m, const ek_view *in, size_t n_in, const ek_view *out, size_t n_out)
{{
    return ek_run(&ek_program_, (ek_model *)m, {i}, in, n_in, out, n_out);
}}
""" for i, e in enumerate(plan.entries)]
    return "".join(parts)


# --- the header's parts


def _entry_header(name: str, entry: Entry, end: str) -> str:
    ports = [*entry.inputs, *entry.outputs]
    names = parameter_names([p.name for p in ports], name)
    n = len(entry.inputs)
    lines = [f"{'in ' if k < n else 'out'} {k if k < n else k - n}  {names[k]}: {p.dtype} {_shape(p)}"
             + ("" if names[k] == p.name else f", called {comment(p.name)}") for k, p in enumerate(ports)]
    about = "\n * ".join([f"Entry {comment(entry.name)}.", *lines])
    params = [f"{name} *m", *(f"{'const ' * (k < n)}{_c_type(p)} {names[k]}[{_extent(p)}]"
                              for k, p in enumerate(ports))]
    views = [f"{{(void *){x}, {_nbytes(p)}u, EK_{p.dtype.upper()}}}" for p, x in zip(ports, names)]
    body = "".join(_call(f"    const ek_view ek_{kind}[{len(some)}] = {{", some, "};\n")
                   for kind, some in (("in", views[:n]), ("out", views[n:])) if some)
    given = ", ".join(f"{'ek_' + kind if count else 'NULL'}, {count}"
                      for kind, count in (("in", n), ("out", len(ports) - n)))
    return f"""
/* {about} */
EK_API ek_status {name}_run{end}({name} *m, const ek_view *in, size_t n_in, const ek_view *out, size_t n_out);

{_call(f"static inline ek_status {name}_predict{end}(", params, ")")}
{{
{body}    return {name}_run{end}(m, {given});
}}
"""


def _call(head: str, items: Sequence[str], tail: str) -> str:
    """head items tail on one line, or an item a line when that is long."""
    line = ", ".join(items)
    return head + (line if len(head + line) < 118 else (",\n" + " " * len(head)).join(items)) + tail


def _state_comment(plan: Plan) -> str:
    if not plan.states:
        return "\n/* The model keeps no state: these three do nothing, correctly. */"
    lines = "".join(f"\n *   {comment(s.name)}: {s.dtype} {_dims(s.shape)}" for s in plan.states)
    size = f"{model_name(plan.name).upper()}_STATE_BYTES"
    return f"\n/* State kept from call to call, zero at first; save and restore take {size}:{lines} */"


def _entry_comment(index: int, entry: Entry) -> str:
    return f"\n *   {index}  {comment(entry.name)}: {len(entry.steps)} steps"


def _c_type(port: Port) -> str:
    if port.dtype not in C_TYPES:
        raise UnsupportedError(f"dtype {port.dtype} has no C type", where=port.name)
    return C_TYPES[port.dtype]


def _dims(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]" if shape else "scalar"


def _shape(port: Port) -> str:
    return _dims(port.shape) + (" (bits of a half)" if port.dtype in ("float16", "bfloat16") else "")


def _extent(port: Port) -> str:
    """Array extent with its factors; C has no arrays without elements."""
    return " * ".join(map(str, port.shape)) if math.prod(port.shape) and port.shape else "1"


_ITEM_BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "bool": 1,
               **{f"{u}int{n}": n // 8 for u in ("", "u") for n in (8, 16, 32, 64)}}


def _nbytes(port: Port) -> int:
    return math.prod(port.shape) * _ITEM_BYTES[port.dtype]


# --- the source's parts


def _entry_tables(entry: Entry) -> list[tuple[str, Sequence]]:
    """The tables of an entry, in the order in which struct ek_entry counts their rows."""
    return [("in", entry.inputs), ("out", entry.outputs), ("steps", entry.steps),
            ("updates", [u for u in entry.updates if u[0] != u[1]])]


def _entry_source(plan: Plan, entry: Entry, index: int) -> str:
    buffers = plan.buffers(entry)
    updates = _ordered_updates(entry, buffers)
    return "".join(["\n", _ports(f"ek_in_{index}", [(buffers[p.buffer], p.dtype, _nbytes(p)) for p in entry.inputs]),
                    _ports(f"ek_out_{index}", [(buffers[p.buffer], p.dtype, _nbytes(p)) for p in entry.outputs]),
                    _table("ek_update", f"ek_updates_{index}",
                           [f"{to.offset}u, {source.offset}u, {to.nbytes}u" for to, source in updates])])


def _level_source(plan: Plan, level: Level, number: int) -> str:
    tables = [f"ek_steps_{number}_{index}" if e.steps else "NULL" for index, e in enumerate(plan.entries)]
    return "".join([*(_steps_source(plan, e, f"{number}_{index}", level.symbols) for index, e in enumerate(plan.entries)),
                    f"static const ek_step *const ek_steps_{number}[] = {{{', '.join(tables)}}};\n",
                    _table("ek_cpu_bit", f"ek_cpu_{number}", [f"{leaf:#x}u, {subleaf}, {register}, {bit}"
                                                            for leaf, subleaf, register, bit in cpuid_bits(level.features)])])


def _steps_source(plan: Plan, entry: Entry, end: str, symbols: Mapping[Kernel, Symbol]) -> str:
    """The steps of an entry as functions and a table of them, with names that end in `end`."""
    buffers = plan.buffers(entry)
    calls, rows = [], []
    for number, step in enumerate(entry.steps):
        args = "".join(_pointer(buffers[a.buffer], a.offset) + ", " for a in step.args)
        call = f"ek_call_{end}_{number}"
        calls.append(f"""
/* {comment(step.name)}: {comment(step.op)} */
static void {call}(const unsigned char *w, unsigned char *a, int32_t begin, int32_t end)
{{
    (void)w, (void)a;
    {symbols[step.kernel].name}({args}begin, end, 0);
}}
""")
        units = symbols[step.kernel].units
        rows.append(f"{call}, {units}, {int(units > 1 and _work(step) >= _PARALLEL_WORK)}")
    return "".join([*calls, "\n", _table("ek_step", f"ek_steps_{end}", rows)])


def _pointer(buffer: Buffer, elements: int) -> str:
    """A kernel argument. Kernels take plain pointers; those into the weights are only read."""
    base = "w" if buffer.space == "weights" else "a"
    return f"(void *)({base} + {buffer.offset + elements * _ITEM_BYTES[buffer.dtype]}u)"


def _work(step: Step) -> int:
    """Multiply-adds, or elements where there are none."""
    return max(step.macs, math.prod(getattr(step.kernel, "shape", ())))


def _ordered_updates(entry: Entry, buffers: Mapping[str, Buffer]) -> list[tuple[Buffer, Buffer]]:
    """(to, from) of every state update, so ordered that none reads what an earlier one has overwritten."""
    waiting, ordered = list(entry.updates), []
    while waiting:
        free = next((u for u in waiting if all(u is other or u[0] != other[1] for other in waiting)), None)
        if free is None:
            raise UnsupportedError("states that exchange their values", where=entry.name, fix="copy one in the model")
        waiting.remove(free)
        if free[0] != free[1]:
            ordered.append((buffers[free[0]], buffers[free[1]]))
    return ordered


def _ports(name: str, rows: Sequence[tuple]) -> str:
    return _table("ek_port", name, [f"{b.offset}u, {size[0] if size else b.nbytes}u, EK_{dtype.upper()}"
                                    for b, dtype, *size in rows])


def _table(kind: str, name: str, rows: Sequence[str]) -> str:
    """A static const array; nothing at all where there are no rows, for C has no empty arrays."""
    return f"static const {kind} {name}[] = {{{''.join(f'{chr(10)}    {{{r}}},' for r in rows)}\n}};\n" if rows else ""


def _name_or_null(name: str, rows: Sequence) -> str:
    return name if rows else "NULL"
