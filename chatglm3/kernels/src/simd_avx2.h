// Sixteen lanes in two AVX2 registers; simd_avx512.h describes each function.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace chatglm3 {
namespace {

struct Floats {
    __m256 lo, hi;
};
struct Ints {
    __m256i lo, hi;
};

constexpr int kTileBlocks = 1;
constexpr int kTileTokens = 2;
constexpr int kDenseRows = 2;
constexpr int kDenseTokens = 2;
constexpr int kAttentionBlocks = 1;
constexpr int kAttentionWide = 4;
constexpr int kAttentionPair = 0;

inline Floats zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Floats broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, Floats a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}

inline __m256i first8(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Floats load_first(const float* p, int n) {
    return {_mm256_maskload_ps(p, first8(n)), n > 8 ? _mm256_maskload_ps(p + 8, first8(n - 8)) : _mm256_setzero_ps()};
}
inline void store_first(float* p, Floats a, int n) {
    _mm256_maskstore_ps(p, first8(n), a.lo);
    if (n > 8) _mm256_maskstore_ps(p + 8, first8(n - 8), a.hi);
}

inline __m128i load8(const uint16_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline __m256 widen_bf16(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
inline Floats load_bf16(const uint16_t* p) { return {widen_bf16(load8(p)), widen_bf16(load8(p + 8))}; }
inline Floats load_fp16(const uint16_t* p) { return {_mm256_cvtph_ps(load8(p)), _mm256_cvtph_ps(load8(p + 8))}; }

inline Floats operator+(Floats a, Floats b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline Floats fma(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline Floats max(Floats a, Floats b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline Floats min(Floats a, Floats b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline Floats abs(Floats a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
inline float sum(Floats a) {
    const __m256 eight = _mm256_add_ps(a.lo, a.hi);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
inline float largest(Floats a) {
    const __m256 eight = _mm256_max_ps(a.lo, a.hi);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
inline Floats round(Floats a) { return {_mm256_round_ps(a.lo, 0), _mm256_round_ps(a.hi, 0)}; }
inline __m256 power_of_two8(__m256 n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline Floats power_of_two(Floats n) { return {power_of_two8(n.lo), power_of_two8(n.hi)}; }
inline Floats where_at_most(Floats index, Floats limit, Floats a, Floats b) {
    return {_mm256_blendv_ps(b.lo, a.lo, _mm256_cmp_ps(index.lo, limit.lo, _CMP_LE_OQ)),
            _mm256_blendv_ps(b.hi, a.hi, _mm256_cmp_ps(index.hi, limit.hi, _CMP_LE_OQ))};
}

inline void store_int8(int8_t* p, Floats a, bool even_first) {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
    const __m256i in_order = _mm256_permute4x64_epi64(words, 0xD8);
    __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(in_order), _mm256_extracti128_si256(in_order, 1));
    if (even_first) {
        bytes = _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

inline Floats load_int8(const int8_t* p, int n) {
    int8_t bytes[16] = {};
    for (int i = 0; i < n; ++i) bytes[i] = p[i];
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(x, 8)))};
}

inline Ints broadcast_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline Ints load_bytes(const void* p) {
    const auto* halves = static_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)};
}
inline void store_bytes(void* p, Ints a) {
    auto* halves = static_cast<__m256i*>(p);
    _mm256_storeu_si256(halves, a.lo);
    _mm256_storeu_si256(halves + 1, a.hi);
}
inline void transpose(Ints (&rows)[16]) {
    uint32_t words[16][16];
    for (int i = 0; i < 16; ++i) store_bytes(words[i], rows[i]);
    for (int i = 0; i < 16; ++i) {
        uint32_t column[16];
        for (int j = 0; j < 16; ++j) column[j] = words[j][i];
        rows[i] = load_bytes(column);
    }
}
inline Ints exclusive_or(Ints a, uint32_t b) {
    const __m256i mask = _mm256_set1_epi32(static_cast<int32_t>(b));
    return {_mm256_xor_si256(a.lo, mask), _mm256_xor_si256(a.hi, mask)};
}
inline Floats to_float(Ints a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
inline Ints low_nibbles(Ints a) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(a.lo, mask), _mm256_and_si256(a.hi, mask)};
}
inline Ints high_nibbles(Ints a) { return low_nibbles({_mm256_srli_epi16(a.lo, 4), _mm256_srli_epi16(a.hi, 4)}); }
inline Ints flip_sign_bits(Ints a) {
    const __m256i sign = _mm256_set1_epi8(-128);
    return {_mm256_xor_si256(a.lo, sign), _mm256_xor_si256(a.hi, sign)};
}

template <int Bits>
inline __m256i dot4_half(__m256i acc, __m256i u, __m256i x) {
    __m256i pairs;
    if constexpr (Bits == 4) {
        pairs = _mm256_maddubs_epi16(u, x);  // at most 2 * 15 * 127: no saturation
    } else {
        // 255 * 127 * 2 would saturate 16 bits; |q| <= 127 times x with q's sign does not.
        const __m256i q = _mm256_xor_si256(u, _mm256_set1_epi8(-128));
        pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(x, q));
    }
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
template <int Bits>
inline Ints dot4(Ints acc, Ints u, Ints x) {
    return {dot4_half<Bits>(acc.lo, u.lo, x.lo), dot4_half<Bits>(acc.hi, u.hi, x.hi)};
}
constexpr int kOffset8 = 0;

}  // namespace
}  // namespace chatglm3
