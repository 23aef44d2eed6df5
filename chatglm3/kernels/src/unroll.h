#pragma once

#include <cstdint>
#include <utility>

// For the lambdas that unroll takes: left as calls, they would put every array into memory.
#define INLINE __attribute__((always_inline))

namespace chatglm3 {
namespace {

// f(0), f(1), ... f(N - 1) with constants for arguments. Unrolled this early, arrays indexed by them stay in
// registers; GCC unrolls loops only after it has decided that such arrays live in memory.
template <int N, typename F>
[[gnu::always_inline]] inline void unroll(const F& f) {
    [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
        (f(std::integral_constant<int, I>{}), ...);
    }(std::make_integer_sequence<int, N>{});
}

// f(count), with a constant for its argument; count is one of 1..Most.
template <int Most, typename F>
[[gnu::always_inline]] inline void with_constant(int64_t count, const F& f) {
    unroll<Most>([&](auto less) INLINE {
        constexpr int kCount = decltype(less)::value + 1;
        if (count == kCount) f(std::integral_constant<int, kCount>{});
    });
}

}  // namespace
}  // namespace chatglm3
