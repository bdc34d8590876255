// Threads that share out the parts of one function at a time. Waiting threads spin for a moment, then sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace ernie {

class ThreadPool {
  public:
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const { return int(workers_.size()) + 1; }

    // Calls task(part, parts) once for every part and returns when all are done. A thread takes the next part
    // when it is done with one, the caller too; no thread waits for one that has not begun, so a thread that
    // the system does not schedule costs its help and no more. Calls must not overlap; the task must not throw.
    void run(int parts, const std::function<void(int, int)>& task);
    void run(const std::function<void(int, int)>& task) { run(size(), task); }

  private:
    void work();
    void take_parts();
    bool join(uint64_t state);
    uint64_t wait_for_call(uint64_t seen);

    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable wake_;
    const std::function<void(int, int)>* task_ = nullptr;
    int parts_ = 0;
    std::atomic<int> next_part_{0};
    // The number of the call (upper half), whether workers may join it, and how many have (lower half).
    std::atomic<uint64_t> state_{0};
    std::atomic<bool> is_stopping_{false};
};

}  // namespace ernie
