#include "core/cpu.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "core/internal.h"

/* Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E. */
#define LEAF1_AVX2_LEVEL                                                                           \
    (1u << 12 /* FMA */ | 1u << 22 /* MOVBE */ | 1u << 27 /* OSXSAVE */ | 1u << 28 /* AVX */ |     \
     1u << 29 /* F16C */)
#define LEAF7_AVX2_LEVEL (1u << 3 /* BMI1 */ | 1u << 5 /* AVX2 */ | 1u << 8 /* BMI2 */)
#define EXTENDED_AVX2_LEVEL (1u << 5 /* LZCNT */)
#define LEAF7_AVX512_LEVEL                                                                         \
    (1u << 16 /* F */ | 1u << 17 /* DQ */ | 1u << 28 /* CD */ | 1u << 30 /* BW */ |                \
     1u << 31 /* VL */)
#define LEAF7_ECX_VNNI_LEVEL (1u << 1 /* VBMI */ | 1u << 6 /* VBMI2 */ | 1u << 11 /* VNNI */)
#define LEAF7_EDX_AMX_LEVEL (1u << 24 /* AMX-TILE */ | 1u << 25 /* AMX-INT8 */)

/* Intel SDM volume 1, 13.3: SSE and AVX state; then opmask, upper ZMM halves, upper ZMM registers.
 */
#define XCR0_YMM 0x06u
#define XCR0_ZMM 0xe6u
#define XCR0_TILES 0x60000u

/* Documentation/arch/x86/xstate.rst of the kernel; not in every libc's headers. */
#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

static const char *const level_names[PS_CPU_LEVEL_COUNT] = {"scalar", "avx2", "avx512", "vnni",
                                                            "amx"};

static int has_all(uint64_t value, uint64_t bits)
{
    return (value & bits) == bits;
}

enum ps_cpu_level ps_cpu_level_decide(const struct ps_cpu_bits *bits, const char *limit)
{
    const bool has_level[PS_CPU_LEVEL_COUNT] = {
        [PS_CPU_SCALAR] = true,
        [PS_CPU_AVX2] = has_all(bits->leaf1_ecx, LEAF1_AVX2_LEVEL) &&
                        has_all(bits->leaf7_ebx, LEAF7_AVX2_LEVEL) &&
                        has_all(bits->extended_ecx, EXTENDED_AVX2_LEVEL) &&
                        has_all(bits->xcr0, XCR0_YMM),
        [PS_CPU_AVX512] =
            has_all(bits->leaf7_ebx, LEAF7_AVX512_LEVEL) && has_all(bits->xcr0, XCR0_ZMM),
        [PS_CPU_VNNI] = has_all(bits->leaf7_ecx, LEAF7_ECX_VNNI_LEVEL),
        [PS_CPU_AMX] = has_all(bits->leaf7_edx, LEAF7_EDX_AMX_LEVEL) &&
                       has_all(bits->xcr0, XCR0_TILES) && bits->tiles_granted,
    };
    enum ps_cpu_level level = PS_CPU_SCALAR;
    while (level + 1 < PS_CPU_LEVEL_COUNT && has_level[level + 1])
        level++;

    for (int i = 0; limit && i < (int)level; i++) {
        if (strcmp(limit, level_names[i]) == 0)
            return (enum ps_cpu_level)i;
    }
    return level;
}

static void read_bits(struct ps_cpu_bits *bits)
{
    memset(bits, 0, sizeof(*bits));
#if defined(__x86_64__)
    unsigned eax, ebx, ecx, edx;
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx))
        bits->leaf1_ecx = ecx;
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx))
        *bits = (struct ps_cpu_bits){
            .leaf1_ecx = bits->leaf1_ecx, .leaf7_ebx = ebx, .leaf7_ecx = ecx, .leaf7_edx = edx};
    if (__get_cpuid(0x80000001u, &eax, &ebx, &ecx, &edx))
        bits->extended_ecx = ecx;
    /* XGETBV faults unless the kernel has set OSXSAVE. */
    if (bits->leaf1_ecx & 1u << 27) {
        __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
        bits->xcr0 = (uint64_t)edx << 32 | eax;
    }
    /* Linux hands out the tile registers on demand, to a process and the threads it then makes. */
    if (has_all(bits->leaf7_edx, LEAF7_EDX_AMX_LEVEL) && has_all(bits->xcr0, XCR0_TILES))
        bits->tiles_granted = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#endif
}

enum ps_cpu_level ps_cpu_level(void)
{
    /* Two threads that come first at the same time find the same answer: no lock is needed. */
    static atomic_int known = -1;
    int level = atomic_load_explicit(&known, memory_order_relaxed);
    if (level < 0) {
        struct ps_cpu_bits bits;
        read_bits(&bits);
        level = (int)ps_cpu_level_decide(&bits, getenv("PENSTOCK_CPU"));
        atomic_store_explicit(&known, level, memory_order_relaxed);
    }
    return (enum ps_cpu_level)level;
}

const char *ps_cpu_level_name(enum ps_cpu_level level)
{
    return level_names[level];
}
