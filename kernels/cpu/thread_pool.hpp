// A fixed set of threads that run one function on all of them. Waiting threads spin for a moment, then sleep.
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

    // Calls task(part, size()) once for every part; part 0 on the calling thread. Returns when all are done.
    // Calls must not overlap; the task must not throw.
    void run(const std::function<void(int, int)>& task);

    // Calls task(chunk, chunks) once for every chunk; threads take the next chunk when they are done with one,
    // so that a thread that the system holds up delays the others by one chunk only.
    void run_chunks(int chunks, const std::function<void(int, int)>& task);

  private:
    void work(int part);
    bool wait_for_next(uint64_t seen);

    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable wake_;
    const std::function<void(int, int)>* task_ = nullptr;
    std::atomic<uint64_t> generation_{0};
    std::atomic<int> pending_{0};
    std::atomic<bool> is_stopping_{false};
};

}  // namespace ernie
