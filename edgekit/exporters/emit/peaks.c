/* What one core can do at best: multiply-adds in registers, and reads of a buffer that is gone through again and again. */
typedef float vec __attribute__((vector_size(4 * LANES)));

#ifdef __wasm_relaxed_simd__
#define MULTIPLY_ADD(a, x, y) __builtin_wasm_relaxed_madd_f32x4(a, x, y)
#else
#define MULTIPLY_ADD(a, x, y) ((a) * (x) + (y)) /* one instruction where there is one: -ffp-contract=fast */
#endif

/* n rounds of CHAINS independent multiply-adds on vectors of LANES floats. */
float ek_peak_fma(int n, const float *from)
{
    vec a[CHAINS], x, y;
    for (int l = 0; l < LANES; l++)
        x[l] = from[0], y[l] = from[1];
    for (int k = 0; k < CHAINS; k++)
        a[k] = x + (float)k;
    for (int i = 0; i < n; i++) {
#pragma clang loop unroll(full)
        for (int k = 0; k < CHAINS; k++)
            a[k] = MULTIPLY_ADD(a[k], x, y);
    }
    for (int k = 1; k < CHAINS; k++)
        a[0] += a[k];
    return a[0][0] + a[0][LANES - 1];
}

/* Reads `blocks` times 8 vectors, `rounds` times. */
float ek_peak_read(int blocks, int rounds, const vec *from)
{
    vec sum[8] = {0};
    for (int r = 0; r < rounds; r++) {
        const vec *at = from;
        for (int b = 0; b < blocks; b++, at += 8) {
#pragma clang loop unroll(full)
            for (int k = 0; k < 8; k++)
                sum[k] += at[k];
        }
        __asm__ volatile("" ::: "memory"); /* every round reads */
    }
    for (int k = 1; k < 8; k++)
        sum[0] += sum[k];
    return sum[0][0] + sum[0][LANES - 1];
}
