// One step of the whole network in one call: packed tokens of several sequences through every layer.
//
// chatglm3/kernels/structures.py mirrors these structures for ctypes, field by field.
#pragma once

#include <cstdint>

#include "kernels.h"
#include "matmul.h"

namespace chatglm3 {

struct LayerWeights {
    Matrix qkv, attention_out, gate_up, down;
    const float *attention_norm, *ffn_norm;  // [hidden]
};

struct NetworkWeights {
    const LayerWeights* layers;
    const float* final_norm;  // [hidden], or null without one
    const float *cos, *sin;   // [positions, rotary]
    int64_t num_layers, hidden, heads, kv_heads, head_dim, ffn, rotary;
    float norm_eps;
};

// The paged cache: keys[layer] [slots, kv_heads, head_dim], values likewise; format kFloat32, kBfloat16, kFloat16, or
// kInt8 with a float scale behind each head's codes.
struct Cache {
    void* const* keys;
    void* const* values;
    int64_t block_size;
    int32_t format;
};

// chatglm3.attention.AttentionBatch has the meaning of each field.
struct Batch {
    const int64_t* positions;       // [tokens]
    const int64_t* slots;           // [tokens]
    const int32_t* query_starts;    // [sequences + 1]
    const int32_t* context_lens;    // [sequences]
    const int32_t* block_tables;    // [sequences, table_stride]
    int64_t tokens, sequences, table_stride;
};

// Memory that steps of one engine share. One thread at a time may use it.
class Workspace {
  public:
    explicit Workspace(const Kernels& kernels) : multiplier_(kernels) {}

    // hidden: embeddings [tokens, hidden] at first, in the end the network's output after the final norm.
    void forward(const NetworkWeights& network, const Cache& cache, const Batch& batch, int threads, float* hidden);

    void multiply(const Matrix& weight, const float* x, int64_t tokens, int threads, float* out);

  private:
    void attention(const NetworkWeights& network, const Cache& cache, const Batch& batch, int64_t layer, float* qkv);
    void normalize(const NetworkWeights& network, const float* weight, const float* x, int64_t tokens, float* out);

    Multiplier multiplier_;
    Buffer normed_, qkv_, gate_up_, states_;
};

}  // namespace chatglm3
