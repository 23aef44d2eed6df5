#include "threads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

namespace chatglm3 {
namespace {

constexpr int kSpins = 4000;  // some 50 microseconds: longer than the gap between two kernels of one step
constexpr int kYields = 50;
constexpr uint32_t kNothingLeft = UINT32_MAX;

inline void pause_briefly() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

template <typename Condition>
void wait_until(const Condition& condition) {
    for (int spins = 0; !condition(); ++spins) {
        if (spins < kSpins) {
            pause_briefly();
        } else {
            std::this_thread::yield();  // the thread waited for may need this very processor
        }
    }
}

// A job is published under a new ticket. Pieces are claimed from `next_`, which carries the job's ticket in its
// upper half. `inside_` counts the workers that may read the job's fields: they are written only while it is 0 and
// no older ticket is claimable, so a worker that wakes up late finds another ticket and leaves.
class Pool {
  public:
    static Pool& instance() {
        // Never destroyed: workers may still be parked on it when the process ends.
        static std::atomic<Pool*> pool = [] {
            pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });  // threads do not survive a fork
            return new Pool;
        }();
        return *pool;
    }

    void run(int threads, int64_t count, int64_t grain, Task task, const void* context) {
        // Two callers at once (two engines in two threads): the second computes alone.
        std::unique_lock lock(busy_, std::try_to_lock);
        if (!lock) {
            task(context, 0, count);
            return;
        }
        grow(threads - 1);
        const uint32_t ticket = ++last_ticket_;
        next_.store(uint64_t{ticket} << 32 | kNothingLeft, std::memory_order_seq_cst);
        wait_until([this] { return inside_.load(std::memory_order_seq_cst) == 0; });
        grain = std::max(grain, (count >> 30) + 1);  // a piece's number has 32 bits
        task_ = task;
        context_ = context;
        count_ = count;
        grain_ = grain;
        const auto pieces = static_cast<uint32_t>((count + grain - 1) / grain);
        pieces_ = pieces;
        helpers_ = threads - 1;
        done_.store(0, std::memory_order_relaxed);
        failed_.store(false, std::memory_order_relaxed);
        next_.store(uint64_t{ticket} << 32, std::memory_order_release);
        ticket_.store(ticket, std::memory_order_seq_cst);
        if (parked_.load(std::memory_order_seq_cst) > 0) ticket_.notify_all();
        work(ticket);
        wait_until([this, pieces] { return done_.load(std::memory_order_acquire) == pieces; });
        if (failed_.load(std::memory_order_relaxed)) throw std::bad_alloc();
    }

  private:
    void grow(int workers) {
        try {
            for (; workers_ < workers; ++workers_) std::thread([this, index = workers_] { serve(index); }).detach();
        } catch (const std::system_error&) {
            // The system gives no more of them; the caller takes every piece that no other thread takes.
        }
    }

    void work(uint32_t ticket) {
        for (;;) {
            uint64_t claim = next_.load(std::memory_order_acquire);
            for (;;) {
                if (claim >> 32 != ticket || static_cast<uint32_t>(claim) >= pieces_) return;
                if (next_.compare_exchange_weak(claim, claim + 1, std::memory_order_acq_rel)) break;
            }
            const int64_t begin = static_cast<int64_t>(static_cast<uint32_t>(claim)) * grain_;
            try {
                task_(context_, begin, std::min(begin + grain_, count_));
            } catch (...) {  // thrown on by run(), once no thread uses the caller's variables any more
                failed_.store(true, std::memory_order_relaxed);
            }
            done_.fetch_add(1, std::memory_order_acq_rel);
        }
    }

    void serve(int index) {
        uint32_t seen = 0;
        for (;;) {
            uint32_t ticket;
            for (int spins = 0; (ticket = ticket_.load(std::memory_order_acquire)) == seen; ++spins) {
                if (spins < kSpins) {
                    pause_briefly();
                } else if (spins < kSpins + kYields) {
                    std::this_thread::yield();
                } else {
                    parked_.fetch_add(1, std::memory_order_seq_cst);
                    ticket_.wait(seen, std::memory_order_seq_cst);
                    parked_.fetch_sub(1, std::memory_order_relaxed);
                }
            }
            seen = ticket;
            inside_.fetch_add(1, std::memory_order_seq_cst);
            // Checked after `inside_` is raised: from here on the caller waits for us.
            if (next_.load(std::memory_order_seq_cst) >> 32 == ticket && index < helpers_) work(ticket);
            inside_.fetch_sub(1, std::memory_order_release);
        }
    }

    std::mutex busy_;
    Task task_ = nullptr;
    const void* context_ = nullptr;
    int64_t count_ = 0, grain_ = 1;
    uint32_t pieces_ = 0, last_ticket_ = 0;
    int workers_ = 0;  // threads there are
    int helpers_ = 0;  // and those of them that may work on this job
    alignas(64) std::atomic<uint64_t> next_{0};
    alignas(64) std::atomic<uint32_t> ticket_{0};
    alignas(64) std::atomic<uint32_t> done_{0};
    alignas(64) std::atomic<int> inside_{0};
    std::atomic<bool> failed_{false};
    alignas(64) std::atomic<int> parked_{0};
};

}  // namespace

void run_parallel(int threads, int64_t count, int64_t grain, Task task, const void* context) {
    Pool::instance().run(threads, count, grain, task, context);
}

}  // namespace chatglm3
