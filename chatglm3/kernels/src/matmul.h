// Matrix products cut into pieces for the pool of threads, and the memory that they need for a while.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels.h"

namespace chatglm3 {

// Memory that grows to the most that was asked for and is kept, aligned to cache lines. Its content is not.
class Buffer {
  public:
    template <typename T>
    T* get(int64_t count) {
        return static_cast<T*>(reserve(static_cast<size_t>(count) * sizeof(T)));
    }

  private:
    struct Free {
        void operator()(void* memory) const;
    };
    void* reserve(size_t bytes);

    std::unique_ptr<void, Free> memory_;
    size_t capacity_ = 0;
};

// Runs products on several threads. One thread at a time may use it.
class Multiplier {
  public:
    explicit Multiplier(const Kernels& kernels) : kernels(kernels) {}

    // out = x times weight, transposed, plus bias. x: [tokens, x_stride].
    void multiply(const Matrix& weight, const float* x, int64_t x_stride, int64_t tokens, const Output& out);

    const Kernels& kernels;
    int threads = 1;

  private:
    Quantized quantize(const Matrix& weight, const float* x, int64_t x_stride, int64_t tokens);

    Buffer codes_, scales_, offsets_;
};

}  // namespace chatglm3
