/* edgekit.h - the C interface shared by every compiled model. C99 and C++. Of libc a library needs
 * memcpy, memset, memmove and memcmp at most.
 *
 * A model NAME is two files: a library (code) and weights.bin (numbers). NAME.h is generated beside this header and has
 *
 *   NAME_ARENA_BYTES    bytes of working memory that init wants
 *   NAME_WEIGHTS_BYTES  bytes of weights.bin
 *   NAME_STATE_BYTES    bytes that save writes and restore reads
 *   NAME                the instance; the caller owns it and its memory
 *
 *   ek_status NAME_init   (NAME *m, const void *weights, size_t weights_bytes, void *arena, size_t arena_bytes,
 *                          const ek_parallel *threads);
 *   ek_status NAME_run    (NAME *m, const ek_view *in, size_t n_in, const ek_view *out, size_t n_out);
 *   ek_status NAME_predict(NAME *m, const float x[..], float y[..]);       inline over run, with the model's own names
 *   ek_status NAME_reset  (NAME *m);
 *   ek_status NAME_save   (NAME *m, void *state, size_t bytes);
 *   ek_status NAME_restore(NAME *m, const void *state, size_t bytes);
 *   ek_status NAME_load   (NAME *m, uint32_t entry, const ek_view *in, size_t n_in);            for profilers
 *   ek_status NAME_steps  (NAME *m, uint32_t entry, uint32_t from, uint32_t to);                for profilers
 *   ek_status NAME_level  (NAME *m, uint32_t level);                                            for tests
 *
 * NAME_run and NAME_predict are the first entry; a further entry E has NAME_run_E and NAME_predict_E.
 *
 * init     Checks everything below, zeroes the arena, and makes the instance usable. weights and arena must be
 *          aligned to EK_ALIGN bytes, must not overlap, and must stay where they are, the weights unchanged, while
 *          the instance is used; they are never freed here. weights may be a read-only mapping and may be shared by
 *          any number of instances. *threads is copied; NULL: one thread. After an error the instance is not
 *          initialised. Calling init again is allowed and starts afresh; while a call is running in the instance it
 *          returns EK_BUSY (to start over after a call that never came back, zero the instance first). The instance
 *          may hold anything before init, which looks for such a call in it; a memory checker says so unless it is
 *          zeroed.
 * run      in and out are the inputs and outputs in the order of NAME.h: row-major, densely packed, in the byte order
 *          of the machine. Each view's bytes and dtype must be exactly those of the model. Data needs no alignment
 *          and is not kept. Inputs are copied in first and outputs written last, so an output may be the memory of an
 *          input; on any error no output is touched and no state changes. Recurrent state advances when run returns
 *          EK_OK.
 * reset    State as after init: all zeros.
 * save     Writes the state with a header and a checksum; bytes must be at least NAME_STATE_BYTES. A saved state fits
 *          the same model on every target of its bundle.
 * restore  Refuses, with EK_STATE, what save did not write for this very model; the state is then unchanged.
 * load     Copies inputs in, as run does, and stops there.
 * steps    Runs steps [from, to) of an entry on what lies in the arena: load, then steps 0..n one by one, is what run
 *          does without its outputs and without advancing the state.
 * level    init has chosen the best code that the library has for this processor: level 0, or the next that fits. This
 *          chooses another, so that every level can be tried on one machine: EK_CPU where the processor lacks something,
 *          EK_RANGE where there is no such level. Nothing else changes.
 *
 * Threads. One instance serves one call at a time: a second one, from any thread, gets EK_BUSY and changes nothing. Two
 * instances are independent. Nothing here blocks, allocates, reads files or uses global variables. Calls are not for
 * signal handlers that interrupt a call of the same instance (they get EK_BUSY).
 *
 * An instance that was never initialised, or was copied or moved, or belongs to another model, is noticed
 * (EK_NOT_INITIALIZED), by a 64-bit word that holds the model and the instance's own address.
 *
 * Not promised: that data of a view which lies in the arena, the weights or the instance is noticed; that a pointer
 * is noticed which is neither NULL nor valid memory of the size given with it; that damage to weights, arena or
 * instance after init is noticed; that a bool input holding other bytes than 0 and 1 means anything; that results are
 * the same to the last bit on different targets. EK_WEIGHTS_CHECKSUM is about accidents, not attackers: weights.bin
 * deserves the same trust as code.
 */
#ifndef EDGEKIT_H
#define EDGEKIT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EK_ABI_VERSION 1u /* of this header: raised when old programs would break */
#define EK_ALIGN 64u      /* bytes: of arena and weights */

/* X(name, value, text). Values are forever; new ones are added at the end. */
#define EK_STATUS_LIST(X)                                                                                              \
    X(EK_OK, 0, "ok")                                                                                                  \
    X(EK_NULL, 1, "a required pointer is null")                                                                        \
    X(EK_NOT_INITIALIZED, 2, "the instance is not initialised, was copied, or is another model's")                     \
    X(EK_BUSY, 3, "another call is running in this instance")                                                          \
    X(EK_COUNT, 4, "wrong number of inputs or outputs")                                                                \
    X(EK_BYTES, 5, "a buffer has the wrong number of bytes")                                                           \
    X(EK_DTYPE, 6, "an input or output has the wrong dtype")                                                           \
    X(EK_ALIGNMENT, 7, "arena or weights are not 64-byte aligned")                                                     \
    X(EK_ARENA_SIZE, 8, "the arena is smaller than NAME_ARENA_BYTES")                                                  \
    X(EK_WEIGHTS_SIZE, 9, "the weights have the wrong number of bytes: truncated?")                                    \
    X(EK_WEIGHTS_MAGIC, 10, "this is not an edgekit weight file")                                                      \
    X(EK_WEIGHTS_VERSION, 11, "the weight file has another format version")                                            \
    X(EK_WEIGHTS_MODEL, 12, "the weights belong to another model or another export")                                   \
    X(EK_WEIGHTS_CHECKSUM, 13, "the weights are damaged")                                                              \
    X(EK_CPU, 14, "this processor lacks an instruction set that the library was compiled for")                         \
    X(EK_STATE, 15, "the saved state is damaged or belongs to another model")                                          \
    X(EK_RANGE, 16, "there is no such entry, step or level")

typedef enum ek_status {
#define EK_STATUS_ENUM(name, value, text) name = value,
    EK_STATUS_LIST(EK_STATUS_ENUM)
#undef EK_STATUS_ENUM
    EK_STATUS_FORCE_INT = 0x7fffffff /* four bytes under -fshort-enums too */
} ek_status;

/* English, never NULL. */
static inline const char *ek_status_string(ek_status status)
{
#define EK_STATUS_TEXT(name, value, text)                                                                              \
    if (status == name) return text;
    EK_STATUS_LIST(EK_STATUS_TEXT)
#undef EK_STATUS_TEXT
    return "unknown status";
}

/* Element types; the values are those of ONNX's TensorProto.DataType. Halves are passed as uint16_t, bools as
 * uint8_t. */
typedef enum ek_dtype {
    EK_FLOAT32 = 1,
    EK_UINT8 = 2,
    EK_INT8 = 3,
    EK_UINT16 = 4,
    EK_INT16 = 5,
    EK_INT32 = 6,
    EK_INT64 = 7,
    EK_BOOL = 9,
    EK_FLOAT16 = 10,
    EK_FLOAT64 = 11,
    EK_UINT32 = 12,
    EK_UINT64 = 13,
    EK_BFLOAT16 = 16,
    EK_DTYPE_FORCE_INT = 0x7fffffff
} ek_dtype;

/* One input or output. Inputs are only read. */
typedef struct ek_view {
    void *data;
    size_t bytes;
    ek_dtype dtype;
} ek_view;

/* A share of parallel work: units [begin, end). */
typedef void (*ek_task)(void *arg, int32_t begin, int32_t end);

/* How a model reaches the app's threads. parallel_for calls task(arg, begin, end), on any threads and in any order, so
 * that the ranges cover [0, units) once each, and returns when all calls have returned; what they wrote is then visible
 * to the caller. It must not fail: with no thread to spare it calls task(arg, 0, units) itself. Both it and ctx must
 * outlive the instance. Results do not depend on how the work is cut. ek_threads.h has a pool to use or to copy. */
typedef struct ek_parallel {
    void (*parallel_for)(void *ctx, ek_task task, void *arg, int32_t units);
    void *ctx;
} ek_parallel;

/* What every instance holds. The size, 128 bytes aligned as uint64_t, is part of the ABI; the rest is private. */
typedef union ek_model {
    struct {
        uint64_t tag;
        const unsigned char *weights;
        unsigned char *arena;
        ek_parallel threads;
        uint32_t busy;
        uint32_t level;
    } private_;
    uint64_t reserved_[16];
} ek_model;

#ifndef EK_API
#define EK_API
#endif

#ifdef __cplusplus
}
#endif
#endif
