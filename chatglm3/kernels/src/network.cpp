#include "network.h"

#include <algorithm>
#include <vector>

#include "threads.h"

namespace chatglm3 {
namespace {

// Tokens whose feed-forward activations are held at once: 27 MB at 6B, and enough for weights to be read rarely.
constexpr int64_t kFeedForwardTokens = 256;

// Entries are summed up in parts of this many, which can go to several threads. Always the same parts, whatever else
// is in the batch and however many threads there are: so the result is the same too, bit for bit.
constexpr int64_t kPartEntries = 512;
// Entries times values of a head from which on a second thread is worth waking.
constexpr int64_t kSmallAttention = 64 << 10;
static_assert(kPartEntries % kAttentionTile == 0);

// Rotates queries and keys of one token and stores its keys and values.
void rotate_and_store(const Kernels& kernels, const NetworkWeights& n, const Cache& cache, const Batch& batch,
                      int64_t layer, int64_t token, float* qkv) {
    const float* cos = n.cos + batch.positions[token] * n.rotary;
    const float* sin = n.sin + batch.positions[token] * n.rotary;
    for (int64_t head = 0; head < n.heads + n.kv_heads; ++head) {
        kernels.rotate(qkv + head * n.head_dim, cos, sin, n.rotary);
    }
    const int64_t bytes = vector_bytes(cache.format, n.head_dim), offset = batch.slots[token] * n.kv_heads * bytes;
    const float* keys = qkv + n.heads * n.head_dim;
    const float* values = keys + n.kv_heads * n.head_dim;
    for (int64_t head = 0; head < n.kv_heads; ++head) {
        const int64_t from = head * n.head_dim, to = offset + head * bytes;
        kernels.narrow(keys + from, cache.format, n.head_dim, static_cast<char*>(cache.keys[layer]) + to);
        kernels.narrow(values + from, cache.format, n.head_dim, static_cast<char*>(cache.values[layer]) + to);
    }
}

// The attention of one layer as tasks: tiles of rows, for each sequence and key/value head.
std::vector<AttentionTask> plan(const NetworkWeights& n, const Cache& cache, const Batch& batch, int64_t layer,
                                float* qkv) {
    const int64_t group = n.heads / n.kv_heads;
    const int64_t stride = (n.heads + 2 * n.kv_heads) * n.head_dim;
    const int64_t bytes = vector_bytes(cache.format, n.head_dim);
    std::vector<AttentionTask> tasks;
    for (int64_t s = 0; s < batch.sequences; ++s) {
        const int64_t start = batch.query_starts[s], queries = batch.query_starts[s + 1] - start;
        for (int64_t kv = 0; kv < n.kv_heads; ++kv) {
            for (int64_t row = 0; row < queries * group; row += kAttentionRows) {
                AttentionTask task{};
                task.q = task.out = qkv + start * stride + kv * group * n.head_dim;
                task.q_stride = stride;
                const int64_t offset = kv * bytes;
                task.keys = static_cast<const char*>(cache.keys[layer]) + offset;
                task.values = static_cast<const char*>(cache.values[layer]) + offset;
                task.entry_stride = n.kv_heads * bytes;
                task.blocks = batch.block_tables + s * batch.table_stride;
                task.format = cache.format;
                task.block_size = static_cast<int32_t>(cache.block_size);
                task.head_dim = static_cast<int32_t>(n.head_dim);
                task.group = static_cast<int32_t>(group);
                task.first_visible = batch.context_lens[s] - queries + 1;
                task.row_begin = row;
                task.row_end = std::min(row + kAttentionRows, queries * group);
                task.entry_end = task.first_visible + (task.row_end - 1) / group;
                tasks.push_back(task);
            }
        }
    }
    return tasks;
}

// Part `part` of a task.
AttentionTask part_of(AttentionTask task, int64_t part, float* state, float* scratch) {
    task.entry_begin = part * kPartEntries;
    task.entry_end = std::min(task.entry_end, task.entry_begin + kPartEntries);
    task.state = state;
    task.scratch = scratch;
    return task;
}

int64_t parts_of(const AttentionTask& task) { return (task.entry_end + kPartEntries - 1) / kPartEntries; }

// Memory of the calling thread: scratch, and behind it two states.
float* attention_memory(int64_t head_dim) {
    thread_local Buffer buffer;
    return buffer.get<float>(attention_scratch(head_dim) + 2 * attention_state(kAttentionRows, head_dim));
}

// A whole task on one thread.
void attend_whole(const Kernels& kernels, const AttentionTask& task) {
    float* scratch = attention_memory(task.head_dim);
    float* total = scratch + attention_scratch(task.head_dim);
    float* state = total + attention_state(kAttentionRows, task.head_dim);
    const AttentionTask first = part_of(task, 0, total, scratch);
    kernels.attend(first);
    for (int64_t part = 1; part < parts_of(task); ++part) {
        kernels.attend(part_of(task, part, state, scratch));
        kernels.merge(first, state);
    }
    kernels.finish(first);
}

}  // namespace

void Workspace::attention(const NetworkWeights& n, const Cache& cache, const Batch& batch, int64_t layer, float* qkv) {
    const Kernels& kernels = multiplier_.kernels;
    const int threads = multiplier_.threads;
    const std::vector<AttentionTask> tasks = plan(n, cache, batch, layer, qkv);
    const auto count = static_cast<int64_t>(tasks.size());
    int64_t parts = 0, entries = 0, rows = 0;
    for (const AttentionTask& task : tasks) {
        parts = std::max(parts, parts_of(task));
        entries += task.entry_end;
        rows = std::max(rows, task.row_end - task.row_begin);
    }
    if (parts == 1 || count >= 4 * threads) {
        const int64_t grain = entries * n.head_dim < kSmallAttention ? count : 1;
        parallel_for(threads, count, grain, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) attend_whole(kernels, tasks[static_cast<size_t>(i)]);
        });
        return;
    }
    // Few tasks over long contexts (one conversation is two tasks): each part is work of its own.
    const int64_t stride = attention_state(rows, n.head_dim);
    float* states = states_.get<float>(count * parts * stride);
    parallel_for(threads, count * parts, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const AttentionTask& task = tasks[static_cast<size_t>(i / parts)];
            if (i % parts >= parts_of(task)) continue;
            float* scratch = attention_memory(n.head_dim);
            kernels.attend(part_of(task, i % parts, states + i * stride, scratch));
        }
    });
    for (int64_t i = 0; i < count; ++i) {
        AttentionTask task = tasks[static_cast<size_t>(i)];
        task.state = states + i * parts * stride;
        for (int64_t part = 1; part < parts_of(task); ++part) kernels.merge(task, task.state + part * stride);
        kernels.finish(task);
    }
}

void Workspace::normalize(const NetworkWeights& n, const float* weight, const float* x, int64_t tokens, float* out) {
    parallel_for(multiplier_.threads, tokens, std::max<int64_t>(1, (32 << 10) / n.hidden), [&](int64_t b, int64_t e) {
        for (int64_t t = b; t < e; ++t) {
            multiplier_.kernels.normalize(x + t * n.hidden, weight, n.norm_eps, n.hidden, out + t * n.hidden);
        }
    });
}

void Workspace::forward(const NetworkWeights& n, const Cache& cache, const Batch& batch, int threads, float* hidden) {
    multiplier_.threads = threads;
    const Kernels& kernels = multiplier_.kernels;
    const int64_t tokens = batch.tokens, width = (n.heads + 2 * n.kv_heads) * n.head_dim;
    const int64_t ffn_tokens = std::min(tokens, kFeedForwardTokens);
    float* normed = normed_.get<float>(tokens * n.hidden);
    float* qkv = qkv_.get<float>(tokens * width);
    float* gate_up = gate_up_.get<float>(ffn_tokens * 2 * n.ffn);
    for (int64_t i = 0; i < n.num_layers; ++i) {
        const LayerWeights& layer = n.layers[i];
        normalize(n, layer.attention_norm, hidden, tokens, normed);
        multiplier_.multiply(layer.qkv, normed, n.hidden, tokens, {qkv, width, false});
        parallel_for(threads, tokens, std::max<int64_t>(1, (32 << 10) / width), [&](int64_t begin, int64_t end) {
            for (int64_t t = begin; t < end; ++t) {
                rotate_and_store(kernels, n, cache, batch, i, t, qkv + t * width);
            }
        });
        attention(n, cache, batch, i, qkv);  // its result takes the queries' place
        multiplier_.multiply(layer.attention_out, qkv, width, tokens, {hidden, n.hidden, true});
        normalize(n, layer.ffn_norm, hidden, tokens, normed);
        for (int64_t start = 0; start < tokens; start += ffn_tokens) {
            const int64_t count = std::min(ffn_tokens, tokens - start);
            multiplier_.multiply(layer.gate_up, normed + start * n.hidden, n.hidden, count,
                                 {gate_up, 2 * n.ffn, false});
            const int64_t grain = std::max<int64_t>(1, (8 << 10) / n.ffn);
            parallel_for(threads, count, grain, [&](int64_t begin, int64_t end) {
                for (int64_t t = begin; t < end; ++t) {
                    float* gate = gate_up + t * 2 * n.ffn;
                    kernels.swiglu(gate, gate + n.ffn, n.ffn, gate);
                }
            });
            multiplier_.multiply(layer.down, gate_up, 2 * n.ffn, count, {hidden + start * n.hidden, n.hidden, true});
        }
    }
    if (n.final_norm != nullptr) normalize(n, n.final_norm, hidden, tokens, hidden);
}

void Workspace::multiply(const Matrix& weight, const float* x, int64_t tokens, int threads, float* out) {
    multiplier_.threads = threads;
    multiplier_.multiply(weight, x, weight.columns, tokens, {out, weight.rows, false});
}

}  // namespace chatglm3
