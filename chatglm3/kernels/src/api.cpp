// What chatglm3/kernels/library.py calls. Plain C functions: no header of Python's or PyTorch's is needed, one library
// serves every Python, and ctypes lets go of the interpreter lock for the time of a call.

#include <algorithm>
#include <chrono>
#include <exception>

#include "kernels.h"
#include "levels.h"
#include "network.h"
#include "threads.h"

using namespace chatglm3;

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

uint32_t flip_of(const Matrix& m) { return m.format == kInt8 ? 0x80808080u : 0u; }

// Scales of a block's rows [rows, groups] to [groups, 16].
void pack_scales(const Kernels& kernels, const uint16_t* scales, int64_t rows, int64_t groups, uint16_t* packed) {
    const int64_t pairs = groups / 2;  // two groups of a row in a word
    for (int64_t start = 0; start < pairs; start += kLanes) {
        uint32_t words[kLanes][kLanes];
        const int64_t count = std::min<int64_t>(kLanes, pairs - start);
        kernels.interleave(reinterpret_cast<const uint8_t*>(scales + 2 * start), rows, groups * 2, count, 0,
                           reinterpret_cast<uint8_t*>(words));
        uint16_t* target = packed + 2 * start * kLanes;
        for (int64_t pair = 0; pair < count; ++pair) {
            for (const uint32_t word : words[pair]) {
                target[0] = static_cast<uint16_t>(word);
                target[kLanes] = static_cast<uint16_t>(word >> 16);
                ++target;
            }
            target += kLanes;
        }
    }
    for (int64_t lane = 0; groups % 2 == 1 && lane < kLanes; ++lane) {
        packed[2 * pairs * kLanes + lane] = lane < rows ? scales[lane * groups + 2 * pairs] : uint16_t{0};
    }
}

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

EXPORT const char* chatglm3_sources() { return CHATGLM3_SOURCES; }

EXPORT const Kernels* chatglm3_level(const char* name) { return find_level(name); }

EXPORT const char* chatglm3_level_name(const Kernels* kernels) { return kernels->name; }

EXPORT Workspace* chatglm3_workspace(const Kernels* kernels) { return new Workspace(*kernels); }

EXPORT void chatglm3_workspace_free(Workspace* workspace) { delete workspace; }

// Returns false where memory ran out; nothing else can fail.
EXPORT bool chatglm3_forward(Workspace* workspace, const NetworkWeights* network, const Cache* cache,
                             const Batch* batch, int32_t threads, float* hidden) {
    try {
        workspace->forward(*network, *cache, *batch, threads, hidden);
        return true;
    } catch (const std::exception&) {
        return false;
    }
}

EXPORT bool chatglm3_multiply(Workspace* workspace, const Matrix* weight, const float* x, int64_t tokens,
                              int32_t threads, float* out) {
    try {
        workspace->multiply(*weight, x, tokens, threads, out);
        return true;
    } catch (const std::exception&) {
        return false;
    }
}

// Plain tensors (chatglm3/quant/groupwise.py) to the packed form of Matrix, whose memory is given in `to`. The pages of
// `codes` may be mapped from a file: they are read once, front to back.
EXPORT void chatglm3_pack(const Kernels* kernels, const Matrix* to, const uint8_t* codes, const uint16_t* scales,
                          int32_t threads) {
    const Matrix& m = *to;
    const int64_t block_bytes = m.block_bytes(), row_bytes = block_bytes / kLanes, groups = m.groups();
    auto* packed = static_cast<uint8_t*>(const_cast<void*>(m.weight));
    auto* packed_scales = const_cast<uint16_t*>(m.scales);
    const int64_t grain = std::max<int64_t>(1, (256 << 10) / block_bytes);
    parallel_for(threads, m.blocks(), grain, [&](int64_t begin, int64_t end) {
        for (int64_t block = begin; block < end; ++block) {
            const int64_t row = block * kLanes, rows = std::min<int64_t>(kLanes, m.rows - row);
            kernels->interleave(codes + row * row_bytes, rows, row_bytes, row_bytes / 4, flip_of(m),
                                packed + block * block_bytes);
            pack_scales(*kernels, scales + row * groups, rows, groups, packed_scales + block * groups * kLanes);
        }
    });
}

// The way back, bit for bit.
EXPORT void chatglm3_unpack(const Kernels* kernels, const Matrix* from, uint8_t* codes, uint16_t* scales,
                            int32_t threads) {
    const Matrix& m = *from;
    const int64_t block_bytes = m.block_bytes(), row_bytes = block_bytes / kLanes, groups = m.groups();
    const auto* packed = static_cast<const uint8_t*>(m.weight);
    parallel_for(threads, m.blocks(), 1, [&](int64_t begin, int64_t end) {
        for (int64_t block = begin; block < end; ++block) {
            const int64_t row = block * kLanes, rows = std::min<int64_t>(kLanes, m.rows - row);
            kernels->separate(packed + block * block_bytes, rows, row_bytes, row_bytes / 4, flip_of(m),
                              codes + row * row_bytes);
            for (int64_t lane = 0; lane < rows; ++lane) {
                for (int64_t group = 0; group < groups; ++group) {
                    scales[(row + lane) * groups + group] = m.scales[(block * groups + group) * kLanes + lane];
                }
            }
        }
    });
}

// Bytes a second that all threads together read from `data`, once.
EXPORT double chatglm3_read_rate(const Kernels* kernels, const void* data, int64_t bytes, int32_t threads) {
    const auto start = std::chrono::steady_clock::now();
    constexpr int64_t kPiece = 1 << 20;
    parallel_for(threads, bytes / kPiece, 1, [&](int64_t begin, int64_t end) {
        volatile float sink =
            kernels->read_all(static_cast<const char*>(data) + begin * kPiece, (end - begin) * kPiece);
        (void)sink;
    });
    return static_cast<double>(bytes / kPiece * kPiece) / seconds_since(start);
}

// int8 operations a second (a multiply-add is two) that all threads together do on registers.
EXPORT double chatglm3_dot_rate(const Kernels* kernels, int64_t rounds, int32_t threads) {
    const auto start = std::chrono::steady_clock::now();
    const int64_t pieces = int64_t{threads} * 8;
    parallel_for(threads, pieces, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            volatile float sink = kernels->dot_rounds(rounds);
            (void)sink;
        }
    });
    return static_cast<double>(pieces * rounds) * 12 * 4 * kLanes * 2 / seconds_since(start);
}
