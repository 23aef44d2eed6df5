// Grouped-query attention over the paged cache, with the softmax taken along the way (FlashAttention,
// arXiv:2205.14135).
//
// A row is one query of one head; all rows of a task read the same key/value head. Sixteen rows lie in the lanes of a
// register, so scores, maxima and sums of sixteen rows are computed at once, no register is ever summed across, and
// each key and value is read from the cache once for all its query heads.
#pragma once

#include <algorithm>
#include <cmath>

#include "elementwise.h"
#include "kernels.h"
#include "unroll.h"

namespace chatglm3 {
namespace {

constexpr float kUnseen = -1e30f;  // a score that leaves no weight beside any other, and no nan beside itself

// scores[e, 16 b + lane] = sum_k queries[b, k, lane] * keys[e, k] for `Entries` entries, `Blocks` blocks of rows.
template <int Blocks, int Entries>
inline void score(const float* queries, const float* keys, int64_t dim, float* scores) {
    Floats sums[Blocks][Entries];
    unroll<Blocks>([&](auto b) INLINE {
        unroll<Entries>([&](auto e) INLINE { sums[b][e] = zero(); });
    });
    for (int64_t k = 0; k < dim; ++k) {
        Floats q[Blocks];
        unroll<Blocks>([&](auto b) INLINE { q[b] = load(queries + (b * dim + k) * kLanes); });
        unroll<Entries>([&](auto e) INLINE {
            const Floats key = broadcast(keys[e * dim + k]);
            unroll<Blocks>([&](auto b) INLINE { sums[b][e] = fma(q[b], key, sums[b][e]); });
        });
    }
    unroll<Blocks>([&](auto b) INLINE {
        unroll<Entries>([&](auto e) INLINE { store(scores + (b * kAttentionTile + e) * kLanes, sums[b][e]); });
    });
}

// sums[b, k, lane] = sums * decay[b, lane] + sum_e weights[b, e, lane] * values[e, k] for `Dims` k's.
// values and sums point to the first of them; a block of sums is dim + 2 vectors long.
template <int Blocks, int Dims>
inline void weigh(const float* weights, const float* values, int64_t entries, int64_t dim, const Floats* decay,
                  float* sums) {
    Floats acc[Blocks][Dims];
    unroll<Blocks>([&](auto b) INLINE {
        unroll<Dims>([&](auto k) INLINE { acc[b][k] = load(sums + (b * (dim + 2) + k) * kLanes) * decay[b]; });
    });
    for (int64_t e = 0; e < entries; ++e) {
        Floats w[Blocks];
        unroll<Blocks>([&](auto b) INLINE { w[b] = load(weights + (b * kAttentionTile + e) * kLanes); });
        unroll<Dims>([&](auto k) INLINE {
            const Floats value = broadcast(values[e * dim + k]);
            unroll<Blocks>([&](auto b) INLINE { acc[b][k] = fma(w[b], value, acc[b][k]); });
        });
    }
    unroll<Blocks>([&](auto b) INLINE {
        unroll<Dims>([&](auto k) INLINE { store(sums + (b * (dim + 2) + k) * kLanes, acc[b][k]); });
    });
}

// Where the entries of a tile lie, as bytes from task.keys and task.values.
struct AttentionTile {
    int64_t start, entries;
    int64_t offsets[kAttentionTile];
};

// The tile that begins with entry `start`: an empty one behind the last.
inline AttentionTile tile_at(const AttentionTask& task, int64_t start) {
    AttentionTile tile{start, std::clamp<int64_t>(task.entry_end - start, 0, kAttentionTile), {}};
    for (int64_t e = 0; e < tile.entries; ++e) {
        const int64_t entry = start + e;
        const int64_t slot =
            int64_t{task.blocks[entry / task.block_size]} * task.block_size + entry % task.block_size;
        tile.offsets[e] = slot * task.entry_stride;
    }
    return tile;
}

// Asks memory for the next tile while this one is computed, which takes about as long. Not all at once: a processor
// waits for a dozen lines or so at a time, and the next request would hold up the computing.
class Prefetcher {
  public:
    Prefetcher(const AttentionTask& task, const AttentionTile& tile)
        : task_(task), tile_(tile), bytes_(vector_bytes(task.format, task.head_dim)) {}

    void some() {
        for (const int64_t end = std::min(next_ + kAtOnce, tile_.entries); next_ < end; ++next_) {
            for (const void* vectors : {task_.keys, task_.values}) {
                const char* vector = static_cast<const char*>(vectors) + tile_.offsets[next_];
                for (int64_t byte = 0; byte < bytes_; byte += 64) __builtin_prefetch(vector + byte);
                __builtin_prefetch(vector + bytes_ - 1);  // where it does not begin with a line
            }
        }
    }

  private:
    static constexpr int64_t kAtOnce = 4;  // entries

    const AttentionTask& task_;
    const AttentionTile& tile_;
    int64_t bytes_, next_ = 0;
};

// What a task keeps between tiles: its state, and pieces of its scratch memory.
struct AttentionMemory {
    float* queries;  // [blocks][dim][16], divided by sqrt(dim)
    float* sums;     // the state: [blocks][dim + 2][16]
    float* keys;     // [tile][dim]
    float* values;   // [tile][dim]
    float* scores;   // [2][tile][16]
    float* limits;   // [blocks][16]: the last entry that each row sees
};

// One tile of entries for `Blocks` blocks of rows, from block `first` on.
template <int Blocks>
void attend_tile(const AttentionMemory& s, int64_t dim, int first, const AttentionTile& tile, bool masked,
                 Prefetcher& ahead) {
    const int64_t entries = tile.entries;
    constexpr int kAtOnce = Blocks == 1 ? kAttentionWide : kAttentionPair;
    const float* queries = s.queries + first * dim * kLanes;
    int64_t e = 0;
    for (; e + kAtOnce <= entries; e += kAtOnce) {
        ahead.some();
        score<Blocks, kAtOnce>(queries, s.keys + e * dim, dim, s.scores + e * kLanes);
    }
    for (; e < entries; ++e) score<Blocks, 1>(queries, s.keys + e * dim, dim, s.scores + e * kLanes);

    float* sums = s.sums + first * (dim + 2) * kLanes;
    Floats decay[Blocks];
    for (int b = 0; b < Blocks; ++b) {
        float* scores = s.scores + b * kAttentionTile * kLanes;
        float* most = sums + (b * (dim + 2) + dim) * kLanes;
        if (masked) {
            const Floats limit = load(s.limits + (first + b) * kLanes);
            for (e = 0; e < entries; ++e) {
                const Floats index = broadcast(static_cast<float>(tile.start + e));
                float* row = scores + e * kLanes;
                store(row, where_at_most(index, limit, load(row), broadcast(kUnseen)));
            }
        }
        Floats high = load(most);
        for (e = 0; e < entries; ++e) high = max(high, load(scores + e * kLanes));
        Floats total = zero();
        for (e = 0; e < entries; ++e) {
            const Floats weight = exponential(load(scores + e * kLanes) - high);
            store(scores + e * kLanes, weight);
            total = total + weight;
        }
        decay[b] = exponential(load(most) - high);
        store(most, high);
        store(most + kLanes, fma(load(most + kLanes), decay[b], total));
    }
    int64_t k = 0;
    for (; k + kAtOnce <= dim; k += kAtOnce) {
        ahead.some();
        weigh<Blocks, kAtOnce>(s.scores, s.values + k, entries, dim, decay, sums + k * kLanes);
    }
    for (; k < dim; ++k) weigh<Blocks, 1>(s.scores, s.values + k, entries, dim, decay, sums + k * kLanes);
}

AttentionMemory memory_of(const AttentionTask& task) {
    float* scratch = task.scratch;
    const auto take = [&scratch](int64_t floats) {
        float* taken = scratch;
        scratch += floats;
        return taken;
    };
    AttentionMemory s{};
    s.sums = task.state;
    s.queries = take(kAttentionRows * task.head_dim);
    s.limits = take(kAttentionRows);
    s.keys = take(kAttentionTile * task.head_dim);
    s.values = take(kAttentionTile * task.head_dim);
    s.scores = take(kAttentionBlocks * kAttentionTile * kLanes);
    return s;
}

inline int64_t rows_of(const AttentionTask& task) { return task.row_end - task.row_begin; }

// Where row `row_begin + i` of a task has its query and its output.
inline int64_t row_offset(const AttentionTask& task, int64_t i) {
    const int64_t row = task.row_begin + i;
    return row / task.group * task.q_stride + row % task.group * task.head_dim;
}

void gather_queries(const AttentionTask& task, const AttentionMemory& s) {
    const int64_t dim = task.head_dim, rows = rows_of(task);
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    const int64_t filled = (rows + kLanes - 1) / kLanes * kLanes;
    for (int64_t i = 0; i < filled; ++i) {
        const int64_t row = std::min(i, rows - 1);  // lanes past the end repeat the last row
        const float* q = task.q + row_offset(task, row);
        float* lane = s.queries + i / kLanes * dim * kLanes + i % kLanes;
        for (int64_t k = 0; k < dim; ++k) lane[k * kLanes] = q[k] * scale;
        s.limits[i] = static_cast<float>(task.first_visible - 1 + (task.row_begin + row) / task.group);
    }
    for (int64_t block = 0; block < filled / kLanes; ++block) {
        float* sums = s.sums + block * (dim + 2) * kLanes;
        std::fill_n(sums, (dim + 2) * kLanes, 0.0f);
        store(sums + dim * kLanes, broadcast(kUnseen));
    }
}

void attend(const AttentionTask& task) {
    const int64_t dim = task.head_dim, rows = rows_of(task);
    const auto blocks = static_cast<int>((rows + kLanes - 1) / kLanes);
    const AttentionMemory s = memory_of(task);
    gather_queries(task, s);
    const auto* keys = static_cast<const char*>(task.keys);
    const auto* values = static_cast<const char*>(task.values);
    AttentionTile tile = tile_at(task, task.entry_begin);
    while (tile.entries > 0) {
        for (int64_t e = 0; e < tile.entries; ++e) {
            widen(keys + tile.offsets[e], task.format, dim, s.keys + e * dim);
            widen(values + tile.offsets[e], task.format, dim, s.values + e * dim);
        }
        const AttentionTile next = tile_at(task, tile.start + kAttentionTile);
        Prefetcher ahead(task, next);
        for (int first = 0; first < blocks;) {
            const int taken = std::min(kAttentionBlocks, blocks - first);
            const float first_limit = s.limits[first * kLanes];
            const float last_limit = s.limits[(first + taken) * kLanes - 1];
            if (last_limit >= static_cast<float>(tile.start)) {  // else all of the tile comes after these queries
                const bool masked = first_limit < static_cast<float>(tile.start + tile.entries - 1);
                if (taken == 1) attend_tile<1>(s, dim, first, tile, masked, ahead);
                else attend_tile<kAttentionBlocks>(s, dim, first, tile, masked, ahead);
            }
            first += taken;
        }
        tile = next;
    }
}

void merge(const AttentionTask& task, const float* other_state) {
    const int64_t dim = task.head_dim, block_stride = (dim + 2) * kLanes;
    for (int64_t block = 0; block * kLanes < rows_of(task); ++block) {
        float* total = task.state + block * block_stride;
        const float* other = other_state + block * block_stride;
        const Floats mine = load(total + dim * kLanes), theirs = load(other + dim * kLanes);
        const Floats high = max(mine, theirs);
        const Floats keep = exponential(mine - high), take = exponential(theirs - high);
        for (int64_t k = 0; k < dim + 2; ++k) {
            store(total + k * kLanes, fma(load(other + k * kLanes), take, load(total + k * kLanes) * keep));
        }
        store(total + dim * kLanes, high);
    }
}

void finish(const AttentionTask& task) {
    const int64_t dim = task.head_dim;
    for (int64_t i = 0; i < rows_of(task); ++i) {
        const float* lane = task.state + i / kLanes * (dim + 2) * kLanes + i % kLanes;
        const float inverse = 1.0f / lane[(dim + 1) * kLanes];
        float* out = task.out + row_offset(task, i);
        for (int64_t k = 0; k < dim; ++k) out[k] = lane[k * kLanes] * inverse;
    }
}

}  // namespace
}  // namespace chatglm3
