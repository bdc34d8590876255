// Zeroed memory aligned for SIMD. It becomes resident as it is touched, each page on the NUMA node of the
// thread that touches it first.
#pragma once

#include <cstddef>
#include <memory>

namespace ernie {

using Memory = std::shared_ptr<void>;

// Large allocations ask for huge pages. Throws std::bad_alloc.
Memory allocate_zeroed(size_t bytes);

// For what lives as long as a model: allocations lie one after another in large chunks of huge pages, of which
// a matrix alone would fill the last one in part only. A chunk is freed with the last of its allocations.
// Throws std::bad_alloc.
Memory allocate_in_chunk(size_t bytes);

}  // namespace ernie
