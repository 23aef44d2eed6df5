// One pool of threads for every kernel.
#pragma once

#include <cstdint>

namespace chatglm3 {

using Task = void (*)(const void* context, int64_t begin, int64_t end);

// Calls task(context, begin, end) over pieces of 0..count, at most `grain` long, on `threads` threads, the
// caller's among them, or on fewer where there are no more to be had. Pieces are taken one by one, so a thread that the
// system puts aside holds up one piece only. A task must not call it again.
// Throws bad_alloc, when nothing of the task runs any more, if a piece threw anything.
void run_parallel(int threads, int64_t count, int64_t grain, Task task, const void* context);

// The same for a function object.
template <typename F>
void parallel_for(int threads, int64_t count, int64_t grain, const F& body) {
    if (threads <= 1 || count <= grain) {
        if (count > 0) body(int64_t{0}, count);
        return;
    }
    run_parallel(
        threads, count, grain,
        [](const void* context, int64_t begin, int64_t end) { (*static_cast<const F*>(context))(begin, end); },
        &body);
}

}  // namespace chatglm3
