#include "matmul.h"

#include <algorithm>
#include <new>

#include "threads.h"

namespace chatglm3 {
namespace {

constexpr size_t kLine = 64;

// Work is cut into pieces of about this cost, in bytes read at one token: some ten microseconds, against which
// taking a piece is nothing, and which another thread can take over when the system puts one aside.
constexpr int64_t kPieceCost = 192 << 10;

// A multiply-add costs about as much as this part of a byte read from memory.
constexpr int64_t kMultiplyAddsPerByte = 8;

}  // namespace

void Buffer::Free::operator()(void* memory) const { ::operator delete(memory, std::align_val_t{kLine}); }

void* Buffer::reserve(size_t bytes) {
    if (bytes > capacity_) {
        memory_.reset();  // first: both at once would double the peak
        capacity_ = 0;
        memory_.reset(::operator new(bytes, std::align_val_t{kLine}));
        capacity_ = bytes;
    }
    return memory_.get();
}

Quantized Multiplier::quantize(const Matrix& weight, const float* x, int64_t x_stride, int64_t tokens) {
    const int64_t groups = weight.groups();
    Quantized q{};
    q.tokens = tokens;
    // One line more than the row: rows a power of two apart would all fall into the same lines of the cache.
    q.stride = (groups * weight.group_size + 127) / 64 * 64;
    q.codes = codes_.get<int8_t>(tokens * q.stride);
    q.scales = scales_.get<float>(tokens * groups);
    q.offsets = offsets_.get<int32_t>(tokens * groups);
    parallel_for(threads, tokens, std::max<int64_t>(1, (16 << 10) / weight.columns), [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) kernels.quantize(x + t * x_stride, weight, q.from(t));
    });
    return q;
}

void Multiplier::multiply(const Matrix& weight, const float* x, int64_t x_stride, int64_t tokens, const Output& out) {
    if (weight.quantized()) {
        const Quantized q = quantize(weight, x, x_stride, tokens);
        const int64_t cost = weight.block_bytes() + tokens * weight.columns * kLanes / kMultiplyAddsPerByte / 4;
        const int64_t grain = std::max<int64_t>(1, kPieceCost / cost / 2) * 2;  // even: blocks go in pairs
        parallel_for(threads, weight.blocks(), grain, [&](int64_t begin, int64_t end) {
            kernels.multiply_quantized(weight, q, tokens, begin, end, out);
        });
    } else {
        const int64_t bytes = weight.columns * (weight.format == kFloat32 ? 4 : 2);
        const int64_t cost = bytes + tokens * weight.columns / kMultiplyAddsPerByte;
        const int64_t grain = (kPieceCost / cost + 4) / 4 * 4;  // tiles are up to 4 rows high
        parallel_for(threads, weight.rows, grain, [&](int64_t begin, int64_t end) {
            kernels.multiply_dense(weight, x, x_stride, tokens, begin, end, out);
        });
    }
}

}  // namespace chatglm3
