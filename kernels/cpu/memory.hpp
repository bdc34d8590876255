// Zeroed memory aligned for SIMD; large allocations ask for huge pages and become resident as they are touched,
// each page on the NUMA node of the thread that touches it first.
#pragma once

#include <cstddef>
#include <memory>

namespace ernie {

struct FreeDeleter {
    void operator()(void* memory) const;
};

using Memory = std::unique_ptr<void, FreeDeleter>;

// Throws std::bad_alloc.
Memory allocate_zeroed(size_t bytes);

}  // namespace ernie
