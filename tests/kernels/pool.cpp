// Uses the pool of threads as engines do. test_pool.py compiles it and runs one scenario after another.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "threads.h"

using chatglm3::parallel_for;

namespace {

// Whether every one of `count` places was visited, and once.
bool visits_all(int threads, int64_t count, int64_t grain) {
    std::vector<int> visits(static_cast<size_t>(count));
    parallel_for(threads, count, grain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
    });
    for (const int visit : visits) {
        if (visit != 1) return false;
    }
    return true;
}

bool changing_sizes() {
    for (int round = 0; round < 3000; ++round) {
        if (!visits_all(1 + round % 5, round * 7 % 300, 1 + round % 9)) return false;
    }
    return true;
}

// Three callers at once: one has the pool, the others compute alone.
bool several_callers() {
    bool good[3] = {};
    std::vector<std::thread> callers;
    for (bool& one : good) callers.emplace_back([&one] { one = changing_sizes(); });
    for (std::thread& caller : callers) caller.join();
    return good[0] && good[1] && good[2];
}

// Some pieces throw; the caller hears of it after the last piece, and the pool goes on.
bool failing_pieces() {
    for (int round = 0; round < 300; ++round) {
        std::vector<int> visits(64);
        bool thrown = false;
        try {
            parallel_for(4, 64, 1, [&](int64_t begin, int64_t) {
                ++visits[static_cast<size_t>(begin)];
                if (begin % 3 == 0) throw std::runtime_error("a piece fails");
            });
        } catch (const std::bad_alloc&) {
            thrown = true;
        }
        if (!thrown || std::accumulate(visits.begin(), visits.end(), 0) != 64 || !visits_all(4, 64, 1)) return false;
    }
    return true;
}

// No memory for another thread's stack: what there is does the work.
bool refused_threads() {
    int64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const auto most = static_cast<rlim_t>(pages * sysconf(_SC_PAGESIZE) + (4 << 20));
    const rlimit limit{most, most};
    return setrlimit(RLIMIT_AS, &limit) == 0 && visits_all(16, 1000, 1);
}

// Threads do not survive a fork: the child has to make its own, also while the parent's are at work.
bool forks() {
    if (!visits_all(3, 1000, 1)) return false;
    std::thread other([] { changing_sizes(); });
    bool good = true;
    for (int i = 0; i < 5; ++i) {
        const pid_t child = fork();
        if (child == 0) _exit(changing_sizes() ? 0 : 1);
        int status = 0;
        good = waitpid(child, &status, 0) == child && status == 0 && visits_all(3, 1000, 1) && good;
    }
    other.join();
    return good;
}

}  // namespace

int main(int, char** arguments) {
    const struct {
        const char* name;
        bool (*run)();
    } scenarios[] = {{"changing_sizes", changing_sizes},   {"several_callers", several_callers},
                     {"failing_pieces", failing_pieces},   {"refused_threads", refused_threads},
                     {"forks", forks}};
    for (const auto& scenario : scenarios) {
        if (std::string(arguments[1]) == scenario.name) return scenario.run() ? 0 : 1;
    }
    std::fprintf(stderr, "no such scenario\n");
    return 2;
}
