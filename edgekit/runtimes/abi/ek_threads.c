/* See ek_threads.h. A job is one parallel_for; its units are handed out by an atomic counter, in chunks that shrink as
 * fewer are left (guided self-scheduling; Polychronopoulos and Kuck 1987), so slow and fast cores end together. Threads
 * look for the next job for EK_SPIN_MICROSECONDS, for a model's layers follow closely, and then sleep: an inference
 * wakes them once.
 *
 * With EK_WORKERS the same for a WebAssembly module whose threads the page makes: each is a worker with an instance of
 * the module of its own, over one shared memory. */
#if !defined(_WIN32) && !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L /* clock_gettime under -std=c11 */
#endif

#if defined(EK_API)
#elif defined(_WIN32)
#define EK_API __declspec(dllexport)
#elif defined(__GNUC__)
#define EK_API __attribute__((visibility("default")))
#endif

#include "ek_threads.h"

#include <stdatomic.h>
#if !defined(EK_WORKERS)
#include <stdlib.h>
#endif

#if defined(EK_WORKERS)

typedef atomic_flag ek_lock; /* held for a few instructions; the thread of a page may not wait */
typedef atomic_int ek_signal;
typedef char ek_thread;
#define EK_THREAD_RESULT void *
static void ek_acquire(ek_lock *lock) { while (atomic_flag_test_and_set(lock)); }
static void ek_give_up(ek_lock *lock) { atomic_flag_clear(lock); }
static void ek_wait(ek_signal *wake, ek_lock *lock)
{
    int seen = atomic_load(wake);
    ek_give_up(lock);
    __builtin_wasm_memory_atomic_wait32((int *)wake, seen, -1);
    ek_acquire(lock);
}
static void ek_wake_all(ek_signal *wake)
{
    atomic_fetch_add(wake, 1);
    __builtin_wasm_memory_atomic_notify((int *)wake, ~0u);
}
static void ek_yield(void) {}

#elif defined(_WIN32)

#include <windows.h>

typedef SRWLOCK ek_lock;
typedef CONDITION_VARIABLE ek_signal;
typedef HANDLE ek_thread;
#define EK_THREAD_RESULT DWORD WINAPI
static void ek_prepare(ek_lock *lock, ek_signal *wake)
{
    InitializeSRWLock(lock);
    InitializeConditionVariable(wake);
}
static void ek_release(ek_lock *lock, ek_signal *wake) { (void)lock, (void)wake; }
static void ek_acquire(ek_lock *lock) { AcquireSRWLockExclusive(lock); }
static void ek_give_up(ek_lock *lock) { ReleaseSRWLockExclusive(lock); }
static void ek_wait(ek_signal *wake, ek_lock *lock) { SleepConditionVariableSRW(wake, lock, INFINITE, 0); }
static void ek_wake_all(ek_signal *wake) { WakeAllConditionVariable(wake); }
static int ek_start(ek_thread *thread, DWORD(WINAPI *f)(void *), void *arg)
{
    *thread = CreateThread(NULL, 0, f, arg, 0, NULL);
    return *thread != NULL;
}
static void ek_join(ek_thread thread)
{
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
}
static void ek_yield(void) { SwitchToThread(); }
static uint64_t ek_microseconds(void)
{
    LARGE_INTEGER now, second;
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&second);
    return (uint64_t)((double)now.QuadPart * 1e6 / (double)second.QuadPart);
}

#else

#include <pthread.h>
#include <sched.h>
#include <time.h>

typedef pthread_mutex_t ek_lock;
typedef pthread_cond_t ek_signal;
typedef pthread_t ek_thread;
#define EK_THREAD_RESULT void *
static void ek_prepare(ek_lock *lock, ek_signal *wake)
{
    pthread_mutex_init(lock, NULL);
    pthread_cond_init(wake, NULL);
}
static void ek_release(ek_lock *lock, ek_signal *wake)
{
    pthread_mutex_destroy(lock);
    pthread_cond_destroy(wake);
}
static void ek_acquire(ek_lock *lock) { pthread_mutex_lock(lock); }
static void ek_give_up(ek_lock *lock) { pthread_mutex_unlock(lock); }
static void ek_wait(ek_signal *wake, ek_lock *lock) { pthread_cond_wait(wake, lock); }
static void ek_wake_all(ek_signal *wake) { pthread_cond_broadcast(wake); }
static int ek_start(ek_thread *thread, void *(*f)(void *), void *arg)
{
    return pthread_create(thread, NULL, f, arg) == 0;
}
static void ek_join(ek_thread thread) { pthread_join(thread, NULL); }
static void ek_yield(void) { sched_yield(); }
static uint64_t ek_microseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

#endif

/* A chunk is 1 / (EK_CHUNKS * threads) of the units left, so that a core of a quarter of the speed holds nobody up. */
enum { EK_SPIN_MICROSECONDS = 100, EK_LOOKS = 64, EK_CHUNKS = 4 };

/* The job at work is one word, number << 32 | first unit not handed out, so that a chunk is claimed by one exchange
 * that fails if the job has changed. While the low half is EK_CLOSED nobody looks at task, arg and units. The
 * caller waits for units, not for threads: one that sleeps through a job delays nothing. */
#define EK_CLOSED 0xffffffffu

struct ek_threads {
    ek_parallel parallel;
    int threads;
    ek_lock lock;
    ek_signal wake;
    atomic_flag taken;          /* a parallel_for is at work */
    atomic_int end;
    atomic_int sleepers;        /* threads that want the signal */
    _Atomic uint64_t job;
    atomic_int left;            /* units not yet done */
    _Atomic(ek_task) task;
    _Atomic(void *) arg;
    atomic_int units;
    ek_thread handle[1];        /* threads - 1 */
};

static void ek_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Does chunks of the present job until none is left. */
static void ek_work(ek_threads *pool)
{
    uint64_t job = atomic_load(&pool->job);
    for (;;) {
        uint32_t begin = (uint32_t)job;
        if (begin == EK_CLOSED) return;
        int32_t units = pool->units;
        ek_task task = pool->task;
        void *arg = pool->arg;
        if (begin >= (uint32_t)units) return;
        int32_t chunk = (units - (int32_t)begin) / (pool->threads * EK_CHUNKS);
        int32_t end = (int32_t)begin + (chunk ? chunk : 1);
        if (atomic_compare_exchange_weak(&pool->job, &job, (job & ~(uint64_t)EK_CLOSED) | (uint32_t)end)) {
            task(arg, (int32_t)begin, end);
            atomic_fetch_sub(&pool->left, end - (int32_t)begin);
            job = atomic_load(&pool->job);
        }
    }
}

static int ek_idle(ek_threads *pool, uint32_t seen)
{
    return (uint32_t)(atomic_load(&pool->job) >> 32) == seen && !atomic_load(&pool->end);
}

/* 0 when the wait was worth its while: there is something to do. */
static int ek_spin(ek_threads *pool, uint32_t seen)
{
#if defined(EK_WORKERS) /* there is no clock; a round takes about a tenth of a microsecond */
    for (int rounds = 10 * EK_SPIN_MICROSECONDS; rounds; rounds--)
#else
    for (uint64_t end = ek_microseconds() + EK_SPIN_MICROSECONDS; ek_microseconds() < end;)
#endif
        for (int looks = EK_LOOKS; looks; looks--) {
            if (!ek_idle(pool, seen)) return 0;
            ek_pause();
        }
    return 1;
}

static void ek_sleep(ek_threads *pool, uint32_t seen)
{
    ek_acquire(&pool->lock);
    atomic_fetch_add(&pool->sleepers, 1); /* before the look that decides: ek_wake looks after it has set the job */
    while (ek_idle(pool, seen)) ek_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    ek_give_up(&pool->lock);
}

static void ek_wake(ek_threads *pool)
{
    if (!atomic_load(&pool->sleepers)) return;
    ek_acquire(&pool->lock);
    ek_wake_all(&pool->wake);
    ek_give_up(&pool->lock);
}

static EK_THREAD_RESULT ek_loop(void *arg)
{
    ek_threads *pool = (ek_threads *)arg;
    uint32_t seen = 0;
    while (!atomic_load(&pool->end)) {
        if (ek_spin(pool, seen)) ek_sleep(pool, seen);
        seen = (uint32_t)(atomic_load(&pool->job) >> 32);
        ek_work(pool);
    }
    return 0;
}

static void ek_parallel_for(void *ctx, ek_task task, void *arg, int32_t units)
{
    ek_threads *pool = (ek_threads *)ctx;
    if (units < 2 || pool->threads < 2 || atomic_flag_test_and_set(&pool->taken)) {
        task(arg, 0, units);
        return;
    }
    uint64_t number = (atomic_load(&pool->job) >> 32) + 1;
    pool->task = task;
    pool->arg = arg;
    pool->units = units;
    pool->left = units;
    atomic_store(&pool->job, number << 32);
    ek_wake(pool);
    ek_work(pool);
    for (unsigned looks = 0; atomic_load(&pool->left); looks++) {
        ek_pause();
        if (looks >= EK_LOOKS) ek_yield(); /* it may be this very core that the last chunk waits for */
    }
    atomic_store(&pool->job, number << 32 | EK_CLOSED);
    atomic_flag_clear(&pool->taken);
}

#if defined(EK_WORKERS)

_Static_assert(sizeof(ek_threads) <= 128, "what the page reserves");

/* A pool of the caller and threads - 1 workers in 128 zeroed bytes at `pool`, for init. */
const ek_parallel *EK_WORKERS_POOL(ek_threads *pool, int threads);
const ek_parallel *EK_WORKERS_POOL(ek_threads *pool, int threads)
{
    pool->parallel.parallel_for = ek_parallel_for;
    pool->parallel.ctx = pool;
    pool->job = EK_CLOSED;
    pool->threads = threads;
    return &pool->parallel;
}

/* What a worker does, until the page ends it. */
void EK_WORKERS_WORK(ek_threads *pool);
void EK_WORKERS_WORK(ek_threads *pool) { ek_loop(pool); }

#else

ek_threads *ek_threads_create(int threads)
{
    ek_threads *pool;
    if (threads < 1 || threads > 256) return NULL;
    pool = (ek_threads *)calloc(1, sizeof *pool + (size_t)threads * sizeof(ek_thread));
    if (!pool) return NULL;
    pool->parallel.parallel_for = ek_parallel_for;
    pool->parallel.ctx = pool;
    pool->job = EK_CLOSED;
    atomic_flag_clear(&pool->taken);
    ek_prepare(&pool->lock, &pool->wake);
    for (pool->threads = 1; pool->threads < threads; pool->threads++)
        if (!ek_start(&pool->handle[pool->threads - 1], ek_loop, pool)) {
            ek_threads_destroy(pool);
            return NULL;
        }
    return pool;
}

const ek_parallel *ek_threads_parallel(const ek_threads *pool) { return pool ? &pool->parallel : NULL; }

void ek_threads_destroy(ek_threads *pool)
{
    if (!pool) return;
    atomic_store(&pool->end, 1);
    ek_wake(pool);
    for (int k = 1; k < pool->threads; k++) ek_join(pool->handle[k - 1]);
    ek_release(&pool->lock, &pool->wake);
    free(pool);
}

#endif
