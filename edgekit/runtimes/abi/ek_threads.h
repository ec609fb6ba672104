/* ek_threads.h - a small thread pool for edgekit models, to use as it is or to copy from. POSIX threads or Win32.
 *
 *     ek_threads *pool = ek_threads_create(4);
 *     NAME_init(&m, weights, NAME_WEIGHTS_BYTES, arena, NAME_ARENA_BYTES, ek_threads_parallel(pool));
 *     ...
 *     ek_threads_destroy(pool);       when no model uses it any more
 *
 * The models themselves never need it. Build src/ek_threads.c into the app (with -pthread where that is asked for). */
#ifndef EK_THREADS_H
#define EK_THREADS_H

#include "edgekit.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ek_threads ek_threads;

/* A pool in which `threads` threads work: the caller of a model and threads - 1 of the pool's own. NULL when threads is
 * less than 1 or more than 256, or when memory or threads cannot be had. */
EK_API ek_threads *ek_threads_create(int threads);

/* What init wants; valid until the pool is destroyed. NULL for NULL: one thread. */
EK_API const ek_parallel *ek_threads_parallel(const ek_threads *pool);

/* Ends the pool's threads and frees it. No model may be running on it. NULL is allowed. A pool does not survive
 * fork(). */
EK_API void ek_threads_destroy(ek_threads *pool);

/* One pool may serve several models. While it works for one of them, another one runs on its own thread alone. */

#ifdef __cplusplus
}
#endif
#endif
