// What the kernels work on, and the table of kernels that each level of instructions fills (level_*.cpp).
//
// A kernel computes one piece of work on the calling thread; api.cpp and network.cpp cut work into pieces.
// "Tokens" are the rows of activations, "rows" those of a weight.
#pragma once

#include <cstdint>

namespace chatglm3 {

enum Format : int32_t { kFloat32 = 0, kBfloat16 = 1, kFloat16 = 2, kInt4 = 3, kInt8 = 4 };

constexpr int kLanes = 16;  // rows of a packed block

// A weight [rows, columns], with an optional bias.
//
// kFloat32, kBfloat16, kFloat16: row-major, as PyTorch holds it; no scales.
//
// kInt4, kInt8: packed blocks of 16 rows, the last one filled up with zeros. In a block the 32-bit words of its rows
// take turns: word 0 of rows 0..15 (64 bytes, one AVX-512 register), word 1 of rows 0..15, and so on. A word holds
// what the plain layout (chatglm3/quant/groupwise.py) has there: four codes + 128 for int8, and for int4 eight codes
// + 8, those of even columns in low and those of odd columns in high nibbles. Columns are filled up to whole groups.
// scales: [blocks][groups][16] in bfloat16.
struct Matrix {
    const void* weight;
    const uint16_t* scales;
    const float* bias;  // [rows] or null
    int64_t rows, columns;
    int32_t format, group_size;

    bool quantized() const { return format == kInt4 || format == kInt8; }
    int64_t groups() const { return (columns + group_size - 1) / group_size; }
    int64_t blocks() const { return (rows + kLanes - 1) / kLanes; }
    int64_t block_bytes() const { return groups() * group_size * kLanes / (format == kInt4 ? 2 : 1); }
};

// Activations as int8 with one scale for each group: x[t, c] = codes[t, c] * scales[t, group(c)].
struct Quantized {
    int8_t* codes;     // [tokens, stride]; for int4 weights the columns of each eight come as 0 2 4 6 1 3 5 7
    // [groups, tokens], so that the tokens of a tile lie side by side.
    float* scales;
    int32_t* offsets;  // what takes the offset of the weight's codes out of the dot product
    int64_t stride, tokens;

    Quantized from(int64_t token) const {
        return {codes + token * stride, scales + token, offsets + token, stride, tokens};
    }
};

// Where a product goes: out[t * stride + row], added to what is there or not.
struct Output {
    float* out;
    int64_t stride;
    bool add;

    Output from(int64_t token) const { return {out + token * stride, stride, add}; }
};

// Query heads that share one key/value head, over the entries of one sequence in the paged cache.
struct AttentionTask {
    const float* q;  // query i, head h of the group: q + i * q_stride + h * head_dim
    float* out;      // the same strides
    int64_t q_stride;
    const void* keys;  // of this key/value head: slot s at keys + s * entry_stride
    const void* values;
    int64_t entry_stride;
    const int32_t* blocks;  // the sequence's row of the block table
    int32_t format, block_size, head_dim, group;
    int64_t first_visible;  // entries that query 0 sees; query i sees i more
    // Rows of this task, a row being (query, head of the group) = (row / group, row % group).
    int64_t row_begin, row_end;
    // Entries of this task: one part of those that its rows see.
    int64_t entry_begin, entry_end;
    float* state;    // attention_state(rows, head_dim) floats: what the entries so far amount to
    float* scratch;  // attention_scratch(head_dim) floats
};

struct Kernels {
    const char* name;
    // One token: x [columns] to codes, scales and offsets for a weight of this format and group size.
    void (*quantize)(const float* x, const Matrix& weight, const Quantized& out);
    // Rows 16 * block_begin .. 16 * block_end of a quantized weight times `tokens` tokens.
    void (*multiply_quantized)(const Matrix& weight, const Quantized& x, int64_t tokens, int64_t block_begin,
                               int64_t block_end, const Output& out);
    // Rows row_begin .. row_end of a plain weight times tokens x [tokens, x_stride].
    void (*multiply_dense)(const Matrix& weight, const float* x, int64_t x_stride, int64_t tokens, int64_t row_begin,
                           int64_t row_end, const Output& out);
    // RMSNorm of one token.
    void (*normalize)(const float* x, const float* weight, float eps, int64_t columns, float* out);
    // out = silu(gate) * up.
    void (*swiglu)(const float* gate, const float* up, int64_t count, float* out);
    // The first `rotary` values of a head, turned in pairs: x * cos + swapped(x) * sin.
    void (*rotate)(float* x, const float* cos, const float* sin, int64_t rotary);
    // A vector of the cache to floats and back; of kInt8 it is `count` codes and behind them their float scale.
    void (*widen)(const void* x, int32_t format, int64_t count, float* out);
    void (*narrow)(const float* x, int32_t format, int64_t count, void* out);
    // The state of one part; of two parts, into the first; and from a state to the task's `out`.
    void (*attend)(const AttentionTask& task);
    void (*merge)(const AttentionTask& task, const float* other_state);
    void (*finish)(const AttentionTask& task);
    // 32-bit words [rows, words] of up to 16 rows, row_stride bytes apart, to [words, 16] and back. Rows that are not
    // there are taken for zeros; every word is xor-ed with `flip`.
    void (*interleave)(const uint8_t* plain, int64_t rows, int64_t row_stride, int64_t words, uint32_t flip,
                       uint8_t* packed);
    void (*separate)(const uint8_t* packed, int64_t rows, int64_t row_stride, int64_t words, uint32_t flip,
                     uint8_t* plain);
    // For measuring the machine: reads everything; `rounds` times 12 independent dot4 of 16 lanes.
    float (*read_all)(const void* data, int64_t bytes);
    float (*dot_rounds)(int64_t rounds);
};

// Whether this processor can run them, levels.h knows.
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();
const Kernels* kernels_avx512vnni();

// Bytes of a vector of the cache; of kInt8 with its scale.
constexpr int64_t vector_bytes(int32_t format, int64_t head_dim) {
    if (format == kInt8) return head_dim + static_cast<int64_t>(sizeof(float));
    return head_dim * (format == kFloat32 ? 4 : 2);
}

constexpr int64_t kAttentionRows = 64;  // most rows of one AttentionTask
constexpr int64_t kAttentionTile = 32;  // entries looked at together

// For each block of 16 rows: sums of values [head_dim][16], largest scores [16], sums of weights [16].
constexpr int64_t attention_state(int64_t rows, int64_t head_dim) {
    return (rows + kLanes - 1) / kLanes * kLanes * (head_dim + 2);
}
// Queries, and tiles of keys, values and scores.
constexpr int64_t attention_scratch(int64_t head_dim) {
    return kAttentionRows * (head_dim + 1) + 2 * kAttentionTile * (head_dim + kLanes);
}

}  // namespace chatglm3
