/* Links two models (tiny.py), uses them as an app would, then as an app should not. Exit code 0: all as promised.
 * C99 and C++, nothing but libc and threads. Arguments: weights.bin of tiny, weights.bin of other. */
#define _POSIX_C_SOURCE 200809L

#include "ek_threads.h"
#include "other.h"
#include "tiny.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WANT(status, call)                                                                                             \
    do {                                                                                                               \
        ek_status got_ = (call);                                                                                       \
        if (got_ != (status)) {                                                                                        \
            fprintf(stderr, "line %d: %s, not %s\n", __LINE__, ek_status_string(got_), ek_status_string(status));      \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

#define TRUE_(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x)) {                                                                                                    \
            fprintf(stderr, "line %d: not %s\n", __LINE__, #x);                                                        \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

enum { WIDE = 64 * 256 };

static void *aligned(size_t bytes)
{
    void *p = NULL;
    TRUE_(posix_memalign(&p, EK_ALIGN, bytes) == 0);
    return p;
}

static void *file(const char *path, size_t bytes)
{
    FILE *f = fopen(path, "rb");
    void *p = aligned(bytes);
    TRUE_(f && fread(p, 1, bytes, f) == bytes && fgetc(f) == EOF);
    fclose(f);
    return p;
}

static ek_view view(void *data, size_t bytes, ek_dtype dtype)
{
    ek_view v;
    v.data = data;
    v.bytes = bytes;
    v.dtype = dtype;
    return v;
}

/* --- an app that behaves */

static void two_models(const void *weights, const void *others)
{
    tiny m;
    other o;
    void *arena = aligned(TINY_ARENA_BYTES), *place = aligned(OTHER_ARENA_BYTES);
    float x[4] = {1, 10, 100, 1000}, y[4], z[4];
    const uint8_t flag[2] = {1, 0};
    int64_t count = 5, total = 0;
    uint8_t flags[2] = {9, 9};
    WANT(EK_OK, tiny_init(&m, weights, TINY_WEIGHTS_BYTES, arena, TINY_ARENA_BYTES, NULL));
    WANT(EK_OK, other_init(&o, others, OTHER_WEIGHTS_BYTES, place, OTHER_ARENA_BYTES, NULL));
    for (int k = 1; k <= 3; k++) {
        WANT(EK_OK, tiny_predict(&m, x, &count, flag, y, &total, flags));
        TRUE_(total == 5 * k && flags[0] == 1 && flags[1] == 0);
        for (int i = 0; i < 4; i++) TRUE_(y[i] == (float)(k * (i + 1)) * x[i]);
    }
    WANT(EK_OK, other_predict_in(&o, x, y));
    WANT(EK_OK, tiny_predict_in(&m, x, z));
    for (int i = 0; i < 4; i++) TRUE_(y[i] == 10 * z[i] && z[i] == (float)(i + 1) * x[i]);
    WANT(EK_OK, tiny_predict_in(&m, x, x)); /* an output may be the memory of an input */
    TRUE_(memcmp(x, z, sizeof x) == 0);
    free(arena);
    free(place);
}

static void state(const void *weights)
{
    tiny m, n;
    void *arena = aligned(TINY_ARENA_BYTES), *place = aligned(TINY_ARENA_BYTES);
    const float x[4] = {1, 1, 1, 1};
    float y[4];
    const uint8_t flag[2] = {0, 0};
    const int64_t one = 1;
    int64_t total;
    uint8_t flags[2], saved[TINY_STATE_BYTES + 1], *odd = saved + 1; /* a state may lie anywhere */
    WANT(EK_OK, tiny_init(&m, weights, TINY_WEIGHTS_BYTES, arena, TINY_ARENA_BYTES, NULL));
    WANT(EK_OK, tiny_init(&n, weights, TINY_WEIGHTS_BYTES, place, TINY_ARENA_BYTES, NULL));
    WANT(EK_OK, tiny_predict(&m, x, &one, flag, y, &total, flags));
    WANT(EK_OK, tiny_predict(&m, x, &one, flag, y, &total, flags));
    WANT(EK_OK, tiny_save(&m, odd, TINY_STATE_BYTES));
    WANT(EK_OK, tiny_predict(&m, x, &one, flag, y, &total, flags));
    TRUE_(total == 3 && y[0] == 3);
    WANT(EK_OK, tiny_restore(&n, odd, TINY_STATE_BYTES)); /* into another instance */
    WANT(EK_OK, tiny_predict(&n, x, &one, flag, y, &total, flags));
    TRUE_(total == 3 && y[0] == 3);
    WANT(EK_OK, tiny_reset(&n));
    WANT(EK_OK, tiny_predict(&n, x, &one, flag, y, &total, flags));
    TRUE_(total == 1 && y[0] == 1);
    for (size_t i = 0; i < TINY_STATE_BYTES; i++) { /* a changed byte anywhere; the state stays as it was */
        odd[i] ^= 0x40;
        WANT(EK_STATE, tiny_restore(&m, odd, TINY_STATE_BYTES));
        odd[i] ^= 0x40;
    }
    WANT(EK_BYTES, tiny_save(&m, odd, TINY_STATE_BYTES - 1));
    WANT(EK_BYTES, tiny_restore(&m, odd, TINY_STATE_BYTES - 1));
    WANT(EK_NULL, tiny_save(&m, NULL, TINY_STATE_BYTES));
    WANT(EK_NULL, tiny_restore(&m, NULL, TINY_STATE_BYTES));
    WANT(EK_OK, tiny_predict(&m, x, &one, flag, y, &total, flags));
    TRUE_(total == 4);
    free(arena);
    free(place);
}

static void steps(const void *weights)
{
    tiny m;
    void *arena = aligned(TINY_ARENA_BYTES);
    float x[4] = {1, 2, 3, 4}, y[4];
    uint8_t flag[2] = {0, 1}, flags[2];
    int64_t count = 7, total;
    ek_view in[3];
    in[0] = view(x, 16, EK_FLOAT32);
    in[1] = view(&count, 8, EK_INT64);
    in[2] = view(flag, 2, EK_BOOL);
    WANT(EK_OK, tiny_init(&m, weights, TINY_WEIGHTS_BYTES, arena, TINY_ARENA_BYTES, NULL));
    WANT(EK_OK, tiny_load(&m, 0, in, 3));
    for (uint32_t k = 0; k < 4; k++) WANT(EK_OK, tiny_steps(&m, 0, k, k + 1));
    WANT(EK_OK, tiny_steps(&m, 0, 4, 4));
    WANT(EK_OK, tiny_predict(&m, x, &count, flag, y, &total, flags)); /* the state has not advanced before */
    TRUE_(total == 7 && y[3] == 16);
    WANT(EK_RANGE, tiny_steps(&m, 0, 0, 5));
    WANT(EK_RANGE, tiny_steps(&m, 0, 3, 2));
    WANT(EK_RANGE, tiny_steps(&m, 0, ~0u, 0));
    WANT(EK_RANGE, tiny_steps(&m, 3, 0, 0));
    WANT(EK_RANGE, tiny_load(&m, 3, in, 3));
    WANT(EK_COUNT, tiny_load(&m, 1, in, 3));
    free(arena);
}

/* --- threads */

static float wide_in[WIDE], wide_out[WIDE];

static void wide_is_right(void)
{
    for (int i = 0; i < WIDE; i++) TRUE_(wide_out[i] == (float)(i % 4 + 1) * wide_in[i]);
}

/* Cuts the work badly: backwards, single units, ranges beyond the end. */
static void backwards(void *ctx, ek_task task, void *arg, int32_t units)
{
    ++*(int *)ctx;
    task(arg, units, units + 5);
    task(arg, -3, 0);
    for (int32_t i = units; i-- > 0;) task(arg, i, i + 1);
}

typedef struct {
    tiny *m;
    ek_status run, reset, init, save, steps;
} intruder;

static void *intrude(void *arg)
{
    intruder *i = (intruder *)arg;
    uint8_t saved[TINY_STATE_BYTES];
    i->run = tiny_predict_wide(i->m, wide_in, wide_out);
    i->reset = tiny_reset(i->m);
    i->save = tiny_save(i->m, saved, sizeof saved);
    i->steps = tiny_steps(i->m, 0, 0, 1);
    i->init = tiny_init(i->m, NULL, 0, NULL, 0, NULL);
    return NULL;
}

/* In the middle of a run, others call. */
static void meanwhile(void *ctx, ek_task task, void *arg, int32_t units)
{
    pthread_t thread;
    task(arg, 0, units / 2);
    intrude(ctx);
    TRUE_(((intruder *)ctx)->run == EK_BUSY); /* from this thread, and from another */
    TRUE_(pthread_create(&thread, NULL, intrude, ctx) == 0 && pthread_join(thread, NULL) == 0);
    task(arg, units / 2, units);
}

typedef struct {
    const void *weights;
    const ek_parallel *threads;
    float x[WIDE], y[WIDE];
} worker;

static void *work(void *arg)
{
    worker *w = (worker *)arg;
    tiny m;
    void *arena = aligned(TINY_ARENA_BYTES);
    WANT(EK_OK, tiny_init(&m, w->weights, TINY_WEIGHTS_BYTES, arena, TINY_ARENA_BYTES, w->threads));
    for (int k = 0; k < 200; k++) {
        for (int i = 0; i < WIDE; i += 97) w->x[i] = (float)(k + i);
        WANT(EK_OK, tiny_predict_wide(&m, w->x, w->y));
        for (int i = 0; i < WIDE; i += 97) TRUE_(w->y[i] == (float)(i % 4 + 1) * w->x[i]);
    }
    free(arena);
    return NULL;
}

enum { UNITS = 1000 };

typedef struct {
    const ek_parallel *pool;
    unsigned char done[UNITS];
    int inner;
} job;

/* Counts each unit, and uses the pool from inside it. */
static void count(void *arg, int32_t begin, int32_t end)
{
    job *j = (job *)arg;
    TRUE_(0 <= begin && begin < end && end <= UNITS);
    for (int32_t i = begin; i < end; i++) j->done[i]++;
    if (j->inner) {
        job nested;
        memset(&nested, 0, sizeof nested);
        j->pool->parallel_for(j->pool->ctx, count, &nested, 3);
        TRUE_(nested.done[0] == 1 && nested.done[1] == 1 && nested.done[2] == 1 && !nested.done[3]);
    }
}

/* Every unit once, whether the pool's threads are looking for work or asleep. */
static void pool_alone(void)
{
    const struct timespec nap = {0, 300000};
    for (int n = 1; n <= 4; n++) {
        ek_threads *pool = ek_threads_create(n);
        job j;
        TRUE_(pool);
        for (int32_t units = 1; units <= UNITS; units += 37) {
            memset(&j, 0, sizeof j);
            j.pool = ek_threads_parallel(pool);
            j.inner = units % 2;
            j.pool->parallel_for(j.pool->ctx, count, &j, units);
            for (int32_t i = 0; i < UNITS; i++) TRUE_(j.done[i] == (i < units));
            if (units % 3 == 0) nanosleep(&nap, NULL);
        }
        ek_threads_destroy(pool);
    }
}

static void threads(const void *weights)
{
    tiny m;
    void *arena = aligned(TINY_ARENA_BYTES);
    int calls = 0;
    ek_parallel bad = {backwards, &calls};
    intruder guest = {&m, EK_OK, EK_OK, EK_OK, EK_OK, EK_OK};
    ek_parallel guests = {meanwhile, &guest};
    ek_threads *pool;
    worker *workers;
    pthread_t thread[2];
    for (int i = 0; i < WIDE; i++) wide_in[i] = (float)i;

    WANT(EK_OK, tiny_init(&m, weights, TINY_WEIGHTS_BYTES, arena, TINY_ARENA_BYTES, &bad));
    WANT(EK_OK, tiny_predict_wide(&m, wide_in, wide_out));
    wide_is_right();
    WANT(EK_OK, tiny_predict_in(&m, wide_in, wide_out)); /* too small to be cut */
    TRUE_(calls == 1);

    memset(wide_out, 0, sizeof wide_out);
    WANT(EK_OK, tiny_init(&m, weights, TINY_WEIGHTS_BYTES, arena, TINY_ARENA_BYTES, &guests));
    WANT(EK_OK, tiny_predict_wide(&m, wide_in, wide_out));
    wide_is_right();
    TRUE_(guest.run == EK_BUSY && guest.reset == EK_BUSY && guest.init == EK_BUSY);
    TRUE_(guest.save == EK_BUSY && guest.steps == EK_BUSY);
    guests.parallel_for = backwards; /* the instance has its own copy, and works on */
    WANT(EK_OK, tiny_predict_wide(&m, wide_in, wide_out));

    TRUE_(!ek_threads_create(0) && !ek_threads_create(257) && !ek_threads_parallel(NULL));
    ek_threads_destroy(NULL);
    for (int n = 1; n <= 4; n++) { /* two models of two threads share a pool */
        pool = ek_threads_create(n);
        workers = (worker *)calloc(2, sizeof *workers);
        TRUE_(pool && workers);
        for (int k = 0; k < 2; k++) {
            workers[k].weights = weights;
            workers[k].threads = ek_threads_parallel(pool);
            TRUE_(pthread_create(&thread[k], NULL, work, &workers[k]) == 0);
        }
        for (int k = 0; k < 2; k++) TRUE_(pthread_join(thread[k], NULL) == 0);
        ek_threads_destroy(pool);
        free(workers);
    }
    free(arena);
}

/* --- an app that does not behave */

static void bad_init(const uint8_t *weights, const void *others)
{
    tiny m, copy;
    other stranger;
    uint8_t *arena = (uint8_t *)aligned(TINY_ARENA_BYTES + 64), *w = (uint8_t *)aligned(TINY_WEIGHTS_BYTES + 64);
    ek_parallel none = {NULL, NULL};
    const size_t n = TINY_WEIGHTS_BYTES, a = TINY_ARENA_BYTES;
    float x[4] = {1, 2, 3, 4}, y[4] = {0, 0, 0, 0};
    memcpy(w, weights, n);

    WANT(EK_NULL, tiny_init(NULL, w, n, arena, a, NULL));
    WANT(EK_NULL, tiny_predict_in(NULL, x, y));
    WANT(EK_NULL, tiny_reset(NULL));
    for (int fill = 0; fill < 256; fill += 51) { /* never initialised: zeros, ones, patterns */
        memset(&m, fill, sizeof m);
        WANT(EK_NOT_INITIALIZED, tiny_predict_in(&m, x, y));
        WANT(EK_NOT_INITIALIZED, tiny_reset(&m));
        WANT(EK_NOT_INITIALIZED, tiny_save(&m, arena, TINY_STATE_BYTES));
        WANT(EK_NOT_INITIALIZED, tiny_restore(&m, arena, TINY_STATE_BYTES));
        WANT(EK_NOT_INITIALIZED, tiny_steps(&m, 0, 0, 0));
        WANT(EK_NOT_INITIALIZED, tiny_load(&m, 0, NULL, 0));
    }
    WANT(EK_OK, tiny_init(&m, w, n, arena, a, NULL));
    memcpy(&copy, &m, sizeof m);
    memcpy(&stranger, &m, sizeof m);
    WANT(EK_NOT_INITIALIZED, tiny_predict_in(&copy, x, y));
    WANT(EK_NOT_INITIALIZED, other_predict_in(&stranger, x, y));
    WANT(EK_NOT_INITIALIZED, other_reset((other *)(void *)&m));
    WANT(EK_OK, tiny_predict_in(&m, x, y));

    WANT(EK_NULL, tiny_init(&m, NULL, n, arena, a, NULL));
    WANT(EK_NOT_INITIALIZED, tiny_predict_in(&m, x, y)); /* after an error it is no instance any more */
    WANT(EK_NULL, tiny_init(&m, w, n, NULL, a, NULL));
    WANT(EK_NULL, tiny_init(&m, w, n, arena, a, &none));
    WANT(EK_ARENA_SIZE, tiny_init(&m, w, n, arena, a - 1, NULL));
    WANT(EK_ARENA_SIZE, tiny_init(&m, w, n, arena, 0, NULL));
    for (int shift = 1; shift < 64; shift *= 2) {
        WANT(EK_ALIGNMENT, tiny_init(&m, w, n, arena + shift, a, NULL));
        memmove(w + shift, weights, n);
        WANT(EK_ALIGNMENT, tiny_init(&m, w + shift, n, arena, a, NULL));
    }
    memcpy(w, weights, n);
    WANT(EK_WEIGHTS_MODEL, tiny_init(&m, others, n, arena, a, NULL));
    WANT(EK_WEIGHTS_MAGIC, tiny_init(&m, arena, n, arena, a, NULL));
    for (size_t k = 0; k < n; k++) WANT(EK_WEIGHTS_SIZE, tiny_init(&m, w, k, arena, a, NULL));
    WANT(EK_WEIGHTS_SIZE, tiny_init(&m, w, n + 1, arena, a, NULL));
    for (size_t k = 0; k < n; k++) { /* a changed bit anywhere */
        w[k] ^= (uint8_t)(1u << k % 8);
        WANT(k < 8 ? EK_WEIGHTS_MAGIC : k < 12 ? EK_WEIGHTS_VERSION : EK_WEIGHTS_CHECKSUM,
             tiny_init(&m, w, n, arena, a, NULL));
        w[k] ^= (uint8_t)(1u << k % 8);
    }
    WANT(EK_OK, tiny_init(&m, w, n, arena, a, NULL));
    WANT(EK_OK, tiny_init(&m, w, n, arena, a + 64, NULL)); /* again, and with more memory than it takes */
    memset((uint8_t *)&m + 8, 0x5a, sizeof m - 8); /* what an old instance leaves on the stack is not a busy one */
    WANT(EK_OK, tiny_init(&m, w, n, arena, a, NULL));
    WANT(EK_OK, tiny_predict_in(&m, x, y));
    free(arena);
    free(w);
}

static void bad_views(const void *weights)
{
    tiny m;
    void *arena = aligned(TINY_ARENA_BYTES);
    float x[4] = {1, 2, 3, 4}, y[4] = {0, 0, 0, 0};
    ek_view in, out;
    WANT(EK_OK, tiny_init(&m, weights, TINY_WEIGHTS_BYTES, arena, TINY_ARENA_BYTES, NULL));
    in = view(x, 16, EK_FLOAT32);
    out = view(y, 16, EK_FLOAT32);
    WANT(EK_COUNT, tiny_run_in(&m, &in, 0, &out, 1));
    WANT(EK_COUNT, tiny_run_in(&m, &in, 2, &out, 1));
    WANT(EK_COUNT, tiny_run_in(&m, &in, 1, &out, 0));
    WANT(EK_COUNT, tiny_run_in(&m, &in, 1, &out, ((size_t)0 - 1)));
    WANT(EK_NULL, tiny_run_in(&m, NULL, 1, &out, 1));
    WANT(EK_NULL, tiny_run_in(&m, &in, 1, NULL, 1));
    in.data = NULL;
    WANT(EK_NULL, tiny_run_in(&m, &in, 1, &out, 1));
    in = view(x, 15, EK_FLOAT32);
    WANT(EK_BYTES, tiny_run_in(&m, &in, 1, &out, 1));
    in = view(x, 17, EK_FLOAT32);
    WANT(EK_BYTES, tiny_run_in(&m, &in, 1, &out, 1));
    in = view(x, 16, EK_INT32);
    WANT(EK_DTYPE, tiny_run_in(&m, &in, 1, &out, 1));
    in = view(x, 16, EK_FLOAT32);
    out = view(NULL, 16, EK_FLOAT32);
    WANT(EK_NULL, tiny_run_in(&m, &in, 1, &out, 1));
    out = view(y, 0, EK_FLOAT32);
    WANT(EK_BYTES, tiny_run_in(&m, &in, 1, &out, 1));
    out = view(y, 16, EK_UINT32);
    WANT(EK_DTYPE, tiny_run_in(&m, &in, 1, &out, 1));
    TRUE_(y[0] == 0 && y[3] == 0); /* nothing was written */
    out = view(y, 16, EK_FLOAT32);
    WANT(EK_OK, tiny_run_in(&m, &in, 1, &out, 1));
    TRUE_(y[3] == 16);
    free(arena);
}

static void unaligned(const void *weights)
{
    tiny m;
    void *arena = aligned(TINY_ARENA_BYTES);
    uint8_t bytes[17], result[17];
    float x[4] = {1, 2, 3, 4};
    ek_view in, out;
    memcpy(bytes + 1, x, 16);
    in = view(bytes + 1, 16, EK_FLOAT32);
    out = view(result + 1, 16, EK_FLOAT32);
    WANT(EK_OK, tiny_init(&m, weights, TINY_WEIGHTS_BYTES, arena, TINY_ARENA_BYTES, NULL));
    WANT(EK_OK, tiny_run_in(&m, &in, 1, &out, 1));
    memcpy(x, result + 1, 16);
    TRUE_(x[0] == 1 && x[3] == 16);
    free(arena);
}

int main(int argc, char **argv)
{
    uint8_t *weights;
    void *others;
    if (argc != 3) return 2;
    TRUE_(sizeof(ek_model) == 128 && sizeof(tiny) == 128);
    TRUE_(strcmp(ek_status_string(EK_OK), "ok") == 0 && ek_status_string((ek_status)999)[0]);
    weights = (uint8_t *)file(argv[1], TINY_WEIGHTS_BYTES);
    others = file(argv[2], OTHER_WEIGHTS_BYTES);
    two_models(weights, others);
    state(weights);
    steps(weights);
    threads(weights);
    pool_alone();
    bad_init(weights, others);
    bad_views(weights);
    unaligned(weights);
    free(weights);
    free(others);
    return 0;
}
