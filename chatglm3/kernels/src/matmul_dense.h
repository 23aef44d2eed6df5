// float32, bfloat16 and float16 weights, row-major as PyTorch holds them, times float32 activations.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "unroll.h"

namespace chatglm3 {
namespace {

template <int Format>
struct Stored {
    using Type = uint16_t;
};
template <>
struct Stored<kFloat32> {
    using Type = float;
};

template <int Format>
inline Floats load_as(const typename Stored<Format>::Type* p) {
    if constexpr (Format == kFloat32) return load(p);
    else if constexpr (Format == kBfloat16) return load_bf16(p);
    else return load_fp16(p);
}

template <int Format>
inline Floats load_first_as(const typename Stored<Format>::Type* p, int n) {
    if constexpr (Format == kFloat32) {
        return load_first(p, n);
    } else {
        uint16_t values[16] = {};
        std::copy_n(p, n, values);
        return load_as<Format>(values);
    }
}

// A tile: dot products of `Rows` rows with `Tokens` tokens, sixteen columns at a time.
template <int Format, int Rows, int Tokens>
void dense_tile(const Matrix& m, int64_t row, const float* x, int64_t x_stride, const Output& out) {
    using Type = typename Stored<Format>::Type;
    const Type* weight = static_cast<const Type*>(m.weight) + row * m.columns;
    Floats sums[Rows][Tokens];
    unroll<Rows>([&](auto r) INLINE {
        unroll<Tokens>([&](auto t) INLINE { sums[r][t] = zero(); });
    });
    int64_t column = 0;
    for (; column + kLanes <= m.columns; column += kLanes) {
        Floats w[Rows];
        unroll<Rows>([&](auto r) INLINE { w[r] = load_as<Format>(weight + r * m.columns + column); });
        unroll<Tokens>([&](auto t) INLINE {
            const Floats values = load(x + t * x_stride + column);
            unroll<Rows>([&](auto r) INLINE { sums[r][t] = fma(w[r], values, sums[r][t]); });
        });
    }
    if (const auto left = static_cast<int>(m.columns - column); left > 0) {
        unroll<Tokens>([&](auto t) INLINE {
            const Floats values = load_first(x + t * x_stride + column, left);
            unroll<Rows>([&](auto r) INLINE {
                sums[r][t] = fma(load_first_as<Format>(weight + r * m.columns + column, left), values, sums[r][t]);
            });
        });
    }
    unroll<Tokens>([&](auto t) INLINE {
        float* target = out.out + t * out.stride + row;
        unroll<Rows>([&](auto r) INLINE {
            const float result = sum(sums[r][t]) + (m.bias == nullptr ? 0.0f : m.bias[row + r]);
            target[r] = out.add ? target[r] + result : result;
        });
    });
}

template <int Format, int Rows>
void dense_strip(const Matrix& m, int64_t row, const float* x, int64_t x_stride, int64_t tokens, const Output& out) {
    int64_t token = 0;
    for (int64_t tiles = (tokens + kDenseTokens - 1) / kDenseTokens; tiles > 0; --tiles) {
        const int64_t count = (tokens - token + tiles - 1) / tiles;
        const float* values = x + token * x_stride;
        const Output target = out.from(token);
        with_constant<kDenseTokens>(count, [&](auto c) INLINE {
            dense_tile<Format, Rows, decltype(c)::value>(m, row, values, x_stride, target);
        });
        token += count;
    }
}

template <int Format>
void dense_rows(const Matrix& m, const float* x, int64_t x_stride, int64_t tokens, int64_t begin, int64_t end,
                const Output& out) {
    int64_t row = begin;
    for (; row + kDenseRows <= end; row += kDenseRows) dense_strip<Format, kDenseRows>(m, row, x, x_stride, tokens, out);
    for (; row < end; ++row) dense_strip<Format, 1>(m, row, x, x_stride, tokens, out);
}

void multiply_dense(const Matrix& m, const float* x, int64_t x_stride, int64_t tokens, int64_t begin, int64_t end,
                    const Output& out) {
    switch (m.format) {
        case kFloat32: dense_rows<kFloat32>(m, x, x_stride, tokens, begin, end, out); break;
        case kBfloat16: dense_rows<kBfloat16>(m, x, x_stride, tokens, begin, end, out); break;
        default: dense_rows<kFloat16>(m, x, x_stride, tokens, begin, end, out);
    }
}

}  // namespace
}  // namespace chatglm3
