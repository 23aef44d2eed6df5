// int4 and int8 weights times int8 activations, group by group in exact integers, groups summed in float.
#pragma once

#include <algorithm>
#include <cstring>

#include "elementwise.h"
#include "kernels.h"
#include "unroll.h"

namespace chatglm3 {
namespace {

constexpr int kChunk = 32;  // columns in the unrolled loop; every group size is a multiple of it

inline Ints broadcast_word(const int8_t* codes) {
    int32_t word;
    std::memcpy(&word, codes, 4);
    return broadcast_int(word);
}

// A tile: `Blocks` blocks of 16 rows times `Tokens` tokens. With OneChunk groups are of kChunk columns: without a loop
// over chunks in the loop over groups GCC does not move all the dot products from register to register.
template <int Bits, bool OneChunk, int Blocks, int Tokens>
void multiply_tile(const Matrix& m, int64_t block, const Quantized& x, const Output& out) {
    const int64_t groups = m.groups(), block_bytes = m.block_bytes();
    const int chunks = OneChunk ? 1 : m.group_size / kChunk;
    const auto* weight = static_cast<const uint8_t*>(m.weight) + block * block_bytes;
    const uint16_t* scales = m.scales + block * groups * kLanes;
    const int8_t* codes = x.codes;

    Floats sums[Blocks][Tokens];
    unroll<Blocks>([&](auto b) INLINE {
        unroll<Tokens>([&](auto t) INLINE { sums[b][t] = zero(); });
    });

    for (int64_t group = 0; group < groups; ++group) {
        Ints dots[Blocks][Tokens];
        unroll<Tokens>([&](auto t) INLINE {
            const Ints offset = broadcast_int(x.offsets[group * x.tokens + t]);
            unroll<Blocks>([&](auto b) INLINE { dots[b][t] = offset; });
        });
        for (int chunk = 0; chunk < chunks; ++chunk) {
            constexpr int kColumns = Bits == 4 ? 8 : 4;  // in a register of weights
            unroll<kChunk / kColumns>([&](auto) INLINE {
                Ints bytes[Blocks];
                unroll<Blocks>([&](auto b) INLINE {
                    bytes[b] = load_bytes(weight + b * block_bytes);
                    // The hardware does not look beyond the page; for few tokens memory is all that counts.
                    __builtin_prefetch(weight + b * block_bytes + 2048);
                });
                weight += 64;
                if constexpr (Bits == 4) {
                    Ints low[Blocks], high[Blocks];
                    unroll<Blocks>([&](auto b) INLINE {
                        low[b] = low_nibbles(bytes[b]);
                        high[b] = high_nibbles(bytes[b]);
                    });
                    unroll<Tokens>([&](auto t) INLINE {
                        const Ints even = broadcast_word(codes + t * x.stride);
                        unroll<Blocks>([&](auto b) INLINE { dots[b][t] = dot4<4>(dots[b][t], low[b], even); });
                        const Ints odd = broadcast_word(codes + t * x.stride + 4);
                        unroll<Blocks>([&](auto b) INLINE { dots[b][t] = dot4<4>(dots[b][t], high[b], odd); });
                    });
                } else {
                    unroll<Tokens>([&](auto t) INLINE {
                        const Ints four = broadcast_word(codes + t * x.stride);
                        unroll<Blocks>([&](auto b) INLINE { dots[b][t] = dot4<8>(dots[b][t], bytes[b], four); });
                    });
                }
                codes += kColumns;
            });
        }
        unroll<Blocks>([&](auto b) INLINE {
            const Floats scale = load_bf16(scales + (b * groups + group) * kLanes);
            unroll<Tokens>([&](auto t) INLINE {
                const Floats both = scale * broadcast(x.scales[group * x.tokens + t]);
                sums[b][t] = fma(to_float(dots[b][t]), both, sums[b][t]);
            });
        });
    }

    unroll<Blocks>([&](auto b) INLINE {
        const int64_t row = (block + b) * kLanes;
        const int count = static_cast<int>(std::min<int64_t>(kLanes, m.rows - row));
        const Floats bias = m.bias == nullptr ? zero() : load_first(m.bias + row, count);
        unroll<Tokens>([&](auto t) INLINE {
            float* target = out.out + t * out.stride + row;
            Floats result = sums[b][t] + bias;
            if (out.add) result = result + load_first(target, count);
            store_first(target, result, count);
        });
    });
}

// All tokens of one strip of `Blocks` blocks. The strip stays in the cache while tiles of tokens pass over it.
template <int Bits, bool OneChunk, int Blocks>
void multiply_strip(const Matrix& m, int64_t block, const Quantized& x, int64_t tokens, const Output& out) {
    int64_t token = 0;
    // Tiles as even as possible: 8 tokens are 4 + 4 rather than 6 + 2.
    for (int64_t tiles = (tokens + kTileTokens - 1) / kTileTokens; tiles > 0; --tiles) {
        const int64_t count = (tokens - token + tiles - 1) / tiles;
        const Quantized part = x.from(token);
        const Output target = out.from(token);
        with_constant<kTileTokens>(count, [&](auto c) INLINE {
            multiply_tile<Bits, OneChunk, Blocks, decltype(c)::value>(m, block, part, target);
        });
        token += count;
    }
}

template <int Bits, bool OneChunk>
void multiply_blocks(const Matrix& m, const Quantized& x, int64_t tokens, int64_t begin, int64_t end,
                     const Output& out) {
    int64_t block = begin;
    for (; block + kTileBlocks <= end; block += kTileBlocks) multiply_strip<Bits, OneChunk, kTileBlocks>(m, block, x, tokens, out);
    for (; block < end; ++block) multiply_strip<Bits, OneChunk, 1>(m, block, x, tokens, out);
}

void multiply_quantized(const Matrix& m, const Quantized& x, int64_t tokens, int64_t begin, int64_t end,
                        const Output& out) {
    const bool one_chunk = m.group_size == kChunk;
    if (m.format == kInt4 && one_chunk) multiply_blocks<4, true>(m, x, tokens, begin, end, out);
    else if (m.format == kInt4) multiply_blocks<4, false>(m, x, tokens, begin, end, out);
    else if (one_chunk) multiply_blocks<8, true>(m, x, tokens, begin, end, out);
    else multiply_blocks<8, false>(m, x, tokens, begin, end, out);
}

void quantize(const float* x, const Matrix& m, const Quantized& out) {
    const int32_t offset = m.format == kInt4 ? 8 : kOffset8;
    for (int64_t group = 0; group < m.groups(); ++group) {
        const int64_t start = group * m.group_size;
        const int64_t count = std::min<int64_t>(m.group_size, m.columns - start);
        int8_t* codes = out.codes + start;
        const Coded coded = encode(x + start, count, m.group_size, [&](int64_t i, Floats rounded) INLINE {
            store_int8(codes + i, rounded, m.format == kInt4);
        });
        out.scales[group * out.tokens] = coded.scale;
        out.offsets[group * out.tokens] = -offset * coded.total;
    }
}

}  // namespace
}  // namespace chatglm3
