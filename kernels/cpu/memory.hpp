// Zeroed memory aligned for SIMD. It becomes resident as it is touched, each page on the NUMA node of the
// thread that touches it first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace ernie {

using Memory = std::shared_ptr<void>;

// Not zeroed; large allocations ask for huge pages. std::free releases it. Throws std::bad_alloc.
void* allocate_aligned(size_t bytes);

// The same, zeroed.
Memory allocate_zeroed(size_t bytes);

// The same, for arrays that fill up at the same pace, as the caches of a model's layers do: each begins
// elsewhere in a huge page. Otherwise all of them would touch their next one in the same step, and making a
// hundred megabytes resident at once can take longer than the step. Below its first whole huge page are small
// ones, so nothing is resident that is not used.
Memory allocate_staggered(size_t bytes);

// For what lives as long as a model: all of it is in huge pages. Small allocations lie one after another in
// chunks of them, which are freed with the last of their allocations. Throws std::bad_alloc.
Memory allocate_in_chunk(size_t bytes);

// Huge pages that are used again: what was taken comes back with the last reference to it. The smallest free
// block that is large enough is taken; if none is, all free ones are freed first, so that steps of many sizes
// keep no more than the largest needs. The rest is freed with the pool and all that was taken.
class MemoryPool {
  public:
    // Not zeroed. Throws std::bad_alloc.
    Memory take(size_t bytes);

  private:
    struct Blocks {
        std::mutex mutex;
        std::multimap<size_t, Memory> free;  // by bytes
    };
    std::shared_ptr<Blocks> blocks_ = std::make_shared<Blocks>();
};

template <typename T>
struct AlignedAllocator {
    using value_type = T;
    AlignedAllocator() = default;
    template <typename U>
    AlignedAllocator(const AlignedAllocator<U>&) {}
    T* allocate(size_t items) { return static_cast<T*>(allocate_aligned(items * sizeof(T))); }
    void deallocate(T* memory, size_t) { std::free(memory); }
    bool operator==(const AlignedAllocator&) const { return true; }
};

// Memory of an op that the next one uses again.
template <typename T>
using Scratch = std::vector<T, AlignedAllocator<T>>;

template <typename T>
T* grow(Scratch<T>& scratch, int64_t items) {
    if (int64_t(scratch.size()) < items) scratch.resize(size_t(items));
    return scratch.data();
}

}  // namespace ernie
