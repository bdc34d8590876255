#include "thread_pool.hpp"

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ernie {
namespace {

// Longer than the gap between two ops that threads share, with one of few rows between them.
constexpr std::chrono::microseconds kSpinTime(150);
constexpr int kPauses = 16;  // from one look at the clock to the next
constexpr uint64_t kCall = uint64_t(1) << 32, kOpen = uint64_t(1) << 31, kJoined = kOpen - 1;

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

// Waits for a moment; returns whether `is_over`.
template <typename Condition>
bool spin_until(const Condition& is_over) {
    const auto end = std::chrono::steady_clock::now() + kSpinTime;
    do {
        for (int pauses = 0; pauses < kPauses; ++pauses) {
            if (is_over()) return true;
            pause();
        }
    } while (std::chrono::steady_clock::now() < end);
    return false;
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
    for (int worker = 1; worker < threads; ++worker) workers_.emplace_back([this] { work(); });
}

ThreadPool::~ThreadPool() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        is_stopping_ = true;
        state_ += kCall;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(int parts, const std::function<void(int, int)>& task) {
    task_ = &task;
    parts_ = parts;
    next_part_.store(0, std::memory_order_relaxed);
    if (workers_.empty() || parts == 1) return take_parts();
    // A call is opened, worked on by its joined workers and the caller, closed when no part is left, and over
    // when the last joined worker has left. A worker that wakes up too late finds it closed, and touches
    // nothing of it.
    {
        const std::lock_guard<std::mutex> lock(mutex_);  // a worker about to sleep must not miss the call
        state_.fetch_add(kCall | kOpen, std::memory_order_release);
    }
    wake_.notify_all();
    take_parts();
    uint64_t state = state_.fetch_and(~kOpen, std::memory_order_acquire) & ~kOpen;
    const auto is_over = [&] { return !((state = state_.load(std::memory_order_acquire)) & kJoined); };
    if (spin_until(is_over)) return;
    for (; state & kJoined; state = state_.load(std::memory_order_acquire))
        state_.wait(state, std::memory_order_acquire);
}

void ThreadPool::take_parts() {
    for (int part; (part = next_part_.fetch_add(1, std::memory_order_relaxed)) < parts_;)
        (*task_)(part, parts_);
}

void ThreadPool::work() {
    for (uint64_t seen = 0;;) {
        const uint64_t state = wait_for_call(seen);
        if (is_stopping_) return;
        seen = state / kCall;
        if (!join(state)) continue;
        take_parts();
        const uint64_t left = state_.fetch_sub(1, std::memory_order_release) - 1;
        if (!(left & (kOpen | kJoined))) state_.notify_one();  // the caller sleeps only when it is closed
    }
}

// Joins the call of `state` unless it has been closed: only until then are task_ and parts_ its.
bool ThreadPool::join(uint64_t state) {
    const uint64_t call = state / kCall;
    while (state / kCall == call && (state & kOpen))
        if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire)) return true;
    return false;
}

// Waits until a call after the one numbered `seen`; returns the state then.
uint64_t ThreadPool::wait_for_call(uint64_t seen) {
    uint64_t state = 0;
    const auto is_new = [&] { return (state = state_.load(std::memory_order_acquire)) / kCall != seen; };
    if (spin_until(is_new)) return state;
    std::unique_lock<std::mutex> lock(mutex_);
    wake_.wait(lock, is_new);
    return state;
}

}  // namespace ernie
