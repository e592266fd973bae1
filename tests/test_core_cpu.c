/* CPU levels: decided from whole sets of bits, lowered by PENSTOCK_CPU, never raised. */
#include "util.h"

#include <sys/wait.h>

#include "core/cpu.h"
#include "core/internal.h"

static const struct ps_cpu_bits everything = {~0u, ~0u, ~0u, ~0u, ~0u, true, ~0ull};

static void needs_every_bit(void **state)
{
    (void)state;
    assert_int_equal(ps_cpu_level_decide(&everything, NULL), PS_CPU_AMX);

    /* Intel SDM volume 2, CPUID: each of these alone takes the level away. */
    static const int leaf1[] = {12, 22, 27, 28, 29}, leaf7[] = {3, 5, 8};
    static const int leaf7_zmm[] = {16, 17, 28, 30, 31};
    for (size_t i = 0; i < sizeof(leaf1) / sizeof(leaf1[0]); i++) {
        struct ps_cpu_bits bits = everything;
        bits.leaf1_ecx &= ~(1u << leaf1[i]);
        assert_int_equal(ps_cpu_level_decide(&bits, NULL), PS_CPU_SCALAR);
    }
    for (size_t i = 0; i < sizeof(leaf7) / sizeof(leaf7[0]); i++) {
        struct ps_cpu_bits bits = everything;
        bits.leaf7_ebx &= ~(1u << leaf7[i]);
        assert_int_equal(ps_cpu_level_decide(&bits, NULL), PS_CPU_SCALAR);
    }
    for (size_t i = 0; i < sizeof(leaf7_zmm) / sizeof(leaf7_zmm[0]); i++) {
        struct ps_cpu_bits bits = everything;
        bits.leaf7_ebx &= ~(1u << leaf7_zmm[i]);
        assert_int_equal(ps_cpu_level_decide(&bits, NULL), PS_CPU_AVX2);
    }
    static const int leaf7_vnni[] = {1, 6, 11}, leaf7_amx[] = {24, 25};
    for (size_t i = 0; i < sizeof(leaf7_vnni) / sizeof(leaf7_vnni[0]); i++) {
        struct ps_cpu_bits bits = everything;
        bits.leaf7_ecx &= ~(1u << leaf7_vnni[i]);
        assert_int_equal(ps_cpu_level_decide(&bits, NULL), PS_CPU_AVX512);
    }
    for (size_t i = 0; i < sizeof(leaf7_amx) / sizeof(leaf7_amx[0]); i++) {
        struct ps_cpu_bits bits = everything;
        bits.leaf7_edx &= ~(1u << leaf7_amx[i]);
        assert_int_equal(ps_cpu_level_decide(&bits, NULL), PS_CPU_VNNI);
    }
}

static void needs_the_kernels_consent(void **state)
{
    (void)state;
    struct ps_cpu_bits bits = everything;
    bits.xcr0 = 0x2e7; /* no tile data */
    assert_int_equal(ps_cpu_level_decide(&bits, NULL), PS_CPU_VNNI);
    bits = everything;
    bits.tiles_granted = false;
    assert_int_equal(ps_cpu_level_decide(&bits, NULL), PS_CPU_VNNI);
    bits.xcr0 = 0x07; /* x87, SSE, AVX: no opmask, no ZMM */
    assert_int_equal(ps_cpu_level_decide(&bits, NULL), PS_CPU_AVX2);
    bits.xcr0 = 0x67; /* the upper sixteen ZMM registers missing */
    assert_int_equal(ps_cpu_level_decide(&bits, NULL), PS_CPU_AVX2);
    bits.xcr0 = 0x03;
    assert_int_equal(ps_cpu_level_decide(&bits, NULL), PS_CPU_SCALAR);
    bits.xcr0 = 0;
    assert_int_equal(ps_cpu_level_decide(&bits, NULL), PS_CPU_SCALAR);
}

static void is_lowered_only(void **state)
{
    (void)state;
    struct ps_cpu_bits avx2 = everything;
    avx2.xcr0 = 0x07;
    assert_int_equal(ps_cpu_level_decide(&everything, "scalar"), PS_CPU_SCALAR);
    assert_int_equal(ps_cpu_level_decide(&everything, "avx2"), PS_CPU_AVX2);
    assert_int_equal(ps_cpu_level_decide(&everything, "avx512"), PS_CPU_AVX512);
    assert_int_equal(ps_cpu_level_decide(&avx2, "avx512"), PS_CPU_AVX2);
    assert_int_equal(ps_cpu_level_decide(&avx2, "scalar"), PS_CPU_SCALAR);
    assert_int_equal(ps_cpu_level_decide(&avx2, "no such level"), PS_CPU_AVX2);
    assert_int_equal(ps_cpu_level_decide(&avx2, ""), PS_CPU_AVX2);
}

static void names_are_the_masks_words(void **state)
{
    (void)state;
    assert_string_equal(ps_cpu_level_name(PS_CPU_SCALAR), "scalar");
    assert_string_equal(ps_cpu_level_name(PS_CPU_AVX2), "avx2");
    assert_string_equal(ps_cpu_level_name(PS_CPU_AVX512), "avx512");
    assert_string_equal(ps_cpu_level_name(PS_CPU_VNNI), "vnni");
    assert_string_equal(ps_cpu_level_name(PS_CPU_AMX), "amx");
}

/* The level is found once per process, so each mask is tried in a child. */
static int level_in_child(const char *mask)
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setenv("PENSTOCK_CPU", mask, 1);
        int level = (int)ps_cpu_level();
        setenv("PENSTOCK_CPU", "scalar", 1);
        _exit((int)ps_cpu_level() == level ? level : 100);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void reads_the_environment_once(void **state)
{
    (void)state;
    int best = level_in_child("amx");
    assert_in_range(best, PS_CPU_SCALAR, PS_CPU_AMX);
    assert_int_equal(level_in_child("scalar"), PS_CPU_SCALAR);
    assert_int_equal(level_in_child("avx2"), best < PS_CPU_AVX2 ? best : PS_CPU_AVX2);
#if defined(__x86_64__)
    /* The compiler's own reading of the same registers. */
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
               __builtin_cpu_supports("bmi2");
    assert_int_equal(best >= PS_CPU_AVX2, avx2);
    assert_int_equal(best >= PS_CPU_AVX512, avx2 && __builtin_cpu_supports("avx512bw") &&
                                                __builtin_cpu_supports("avx512dq") &&
                                                __builtin_cpu_supports("avx512vl"));
    assert_int_equal(best >= PS_CPU_VNNI, best >= PS_CPU_AVX512 &&
                                              __builtin_cpu_supports("avx512vnni") &&
                                              __builtin_cpu_supports("avx512vbmi") &&
                                              __builtin_cpu_supports("avx512vbmi2"));
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(needs_every_bit),
        cmocka_unit_test(needs_the_kernels_consent),
        cmocka_unit_test(is_lowered_only),
        cmocka_unit_test(names_are_the_masks_words),
        cmocka_unit_test(reads_the_environment_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
