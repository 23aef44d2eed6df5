// What lies between the matrix products: norm, activation, rotation, and conversions of number formats.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels.h"
#include "unroll.h"
#include "matmul_dense.h"

namespace chatglm3 {
namespace {

// e^x for x <= 88, within 2 units in the last place: 2^n * e^r with |r| <= ln(2) / 2, and e^r by its series to r^6
// with the coefficients of the Cephes library's expf. From -87 down, where float32 has few bits left, it is 0: what a
// token does not see then leaves no trace in its result, not even 1e-38. Of nan it is nan.
inline Floats exponential(Floats x) {
    const Floats n = round(x * broadcast(1.44269504088896341f));
    const Floats r = fma(n, broadcast(2.12194440e-4f), fma(n, broadcast(-0.693359375f), x));
    Floats series = broadcast(1.9875691500e-4f);
    series = fma(series, r, broadcast(1.3981999507e-3f));
    series = fma(series, r, broadcast(8.3334519073e-3f));
    series = fma(series, r, broadcast(4.1665795894e-2f));
    series = fma(series, r, broadcast(1.6666665459e-1f));
    series = fma(series, r, broadcast(5.0000001201e-1f));
    const Floats result = fma(series, r * r, r + broadcast(1.0f)) * power_of_two(n);
    return where_at_most(x, broadcast(-87.0f), zero(), result);
}

inline Floats silu(Floats x) {
    // exponential takes at most 88, and silu(-88) is 0 in float32.
    return x / (broadcast(1.0f) + exponential(min(zero() - x, broadcast(88.0f))));
}

void normalize(const float* x, const float* weight, float eps, int64_t columns, float* out) {
    Floats squares[4] = {zero(), zero(), zero(), zero()};
    int64_t i = 0;
    for (; i + 4 * kLanes <= columns; i += 4 * kLanes) {
        for (int64_t j = 0; j < 4; ++j) {
            const Floats values = load(x + i + j * kLanes);
            squares[j] = fma(values, values, squares[j]);
        }
    }
    for (; i < columns; i += kLanes) {
        const Floats values = load_first(x + i, static_cast<int>(std::min<int64_t>(kLanes, columns - i)));
        squares[0] = fma(values, values, squares[0]);
    }
    const float mean = sum((squares[0] + squares[1]) + (squares[2] + squares[3])) / static_cast<float>(columns);
    const Floats scale = broadcast(1.0f / std::sqrt(mean + eps));
    for (i = 0; i < columns; i += kLanes) {
        const auto count = static_cast<int>(std::min<int64_t>(kLanes, columns - i));
        store_first(out + i, load_first(x + i, count) * scale * load_first(weight + i, count), count);
    }
}

void swiglu(const float* gate, const float* up, int64_t total, float* out) {
    for (int64_t i = 0; i < total; i += kLanes) {
        const auto count = static_cast<int>(std::min<int64_t>(kLanes, total - i));
        store_first(out + i, silu(load_first(gate + i, count)) * load_first(up + i, count), count);
    }
}

void rotate(float* x, const float* cos, const float* sin, int64_t rotary) {
    for (int64_t i = 0; i < rotary; i += 2) {
        const float a = x[i], b = x[i + 1];
        x[i] = a * cos[i] + b * sin[i];
        x[i + 1] = b * cos[i + 1] + a * sin[i + 1];
    }
}

struct Coded {
    float scale;
    int32_t total;  // the sum of the codes
};

// int8 codes of x [count]: the nearest whole numbers in -127..127 at the scale max|x| / 127. They go, sixteen at a time
// and with zeros behind them up to `filled`, to take(i, codes).
template <typename Take>
[[gnu::always_inline]] inline Coded encode(const float* x, int64_t count, int64_t filled, const Take& take) {
    const auto lanes = [&](int64_t i) INLINE {
        const auto left = static_cast<int>(std::clamp<int64_t>(count - i, 0, kLanes));
        return left == kLanes ? load(x + i) : load_first(x + i, left);
    };
    Floats high = zero();
    for (int64_t i = 0; i < count; i += kLanes) high = max(high, abs(lanes(i)));
    const float most = largest(high);
    const bool nothing = most <= 1e-30f;  // so small a vector is taken for zeros: its inverse would be infinite
    const Floats inverse = broadcast(nothing ? 0.0f : 127.0f / most);
    Floats totals = zero();
    for (int64_t i = 0; i < filled; i += kLanes) {
        const Floats codes = round(lanes(i) * inverse);
        totals = totals + codes;
        take(i, codes);
    }
    // There is no code for inf and nan. They make the scale nan, and with it everything computed from the vector.
    const float total = sum(totals);
    if (std::isnan(total)) return {total, 0};
    return {nothing ? 0.0f : most / 127.0f, static_cast<int32_t>(total)};
}

inline uint16_t to_bf16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return 0x7FC0;  // nan stays nan
    return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);  // to nearest, ties to even
}

void widen(const void* x, int32_t format, int64_t count, float* out) {
    if (format == kFloat32) {
        std::memcpy(out, x, static_cast<size_t>(count) * sizeof(float));
        return;
    }
    int64_t i = 0;
    if (format == kInt8) {
        const auto* codes = static_cast<const int8_t*>(x);
        float scale;
        std::memcpy(&scale, codes + count, sizeof scale);
        for (; i < count; i += kLanes) {
            const auto left = static_cast<int>(std::min<int64_t>(kLanes, count - i));
            store_first(out + i, load_int8(codes + i, left) * broadcast(scale), left);
        }
        return;
    }
    const auto* halves = static_cast<const uint16_t*>(x);
    for (; i + kLanes <= count; i += kLanes) {
        store(out + i, format == kBfloat16 ? load_bf16(halves + i) : load_fp16(halves + i));
    }
    if (const auto left = static_cast<int>(count - i); left > 0) {
        store_first(out + i, format == kBfloat16 ? load_first_as<kBfloat16>(halves + i, left)
                                                 : load_first_as<kFloat16>(halves + i, left), left);
    }
}

void narrow(const float* x, int32_t format, int64_t count, void* out) {
    if (format == kFloat32) {
        std::memcpy(out, x, static_cast<size_t>(count) * sizeof(float));
        return;
    }
    if (format == kInt8) {
        auto* codes = static_cast<int8_t*>(out);
        const Coded coded = encode(x, count, count, [&](int64_t i, Floats rounded) INLINE {
            int8_t sixteen[kLanes];
            store_int8(sixteen, rounded, false);
            std::memcpy(codes + i, sixteen, static_cast<size_t>(std::min<int64_t>(kLanes, count - i)));
        });
        std::memcpy(codes + count, &coded.scale, sizeof coded.scale);
        return;
    }
    auto* halves = static_cast<uint16_t*>(out);
    for (int64_t i = 0; i < count; ++i) {
        halves[i] = format == kBfloat16 ? to_bf16(x[i]) : static_cast<uint16_t>(_cvtss_sh(x[i], 0));
    }
}

void interleave(const uint8_t* plain, int64_t rows, int64_t row_stride, int64_t words, uint32_t flip,
                uint8_t* packed) {
    for (int64_t start = 0; start < words; start += kLanes) {
        const int64_t count = std::min<int64_t>(kLanes, words - start);
        Ints lines[kLanes];
        unroll<kLanes>([&](auto row) INLINE {
            if (row < rows && count == kLanes) {
                lines[row] = load_bytes(plain + row * row_stride + start * 4);
            } else {
                uint8_t line[64] = {};
                if (row < rows) std::memcpy(line, plain + row * row_stride + start * 4, static_cast<size_t>(count) * 4);
                lines[row] = load_bytes(line);
            }
            lines[row] = exclusive_or(lines[row], flip);
        });
        transpose(lines);
        for (int64_t word = 0; word < count; ++word) store_bytes(packed + (start + word) * 64, lines[word]);
    }
}

void separate(const uint8_t* packed, int64_t rows, int64_t row_stride, int64_t words, uint32_t flip, uint8_t* plain) {
    for (int64_t word = 0; word < words; ++word) {
        for (int64_t row = 0; row < rows; ++row) {
            uint32_t value;
            std::memcpy(&value, packed + (word * kLanes + row) * 4, 4);
            value ^= flip;
            std::memcpy(plain + row * row_stride + word * 4, &value, 4);
        }
    }
}

float read_all(const void* data, int64_t bytes) {
    const auto* values = static_cast<const float*>(data);
    Floats sums[4] = {zero(), zero(), zero(), zero()};
    for (int64_t i = 0; i + 64 <= bytes / 4; i += 64) {
        for (int64_t j = 0; j < 4; ++j) {
            sums[j] = sums[j] + load(values + i + j * kLanes);
            __builtin_prefetch(values + i + j * kLanes + 512);
        }
    }
    return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

float dot_rounds(int64_t rounds) {
    constexpr int kChains = 12;
    Ints chains[kChains];
    unroll<kChains>([&](auto i) INLINE { chains[i] = broadcast_int(i); });
    Ints u = broadcast_int(0x01020304), x = broadcast_int(0x04030201);
    for (int64_t round = 0; round < rounds; ++round) {
        unroll<kChains>([&](auto i) INLINE { chains[i] = dot4<4>(chains[i], u, x); });
    }
    Floats total = zero();
    unroll<kChains>([&](auto i) INLINE { total = total + to_float(chains[i]); });
    return sum(total);
}

}  // namespace
}  // namespace chatglm3
