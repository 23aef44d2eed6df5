// Which levels this processor has. Compiled for the plainest instructions, so that it can ask anywhere.
#include "levels.h"

#include <cstring>

namespace chatglm3 {

const Kernels* find_level(const char* name) {
#if defined(__x86_64__)
    // The system must save the wide registers too; __builtin_cpu_supports looks at that.
    __builtin_cpu_init();
    const bool avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    const struct {
        bool present;
        const Kernels* kernels;
    } levels[] = {{vnni, kernels_avx512vnni()}, {avx512, kernels_avx512()}, {avx2, kernels_avx2()}};
    for (const auto& level : levels) {
        if (level.present && (*name == '\0' || std::strcmp(name, level.kernels->name) == 0)) return level.kernels;
    }
#endif
    return nullptr;
}

}  // namespace chatglm3
