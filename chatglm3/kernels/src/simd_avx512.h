// Sixteen lanes in one AVX-512 register. The other levels give the same names the same meaning, so every kernel
// is written once (simd_avx2.h: two registers of eight lanes).
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "unroll.h"

namespace chatglm3 {
namespace {

struct Floats {
    __m512 v;
};  // 16 floats
struct Ints {
    __m512i v;
};  // 16 int32, or the 64 bytes that dot4 multiplies

// How many rows (in blocks of 16) and tokens a tile of the matrix kernels has: as many as the registers hold.
constexpr int kTileBlocks = 2;
constexpr int kTileTokens = 6;
constexpr int kDenseRows = 4;
constexpr int kDenseTokens = 5;
constexpr int kAttentionBlocks = 2;
constexpr int kAttentionWide = 16;
constexpr int kAttentionPair = 6;

inline Floats zero() { return {_mm512_setzero_ps()}; }
inline Floats broadcast(float x) { return {_mm512_set1_ps(x)}; }
inline Floats load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Floats a) { _mm512_storeu_ps(p, a.v); }

inline __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }
inline Floats load_first(const float* p, int n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
inline void store_first(float* p, Floats a, int n) { _mm512_mask_storeu_ps(p, first(n), a.v); }

inline Floats from_bf16(__m256i x) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16))}; }
inline Floats from_fp16(__m256i x) { return {_mm512_cvtph_ps(x)}; }
inline __m256i load16(const uint16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline Floats load_bf16(const uint16_t* p) { return from_bf16(load16(p)); }
inline Floats load_fp16(const uint16_t* p) { return from_fp16(load16(p)); }

inline Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Floats max(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Floats min(Floats a, Floats b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Floats abs(Floats a) { return {_mm512_abs_ps(a.v)}; }
inline float sum(Floats a) { return _mm512_reduce_add_ps(a.v); }
inline float largest(Floats a) { return _mm512_reduce_max_ps(a.v); }
inline Floats round(Floats a) { return {_mm512_roundscale_ps(a.v, 0)}; }
// 2^n for whole n in -126..127.
inline Floats power_of_two(Floats n) {
    const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23))};
}
// a where index <= limit, else b.
inline Floats where_at_most(Floats index, Floats limit, Floats a, Floats b) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(index.v, limit.v, _CMP_LE_OQ), b.v, a.v)};
}

// Whole numbers in -127..127 as bytes; `even_first`: of each eight the even ones, then the odd ones.
inline void store_int8(int8_t* p, Floats a, bool even_first) {
    __m128i bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v));
    if (even_first) {
        bytes = _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

// The first n of sixteen signed bytes; the other lanes are 0.
inline Floats load_int8(const int8_t* p, int n) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(first(n), p)))};
}

inline Ints broadcast_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline Ints load_bytes(const void* p) { return {_mm512_loadu_si512(p)}; }
inline void store_bytes(void* p, Ints a) { _mm512_storeu_si512(p, a.v); }
// Sixteen rows of sixteen 32-bit words change places with their columns.
inline void transpose(Ints (&rows)[16]) {
    __m512i a[16], b[16];
    unroll<8>([&](auto i) INLINE {  // pairs of rows, word by word
        a[2 * i] = _mm512_unpacklo_epi32(rows[2 * i].v, rows[2 * i + 1].v);
        a[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i].v, rows[2 * i + 1].v);
    });
    unroll<4>([&](auto i) INLINE {  // fours of rows: b[4 i + j] has word j of each quarter
        b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
        b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
        b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
        b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
    });
    unroll<4>([&](auto j) INLINE {  // and the quarters of the four fours
        const __m512i even01 = _mm512_shuffle_i32x4(b[j], b[4 + j], 0x88);
        const __m512i odd01 = _mm512_shuffle_i32x4(b[j], b[4 + j], 0xDD);
        const __m512i even23 = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0x88);
        const __m512i odd23 = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0xDD);
        rows[j].v = _mm512_shuffle_i32x4(even01, even23, 0x88);
        rows[4 + j].v = _mm512_shuffle_i32x4(odd01, odd23, 0x88);
        rows[8 + j].v = _mm512_shuffle_i32x4(even01, even23, 0xDD);
        rows[12 + j].v = _mm512_shuffle_i32x4(odd01, odd23, 0xDD);
    });
}
inline Ints exclusive_or(Ints a, uint32_t b) {
    return {_mm512_xor_si512(a.v, _mm512_set1_epi32(static_cast<int32_t>(b)))};
}
inline Floats to_float(Ints a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline Ints low_nibbles(Ints a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
inline Ints high_nibbles(Ints a) { return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))}; }
inline Ints flip_sign_bits(Ints a) { return {_mm512_xor_si512(a.v, _mm512_set1_epi8(-128))}; }

#ifdef __AVX512VNNI__
// acc[i] += dot of the four unsigned bytes of u's lane i with the four signed bytes of x's lane i.
template <int Bits>
inline Ints dot4(Ints acc, Ints u, Ints x) {
    return {_mm512_dpbusd_epi32(acc.v, u.v, x.v)};
}
// What dot4<8> takes a code q for: q + kOffset8.
constexpr int kOffset8 = 128;
#else
template <int Bits>
inline Ints dot4(Ints acc, Ints u, Ints x) {
    __m512i pairs;
    if constexpr (Bits == 4) {
        pairs = _mm512_maddubs_epi16(u.v, x.v);  // at most 2 * 15 * 127: no saturation
    } else {
        // 255 * 127 * 2 would saturate 16 bits; |q| <= 127 times x with q's sign does not.
        const __m512i q = flip_sign_bits(u).v;
        const __m512i signed_x = _mm512_mask_sub_epi8(x.v, _mm512_movepi8_mask(q), _mm512_setzero_si512(), x.v);
        pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(q), signed_x);
    }
    return {_mm512_add_epi32(acc.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
}
constexpr int kOffset8 = 0;
#endif

}  // namespace
}  // namespace chatglm3
