/* What the encoders of AVX2 and AVX-512 share; included by these alone, before encode_lanes.h. */

/* A 4 x 4 transposition of words for every four lanes. */
static ALWAYS_INLINE void turn_out(const uint32_t (*words)[PS_ENCODE_LANES], uint8_t (*bytes)[16])
{
    for (int l = 0; l < PS_ENCODE_LANES; l += 4) {
        __m128i w0 = _mm_loadu_si128((const void *)(words[0] + l));
        __m128i w1 = _mm_loadu_si128((const void *)(words[1] + l));
        __m128i w2 = _mm_loadu_si128((const void *)(words[2] + l));
        __m128i w3 = _mm_loadu_si128((const void *)(words[3] + l));
        __m128i a = _mm_unpacklo_epi32(w0, w1), b = _mm_unpackhi_epi32(w0, w1);
        __m128i c = _mm_unpacklo_epi32(w2, w3), d = _mm_unpackhi_epi32(w2, w3);
        _mm_storeu_si128((void *)bytes[l], _mm_unpacklo_epi64(a, c));
        _mm_storeu_si128((void *)bytes[l + 1], _mm_unpackhi_epi64(a, c));
        _mm_storeu_si128((void *)bytes[l + 2], _mm_unpacklo_epi64(b, d));
        _mm_storeu_si128((void *)bytes[l + 3], _mm_unpackhi_epi64(b, d));
    }
}

/* As roundf, cut to a byte; NaN becomes 0. */
static ALWAYS_INLINE __m256i q8_0_round(__m256 v)
{
    const __m256 sign = _mm256_set1_ps(-0.0f), half = _mm256_set1_ps(0.5f);
    __m256 whole = _mm256_round_ps(v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
    __m256 up = _mm256_cmp_ps(_mm256_andnot_ps(sign, _mm256_sub_ps(v, whole)), half, _CMP_GE_OQ);
    __m256 one = _mm256_or_ps(_mm256_set1_ps(1), _mm256_and_ps(sign, v));
    __m256 q = _mm256_add_ps(whole, _mm256_and_ps(up, one));

    q = _mm256_min_ps(_mm256_max_ps(q, _mm256_set1_ps(-127)), _mm256_set1_ps(127));
    return _mm256_cvttps_epi32(_mm256_and_ps(q, _mm256_cmp_ps(v, v, _CMP_ORD_Q)));
}

/* The bits of ps_row_encode: its scale, its reciprocal of the unrounded scale, its rounding. */
static void encode_q8_0(const float *src, uint8_t *dst, size_t block_count)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);

    for (size_t b = 0; b < block_count; b++, src += 32, dst += 34) {
        __m256 x[4], max = _mm256_setzero_ps();
        for (int i = 0; i < 4; i++) {
            x[i] = _mm256_loadu_ps(src + 8 * i);
            /* Of a NaN and a number this takes the second. */
            max = _mm256_max_ps(_mm256_andnot_ps(sign, x[i]), max);
        }
        __m128 m = _mm_max_ps(_mm256_castps256_ps128(max), _mm256_extractf128_ps(max, 1));
        m = _mm_max_ps(m, _mm_movehl_ps(m, m));
        m = _mm_max_ss(m, _mm_movehdup_ps(m));
        __m128 d = _mm_div_ss(m, _mm_set_ss(127));
        __m128 inverse =
            _mm_and_ps(_mm_div_ss(_mm_set_ss(1), d), _mm_cmp_ss(d, _mm_setzero_ps(), _CMP_NEQ_UQ));
        __m256 factor = _mm256_broadcastss_ps(inverse);
        __m256i low = _mm256_packs_epi32(q8_0_round(_mm256_mul_ps(x[0], factor)),
                                         q8_0_round(_mm256_mul_ps(x[1], factor)));
        __m256i high = _mm256_packs_epi32(q8_0_round(_mm256_mul_ps(x[2], factor)),
                                          q8_0_round(_mm256_mul_ps(x[3], factor)));
        /* Packing works on halves of registers: four bytes of each x in turn. */
        __m256i q = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high),
                                                _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        uint16_t h = (uint16_t)_mm_extract_epi16(_mm_cvtps_ph(d, _MM_FROUND_TO_NEAREST_INT), 0);
        memcpy(dst, &h, sizeof(h));
        _mm256_storeu_si256((void *)(dst + 2), q);
    }
}
