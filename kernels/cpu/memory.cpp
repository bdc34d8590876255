#include "memory.hpp"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <new>

namespace ernie {

void FreeDeleter::operator()(void* memory) const { std::free(memory); }

Memory allocate_zeroed(size_t bytes) {
    constexpr size_t kCacheLine = 64, kHugePage = size_t(2) << 20;
    const size_t alignment = bytes >= kHugePage ? kHugePage : kCacheLine;
    // Not a multiple of huge pages: what a matrix of an expert would be rounded up by adds up to gigabytes.
    const size_t rounded = (bytes + kCacheLine) / kCacheLine * kCacheLine;
    void* memory = nullptr;
    if (posix_memalign(&memory, alignment, rounded) != 0) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    if (alignment == kHugePage) madvise(memory, rounded, MADV_HUGEPAGE);
#endif
    std::memset(memory, 0, rounded);
    return Memory(memory);
}

}  // namespace ernie
