/* CPU levels: which kernels this processor and this kernel can run. */
#ifndef PENSTOCK_CORE_CPU_H
#define PENSTOCK_CORE_CPU_H

/* Ascending; a level implies all below. Decided by CPUID and XGETBV together, never by one bit. */
enum ps_cpu_level {
    PS_CPU_SCALAR, /* baseline x86-64, or any other processor */
    PS_CPU_AVX2,   /* AVX2, FMA, F16C, BMI1/2 with YMM state enabled (x86-64-v3) */
    PS_CPU_AVX512, /* AVX-512 F, BW, CD, DQ, VL with ZMM state enabled (x86-64-v4) */
    PS_CPU_VNNI,   /* AVX-512 VNNI, VBMI, VBMI2 (Ice Lake, Zen 4 and later) */
    PS_CPU_AMX,    /* AMX tiles of 8-bit integers, tile state granted to this process */
    PS_CPU_LEVEL_COUNT
};

/*
 * The highest usable level, found once. The environment variable PENSTOCK_CPU (scalar, avx2,
 * avx512, vnni, amx) lowers it, for tests and comparisons; it never raises it. Thread-safe.
 */
enum ps_cpu_level ps_cpu_level(void);

/* "scalar", "avx2", "avx512", "vnni", "amx". Never NULL for a valid level. */
const char *ps_cpu_level_name(enum ps_cpu_level level);

#endif
