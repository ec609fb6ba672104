/* ek_runtime.h - the whole C runtime: static functions over tables that NAME.c defines and hands in as `ek_program`.
 *
 * Included by generated code only, never by apps: see edgekit.h for what the functions promise. Freestanding C11 with
 * the GNU builtins of GCC and Clang; of libc it needs memcpy and memset.
 *
 * A program is data: entries are tables of steps, a step is a function over (weights, arena) and its number of units.
 * */
#ifndef EK_RUNTIME_H
#define EK_RUNTIME_H

#include "edgekit.h"
#include "ek_crc32c.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "weights.bin is little-endian"
#endif

enum { EK_FORMAT = 1, EK_WEIGHTS_HEADER = 64, EK_STATE_HEADER = 32 };

typedef struct ek_step { /* one kernel call over units [begin, end) */
    void (*call)(const unsigned char *weights, unsigned char *arena, int32_t begin, int32_t end);
    int32_t units;
    int32_t parallel; /* worth handing to parallel_for */
} ek_step;

typedef struct ek_port { /* an input, an output or a state in the arena */
    size_t offset, bytes;
    ek_dtype dtype;
} ek_port;

typedef struct ek_update { /* after the last step: arena[to..] = arena[from..] */
    size_t to, from, bytes;
} ek_update;

typedef struct ek_entry {
    const ek_port *in;
    const ek_port *out;
    const ek_update *updates;
    uint32_t n_in, n_out, n_steps, n_updates;
} ek_entry;

typedef struct ek_cpu_bit { /* a processor feature that kernels use: a bit of eax..edx = 0..3 of a cpuid leaf */
    uint32_t leaf, subleaf, reg, bit;
} ek_cpu_bit;

typedef struct ek_level { /* the kernels, compiled for one kind of processor */
    const ek_step *const *steps; /* by entry */
    const ek_cpu_bit *cpu;
    uint32_t n_cpu;
    uint32_t xcr0; /* register state that the operating system must save */
} ek_level;

typedef struct ek_program {
    uint64_t id; /* of the plan: code and weights with the same id belong together */
    size_t arena_bytes, payload_bytes, state_bytes; /* state_bytes: of all states, densely */
    const ek_entry *entries;
    const ek_port *states;
    const ek_level *levels; /* best first */
    uint32_t n_entries, n_states, n_levels;
} ek_program;

/* Little-endian numbers at any address. */
static uint64_t ek_get(const unsigned char *p, int bytes)
{
    uint64_t v = 0;
    while (bytes--) v = v << 8 | p[bytes];
    return v;
}

static void ek_put(unsigned char *p, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++) p[i] = (unsigned char)(v >> (8 * i));
}

/* "EKWEIGHT" and "EKSTATES" in files and saved states. */
#define EK_WEIGHTS_WORD 0x5448474945574b45u
#define EK_STATE_WORD 0x5345544154534b45u

/* 1 when this processor and its operating system have all that the kernels of a level were compiled for. */
static int ek_cpu_fits(const ek_level *level)
{
#if defined(__x86_64__)
    uint32_t r[4];
    for (uint32_t i = 0; i < level->n_cpu; i++) {
        const ek_cpu_bit *b = &level->cpu[i];
        ek_cpuid(b->leaf & 0x80000000u, 0, r); /* the highest leaf there is */
        if (r[0] < b->leaf) return 0;
        ek_cpuid(b->leaf, b->subleaf, r);
        if (!((r[b->reg] >> b->bit) & 1u)) return 0;
    }
    if (level->xcr0) {
        uint32_t low, high;
        ek_cpuid(1, 0, r);
        if (!((r[2] >> 27) & 1u)) return 0; /* OSXSAVE: xgetbv may be used */
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        (void)high;
        if ((low & level->xcr0) != level->xcr0) return 0;
    }
#else
    (void)level;
#endif
    return 1;
}

/* The first level that fits; their number where none does. */
static uint32_t ek_best_level(const ek_program *g)
{
    uint32_t level = 0;
    while (level < g->n_levels && !ek_cpu_fits(&g->levels[level])) level++;
    return level;
}

/* The layout of weights.bin is in docs/bundle.md. */
static ek_status ek_check_weights(const ek_program *g, const unsigned char *w, size_t bytes)
{
    if (bytes < EK_WEIGHTS_HEADER) return EK_WEIGHTS_SIZE;
    if (ek_get(w, 8) != EK_WEIGHTS_WORD) return EK_WEIGHTS_MAGIC;
    if (ek_get(w + 8, 4) != EK_FORMAT) return EK_WEIGHTS_VERSION;
    if (ek_get(w + 60, 4) != ek_crc32c(w, 60)) return EK_WEIGHTS_CHECKSUM;
    if (ek_get(w + 24, 8) != g->id || ek_get(w + 16, 8) != g->payload_bytes) return EK_WEIGHTS_MODEL;
    if (bytes != EK_WEIGHTS_HEADER + g->payload_bytes) return EK_WEIGHTS_SIZE;
    return ek_get(w + 32, 4) == ek_crc32c(w + EK_WEIGHTS_HEADER, g->payload_bytes) ? EK_OK : EK_WEIGHTS_CHECKSUM;
}

/* Ties an instance to its model and its own address; never 0, so zeroed memory is not an instance. */
static uint64_t ek_tag(const ek_program *g, const ek_model *m)
{
    return (g->id ^ (uint64_t)(uintptr_t)m * 0x9e3779b97f4a7c15u ^ EK_STATE_WORD) | 1u;
}

static ek_status ek_check(const ek_program *g, const ek_model *m)
{
    if (!m) return EK_NULL;
    return __atomic_load_n(&m->private_.tag, __ATOMIC_ACQUIRE) == ek_tag(g, m) ? EK_OK : EK_NOT_INITIALIZED;
}

/* A word and not 1: init may meet the remains of an instance on the stack, its tag whole and the rest overwritten. */
#define EK_BUSY_WORD 0xb5297a4du

static void ek_leave(ek_model *m) { __atomic_store_n(&m->private_.busy, 0u, __ATOMIC_RELEASE); }

/* EK_OK: the instance is this call's until ek_leave. The tag is looked at again, for init may have come in between. */
static ek_status ek_enter(const ek_program *g, ek_model *m)
{
    ek_status status = ek_check(g, m);
    if (status != EK_OK) return status;
    if (__atomic_exchange_n(&m->private_.busy, EK_BUSY_WORD, __ATOMIC_ACQUIRE) == EK_BUSY_WORD) return EK_BUSY;
    status = ek_check(g, m);
    if (status != EK_OK) ek_leave(m);
    return status;
}

static void ek_copy(void *to, const void *from, size_t bytes)
{
    if (bytes) __builtin_memcpy(to, from, bytes); /* an empty tensor may have a null pointer */
}

static ek_status ek_check_init(const ek_program *g, const void *weights, size_t weights_bytes, const void *arena,
                               size_t arena_bytes, const ek_parallel *threads)
{
    if (!weights || !arena || (threads && !threads->parallel_for)) return EK_NULL;
    if (((uintptr_t)weights | (uintptr_t)arena) % EK_ALIGN) return EK_ALIGNMENT;
    if (arena_bytes < g->arena_bytes) return EK_ARENA_SIZE;
    if (ek_best_level(g) == g->n_levels) return EK_CPU;
    return ek_check_weights(g, (const unsigned char *)weights, weights_bytes);
}

static ek_status ek_init(const ek_program *g, ek_model *m, const void *weights, size_t weights_bytes, void *arena,
                         size_t arena_bytes, const ek_parallel *threads)
{
    ek_status status;
    if (!m) return EK_NULL;
    if (ek_enter(g, m) == EK_BUSY) return EK_BUSY;
    __builtin_memset(m, 0, sizeof *m);
    status = ek_check_init(g, weights, weights_bytes, arena, arena_bytes, threads);
    if (status != EK_OK) return status;
    __builtin_memset(arena, 0, g->arena_bytes);
    m->private_.weights = (const unsigned char *)weights + EK_WEIGHTS_HEADER;
    m->private_.arena = (unsigned char *)arena;
    m->private_.level = ek_best_level(g);
    if (threads) m->private_.threads = *threads;
    __atomic_store_n(&m->private_.tag, ek_tag(g, m), __ATOMIC_RELEASE);
    return EK_OK;
}

static ek_status ek_check_views(const ek_port *ports, uint32_t n_ports, const ek_view *views, size_t n)
{
    if (n != n_ports) return EK_COUNT;
    if (n && !views) return EK_NULL;
    for (uint32_t i = 0; i < n_ports; i++) {
        if (views[i].dtype != ports[i].dtype) return EK_DTYPE;
        if (views[i].bytes != ports[i].bytes) return EK_BYTES;
        if (!views[i].data && ports[i].bytes) return EK_NULL;
    }
    return EK_OK;
}

static void ek_copy_in(const ek_entry *e, unsigned char *arena, const ek_view *in)
{
    for (uint32_t i = 0; i < e->n_in; i++) ek_copy(arena + e->in[i].offset, in[i].data, e->in[i].bytes);
}

typedef struct ek_share {
    const ek_model *m;
    const ek_step *step;
} ek_share;

static void ek_run_share(void *arg, int32_t begin, int32_t end)
{
    const ek_share *s = (const ek_share *)arg;
    if (begin < 0) begin = 0;
    if (end > s->step->units) end = s->step->units;
    if (begin < end) s->step->call(s->m->private_.weights, s->m->private_.arena, begin, end);
}

/* A step in one thread. Engines for WebAssembly optimise a function between its calls, never in the midst of one: in a few
 * calls a step is fast before its first run is over. */
static void ek_run_alone(const ek_model *m, const ek_step *step)
{
#ifdef __wasm__
    const int32_t calls = step->parallel && step->units >= 8 ? 8 : 1;
#else
    const int32_t calls = 1;
#endif
    int32_t begin = 0;
    for (int32_t k = 1; k <= calls; k++) {
        const int32_t end = (int32_t)((int64_t)step->units * k / calls);
        step->call(m->private_.weights, m->private_.arena, begin, end);
        begin = end;
    }
}

/* Steps [from, to) of an entry. */
static void ek_walk(const ek_program *g, const ek_model *m, uint32_t entry, uint32_t from, uint32_t to)
{
    const ek_step *steps = g->levels[m->private_.level].steps[entry];
    for (const ek_step *step = steps + from; step != steps + to; step++) {
        if (step->parallel && m->private_.threads.parallel_for) {
            ek_share share;
            share.m = m;
            share.step = step;
            m->private_.threads.parallel_for(m->private_.threads.ctx, ek_run_share, &share, step->units);
        } else {
            ek_run_alone(m, step);
        }
    }
}

static ek_status ek_run(const ek_program *g, ek_model *m, uint32_t entry, const ek_view *in, size_t n_in,
                        const ek_view *out, size_t n_out)
{
    const ek_entry *e = &g->entries[entry];
    unsigned char *arena;
    ek_status status = ek_check(g, m);
    if (status == EK_OK) status = ek_check_views(e->in, e->n_in, in, n_in);
    if (status == EK_OK) status = ek_check_views(e->out, e->n_out, out, n_out);
    if (status != EK_OK) return status;
    status = ek_enter(g, m);
    if (status != EK_OK) return status;
    arena = m->private_.arena;
    ek_copy_in(e, arena, in);
    ek_walk(g, m, entry, 0, e->n_steps);
    for (uint32_t i = 0; i < e->n_out; i++) ek_copy(out[i].data, arena + e->out[i].offset, e->out[i].bytes);
    for (uint32_t i = 0; i < e->n_updates; i++)
        ek_copy(arena + e->updates[i].to, arena + e->updates[i].from, e->updates[i].bytes);
    ek_leave(m);
    return EK_OK;
}

static ek_status ek_load(const ek_program *g, ek_model *m, uint32_t entry, const ek_view *in, size_t n_in)
{
    ek_status status = ek_check(g, m);
    if (status == EK_OK && entry >= g->n_entries) status = EK_RANGE;
    if (status == EK_OK) status = ek_check_views(g->entries[entry].in, g->entries[entry].n_in, in, n_in);
    if (status != EK_OK) return status;
    status = ek_enter(g, m);
    if (status != EK_OK) return status;
    ek_copy_in(&g->entries[entry], m->private_.arena, in);
    ek_leave(m);
    return EK_OK;
}

static ek_status ek_steps(const ek_program *g, ek_model *m, uint32_t entry, uint32_t from, uint32_t to)
{
    ek_status status = ek_check(g, m);
    if (status != EK_OK) return status;
    if (entry >= g->n_entries || from > to || to > g->entries[entry].n_steps) return EK_RANGE;
    status = ek_enter(g, m);
    if (status != EK_OK) return status;
    ek_walk(g, m, entry, from, to);
    ek_leave(m);
    return EK_OK;
}

static ek_status ek_set_level(const ek_program *g, ek_model *m, uint32_t level)
{
    ek_status status = ek_check(g, m);
    if (status != EK_OK) return status;
    if (level >= g->n_levels) return EK_RANGE;
    if (!ek_cpu_fits(&g->levels[level])) return EK_CPU;
    status = ek_enter(g, m);
    if (status != EK_OK) return status;
    m->private_.level = level;
    ek_leave(m);
    return EK_OK;
}

static ek_status ek_reset(const ek_program *g, ek_model *m)
{
    ek_status status = ek_enter(g, m);
    if (status != EK_OK) return status;
    for (uint32_t i = 0; i < g->n_states; i++)
        __builtin_memset(m->private_.arena + g->states[i].offset, 0, g->states[i].bytes);
    ek_leave(m);
    return EK_OK;
}

static ek_status ek_save(const ek_program *g, ek_model *m, void *state, size_t bytes)
{
    unsigned char *head = (unsigned char *)state, *p;
    ek_status status = ek_check(g, m);
    if (status != EK_OK) return status;
    if (!state) return EK_NULL;
    if (bytes < EK_STATE_HEADER + g->state_bytes) return EK_BYTES;
    p = head + EK_STATE_HEADER;
    status = ek_enter(g, m);
    if (status != EK_OK) return status;
    for (uint32_t i = 0; i < g->n_states; p += g->states[i++].bytes)
        ek_copy(p, m->private_.arena + g->states[i].offset, g->states[i].bytes);
    ek_leave(m);
    ek_put(head, EK_STATE_WORD, 8);
    ek_put(head + 8, g->id, 8);
    ek_put(head + 16, g->state_bytes, 8);
    ek_put(head + 24, EK_FORMAT, 4);
    ek_put(head + 28, ek_crc32c(head + EK_STATE_HEADER, g->state_bytes), 4);
    return EK_OK;
}

static ek_status ek_restore(const ek_program *g, ek_model *m, const void *state, size_t bytes)
{
    const unsigned char *head = (const unsigned char *)state, *p;
    ek_status status = ek_check(g, m);
    if (status != EK_OK) return status;
    if (!state) return EK_NULL;
    if (bytes < EK_STATE_HEADER + g->state_bytes) return EK_BYTES;
    p = head + EK_STATE_HEADER;
    if (ek_get(head, 8) != EK_STATE_WORD || ek_get(head + 8, 8) != g->id || ek_get(head + 16, 8) != g->state_bytes ||
        ek_get(head + 24, 4) != EK_FORMAT || ek_get(head + 28, 4) != ek_crc32c(p, g->state_bytes))
        return EK_STATE;
    status = ek_enter(g, m);
    if (status != EK_OK) return status;
    for (uint32_t i = 0; i < g->n_states; p += g->states[i++].bytes)
        ek_copy(m->private_.arena + g->states[i].offset, p, g->states[i].bytes);
    ek_leave(m);
    return EK_OK;
}

#endif
