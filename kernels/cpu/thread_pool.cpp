#include "thread_pool.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ernie {
namespace {

constexpr int kSpins = 2000;  // about 50 us: longer than the gap between two ops of a step

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
    for (int part = 1; part < threads; ++part) workers_.emplace_back([this, part] { work(part); });
}

ThreadPool::~ThreadPool() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        is_stopping_ = true;
        ++generation_;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(const std::function<void(int, int)>& task) {
    if (!workers_.empty()) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            task_ = &task;
            pending_ = int(workers_.size());
            ++generation_;
        }
        wake_.notify_all();
    }
    task(0, size());
    for (int spins = 0; spins < kSpins && pending_.load(std::memory_order_acquire) > 0; ++spins) pause();
    for (int left; (left = pending_.load(std::memory_order_acquire)) > 0;) pending_.wait(left);
}

void ThreadPool::run_chunks(int chunks, const std::function<void(int, int)>& task) {
    std::atomic<int> next{0};
    run([&](int, int) {
        for (int chunk; (chunk = next.fetch_add(1, std::memory_order_relaxed)) < chunks;) task(chunk, chunks);
    });
}

void ThreadPool::work(int part) {
    for (uint64_t seen = 0;; ++seen) {
        if (!wait_for_next(seen)) return;
        (*task_)(part, size());
        if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_one();
    }
}

// Waits until generation_ passes `seen`; false when the pool is being destroyed.
bool ThreadPool::wait_for_next(uint64_t seen) {
    for (int spins = 0; spins < kSpins; ++spins) {
        if (generation_.load(std::memory_order_acquire) != seen) return !is_stopping_;
        pause();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
    return !is_stopping_;
}

}  // namespace ernie
