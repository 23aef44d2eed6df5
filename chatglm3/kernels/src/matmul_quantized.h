// int4 and int8 weights times int8 activations, group by group in exact integers, groups summed in float.
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels.h"
#include "unroll.h"

namespace chatglm3 {
namespace {

constexpr int kChunk = 32;  // columns in the unrolled loop; every group size is a multiple of it

inline F16 load_scales(const uint16_t* scales, bool half) { return half ? load_fp16(scales) : load_bf16(scales); }

inline I16 broadcast_word(const int8_t* codes) {
    int32_t word;
    std::memcpy(&word, codes, 4);
    return broadcast_int(word);
}

// A tile: `Blocks` blocks of 16 rows times `Tokens` tokens.
template <int Bits, int Blocks, int Tokens>
void multiply_tile(const Matrix& m, int64_t block, const Quantized& x, const Output& out) {
    const int64_t groups = m.groups(), block_bytes = m.block_bytes();
    const int chunks = m.group_size / kChunk;
    const bool half = m.scale_format == kFloat16;
    const auto* weight = static_cast<const uint8_t*>(m.weight) + block * block_bytes;
    const auto* scales = static_cast<const uint16_t*>(m.scales) + block * groups * kLanes;
    const int8_t* codes = x.codes;

    F16 sums[Blocks][Tokens];
    unroll<Blocks>([&](auto b) INLINE {
        unroll<Tokens>([&](auto t) INLINE { sums[b][t] = zero(); });
    });

    for (int64_t group = 0; group < groups; ++group) {
        I16 dots[Blocks][Tokens];
        unroll<Tokens>([&](auto t) INLINE {
            const I16 offset = broadcast_int(x.offsets[t * groups + group]);
            unroll<Blocks>([&](auto b) INLINE { dots[b][t] = offset; });
        });
        for (int chunk = 0; chunk < chunks; ++chunk) {
            constexpr int kColumns = Bits == 4 ? 8 : 4;  // in a register of weights
            unroll<kChunk / kColumns>([&](auto) INLINE {
                I16 bytes[Blocks];
                unroll<Blocks>([&](auto b) INLINE {
                    bytes[b] = load_bytes(weight + b * block_bytes);
                    // The hardware does not look beyond the page; for few tokens memory is all that counts.
                    __builtin_prefetch(weight + b * block_bytes + 2048);
                });
                weight += 64;
                if constexpr (Bits == 4) {
                    I16 low[Blocks], high[Blocks];
                    unroll<Blocks>([&](auto b) INLINE {
                        low[b] = low_nibbles(bytes[b]);
                        high[b] = high_nibbles(bytes[b]);
                    });
                    unroll<Tokens>([&](auto t) INLINE {
                        const I16 even = broadcast_word(codes + t * x.stride);
                        unroll<Blocks>([&](auto b) INLINE { dots[b][t] = dot4<4>(dots[b][t], low[b], even); });
                        const I16 odd = broadcast_word(codes + t * x.stride + 4);
                        unroll<Blocks>([&](auto b) INLINE { dots[b][t] = dot4<4>(dots[b][t], high[b], odd); });
                    });
                } else {
                    unroll<Tokens>([&](auto t) INLINE {
                        const I16 four = broadcast_word(codes + t * x.stride);
                        unroll<Blocks>([&](auto b) INLINE { dots[b][t] = dot4<8>(dots[b][t], bytes[b], four); });
                    });
                }
                codes += kColumns;
            });
        }
        unroll<Blocks>([&](auto b) INLINE {
            const F16 scale = load_scales(scales + (b * groups + group) * kLanes, half);
            unroll<Tokens>([&](auto t) INLINE {
                const F16 both = scale * broadcast(x.scales[t * groups + group]);
                sums[b][t] = fma(to_float(dots[b][t]), both, sums[b][t]);
            });
        });
    }

    unroll<Blocks>([&](auto b) INLINE {
        const int64_t row = (block + b) * kLanes;
        const int count = static_cast<int>(std::min<int64_t>(kLanes, m.rows - row));
        const F16 bias = m.bias == nullptr ? zero() : load_first(m.bias + row, count);
        unroll<Tokens>([&](auto t) INLINE {
            float* target = out.out + t * out.stride + row;
            F16 result = sums[b][t] + bias;
            if (out.add) result = result + load_first(target, count);
            store_first(target, result, count);
        });
    });
}

// All tokens of one strip of `Blocks` blocks. The strip stays in the cache while tiles of tokens pass over it.
template <int Bits, int Blocks>
void multiply_strip(const Matrix& m, int64_t block, const Quantized& x, int64_t tokens, const Output& out) {
    int64_t token = 0;
    // Tiles as even as possible: 8 tokens are 4 + 4 rather than 6 + 2.
    for (int64_t tiles = (tokens + kTileTokens - 1) / kTileTokens; tiles > 0; --tiles) {
        const int64_t count = (tokens - token + tiles - 1) / tiles;
        const Quantized part = x.from(token);
        const Output target = out.from(token);
        switch (count) {
            case 1: multiply_tile<Bits, Blocks, 1>(m, block, part, target); break;
            case 2: multiply_tile<Bits, Blocks, 2>(m, block, part, target); break;
            default:
                if constexpr (kTileTokens > 2) {
                    if (count == 3) multiply_tile<Bits, Blocks, 3>(m, block, part, target);
                    else if (count == 4) multiply_tile<Bits, Blocks, 4>(m, block, part, target);
                    else if (count == 5) multiply_tile<Bits, Blocks, 5>(m, block, part, target);
                    else multiply_tile<Bits, Blocks, 6>(m, block, part, target);
                }
        }
        token += count;
    }
}

template <int Bits>
void multiply_blocks(const Matrix& m, const Quantized& x, int64_t tokens, int64_t begin, int64_t end,
                     const Output& out) {
    int64_t block = begin;
    for (; block + kTileBlocks <= end; block += kTileBlocks) multiply_strip<Bits, kTileBlocks>(m, block, x, tokens, out);
    for (; block < end; ++block) multiply_strip<Bits, 1>(m, block, x, tokens, out);
}

void multiply_quantized(const Matrix& m, const Quantized& x, int64_t tokens, int64_t begin, int64_t end,
                        const Output& out) {
    if (m.format == kInt4) multiply_blocks<4>(m, x, tokens, begin, end, out);
    else multiply_blocks<8>(m, x, tokens, begin, end, out);
}

// Nearest codes in -127..127 with scale max|x| / 127 in each group.
void quantize(const float* x, const Matrix& m, const Quantized& out) {
    const int64_t groups = m.groups();
    const int32_t offset = m.format == kInt4 ? 8 : kOffset8;
    for (int64_t group = 0; group < groups; ++group) {
        const int64_t start = group * m.group_size;
        const int64_t count = std::min<int64_t>(m.group_size, m.columns - start);
        const float* values = x + start;
        int8_t* codes = out.codes + start;
        const auto lanes = [&](int64_t i) {
            const auto left = static_cast<int>(std::clamp<int64_t>(count - i, 0, kLanes));
            return left == kLanes ? load(values + i) : load_first(values + i, left);
        };
        F16 high = zero();
        for (int64_t i = 0; i < count; i += kLanes) high = max(high, abs(lanes(i)));
        const float most = largest(high);
        // So small a group is taken for zeros: its inverse would be infinite.
        const float inverse = most > 1e-30f ? 127.0f / most : 0.0f;
        out.scales[group] = most > 1e-30f ? most / 127.0f : 0.0f;
        F16 total = zero();
        for (int64_t i = 0; i < m.group_size; i += kLanes) {
            const F16 rounded = round(lanes(i) * broadcast(inverse));
            total = total + rounded;
            store_int8(codes + i, rounded, m.format == kInt4);
        }
        out.offsets[group] = -offset * static_cast<int32_t>(sum(total));
    }
}

}  // namespace
}  // namespace chatglm3
