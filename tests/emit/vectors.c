/* Runs exported models, all linked into this program, on the vectors of their bundles. models.h is written by
 * test_exported.py: the ports of every model. Arguments: for each model, weights.bin and its vectors: the cases one
 * after another, each the inputs and then the expected outputs. Exit code 0: all within 1e-4 of the largest value. */
#define _POSIX_C_SOURCE 200809L

#include "models.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { PORTS = 32 };

static void *take(FILE *f, size_t bytes)
{
    void *p = malloc(bytes);
    if (!p || fread(p, 1, bytes, f) != bytes) exit(3);
    return p;
}

static void *aligned(size_t bytes)
{
    void *p = NULL;
    if (posix_memalign(&p, EK_ALIGN, bytes)) exit(3);
    return p;
}

static int close_enough(const float *a, const float *b, size_t n)
{
    float error = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        if (!(fabsf(a[i] - b[i]) <= error)) error = fabsf(a[i] - b[i]); /* a NaN shows */
        if (fabsf(b[i]) > largest) largest = fabsf(b[i]);
    }
    return error <= 1e-4f * largest;
}

#define CHECK(name, NAME)                                                                                              \
    static int check_##name(const char *weights_path, const char *vectors_path)                                        \
    {                                                                                                                  \
        name *m = (name *)malloc(sizeof *m);                                                                           \
        FILE *f = fopen(weights_path, "rb"), *v = fopen(vectors_path, "rb");                                           \
        void *weights = aligned(NAME##_WEIGHTS_BYTES), *arena = aligned(NAME##_ARENA_BYTES);                           \
        ek_view in[PORTS], out[PORTS];                                                                                 \
        int c, cases = 0;                                                                                              \
        if (!m || !f || !v || fread(weights, 1, NAME##_WEIGHTS_BYTES, f) != NAME##_WEIGHTS_BYTES) return 3;            \
        if (name##_init(m, weights, NAME##_WEIGHTS_BYTES, arena, NAME##_ARENA_BYTES, NULL) != EK_OK) return 4;         \
        while ((c = fgetc(v)) != EOF) {                                                                                \
            ungetc(c, v);                                                                                              \
            for (size_t i = 0; i < name##_n_in; i++) {                                                                 \
                in[i] = name##_in[i];                                                                                  \
                in[i].data = take(v, in[i].bytes);                                                                     \
            }                                                                                                          \
            for (size_t i = 0; i < name##_n_out; i++) {                                                                \
                out[i] = name##_out[i];                                                                                \
                out[i].data = malloc(out[i].bytes);                                                                    \
            }                                                                                                          \
            if (name##_run(m, in, name##_n_in, out, name##_n_out) != EK_OK) return 5;                                  \
            for (size_t i = 0; i < name##_n_out; i++) {                                                                \
                float *expected = (float *)take(v, out[i].bytes);                                                      \
                if (!close_enough((float *)out[i].data, expected, out[i].bytes / sizeof(float))) return 6;             \
                free(expected);                                                                                        \
                free(out[i].data);                                                                                     \
            }                                                                                                          \
            for (size_t i = 0; i < name##_n_in; i++) free(in[i].data);                                                 \
            cases++;                                                                                                   \
        }                                                                                                              \
        fclose(f);                                                                                                     \
        fclose(v);                                                                                                     \
        free(weights);                                                                                                 \
        free(arena);                                                                                                   \
        free(m);                                                                                                       \
        return cases ? 0 : 7;                                                                                          \
    }

MODELS(CHECK)

#define CALL(name, NAME)                                                                                               \
    if (argc < at + 2) return 2;                                                                                       \
    code = check_##name(argv[at], argv[at + 1]);                                                                       \
    if (code) {                                                                                                        \
        fprintf(stderr, #name ": %d\n", code);                                                                         \
        return code;                                                                                                   \
    }                                                                                                                  \
    at += 2;

int main(int argc, char **argv)
{
    int at = 1, code;
    MODELS(CALL)
    return 0;
}
