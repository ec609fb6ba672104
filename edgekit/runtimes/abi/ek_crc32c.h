/* CRC-32C (Castagnoli; RFC 3720 appendix B.4: reflected 0x82f63b78, initial and final complement).
 *
 * By instruction where there is one: SSE4.2 is asked for at run time, ARMv8's is used when the target's processor has
 * it (ARM has no portable way to ask without an operating system). Otherwise slicing by eight (Kounavis and Berry, "A
 * systematic approach to building high performance software-based CRC generators", 2005; little-endian words) over tables
 * made on the stack: 8 KB for the time of one call instead of 8 KB in every library. */
#ifndef EK_CRC32C_H
#define EK_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* A block a call: engines for WebAssembly optimise a function between its calls, never in the midst of one. */
#define EK_CRC_BLOCK 16384u

__attribute__((noinline)) static uint32_t ek_crc_block(uint32_t table[8][256], uint32_t crc, const unsigned char *p, size_t n)
{
    uint32_t a, b;
    for (; n >= 8; n -= 8, p += 8) {
        __builtin_memcpy(&a, p, 4);
        __builtin_memcpy(&b, p + 4, 4);
        a ^= crc;
        crc = table[7][a & 255u] ^ table[6][(a >> 8) & 255u] ^ table[5][(a >> 16) & 255u] ^ table[4][a >> 24] ^
              table[3][b & 255u] ^ table[2][(b >> 8) & 255u] ^ table[1][(b >> 16) & 255u] ^ table[0][b >> 24];
    }
    for (; n; n--) crc = (crc >> 8) ^ table[0][(crc ^ *p++) & 255u];
    return crc;
}

static uint32_t ek_crc_table(uint32_t crc, const unsigned char *p, size_t n)
{
    uint32_t table[8][256];
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t r = i;
        for (int k = 0; k < 8; k++) r = (r >> 1) ^ (0x82f63b78u & (0u - (r & 1u)));
        table[0][i] = r;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int k = 1; k < 8; k++) table[k][i] = (table[k - 1][i] >> 8) ^ table[0][table[k - 1][i] & 255u];
    for (; n > EK_CRC_BLOCK; n -= EK_CRC_BLOCK, p += EK_CRC_BLOCK) crc = ek_crc_block(table, crc, p, EK_CRC_BLOCK);
    return ek_crc_block(table, crc, p, n);
}

#if defined(__x86_64__)

static uint32_t ek_crc_instruction(uint32_t crc, const unsigned char *p, size_t n)
{
    uint64_t c = crc, word;
    for (; n >= 8; n -= 8, p += 8) {
        __builtin_memcpy(&word, p, 8);
        __asm__("crc32q %1, %0" : "+r"(c) : "r"(word));
    }
    for (; n; n--) __asm__("crc32b %1, %k0" : "+r"(c) : "q"(*p++));
    return (uint32_t)c;
}

static void ek_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(subleaf));
}

static int ek_crc_by_instruction(void)
{
    uint32_t r[4];
    ek_cpuid(1, 0, r);
    return (r[2] >> 20) & 1u;
}

#elif defined(__ARM_FEATURE_CRC32)

static uint32_t ek_crc_instruction(uint32_t crc, const unsigned char *p, size_t n)
{
    uint64_t word;
    for (; n >= 8; n -= 8, p += 8) {
        __builtin_memcpy(&word, p, 8);
        __asm__("crc32cx %w0, %w0, %x1" : "+r"(crc) : "r"(word));
    }
    for (; n; n--) __asm__("crc32cb %w0, %w0, %w1" : "+r"(crc) : "r"((uint32_t)*p++));
    return crc;
}

static int ek_crc_by_instruction(void) { return 1; }

#else

static uint32_t ek_crc_instruction(uint32_t crc, const unsigned char *p, size_t n) { return ek_crc_table(crc, p, n); }

static int ek_crc_by_instruction(void) { return 0; }

#endif

static uint32_t ek_crc32c(const void *data, size_t n)
{
    const unsigned char *p = (const unsigned char *)data;
    return ~(ek_crc_by_instruction() ? ek_crc_instruction(~0u, p, n) : ek_crc_table(~0u, p, n));
}

#endif
