#include "memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <new>

namespace ernie {
namespace {

constexpr size_t kCacheLine = 64, kHugePage = size_t(2) << 20;

// Makes the whole pages at `memory`, which begins one, read as zeros: the kernel takes them away and gives
// zeroed ones at the next touch. Returns how many bytes they have; 0 where it does not do that.
size_t drop_pages([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes) {
#if defined(__linux__)
    madvise(memory, bytes, MADV_HUGEPAGE);
    const size_t page = size_t(sysconf(_SC_PAGESIZE)), whole = bytes / page * page;
    if (madvise(memory, whole, MADV_DONTNEED) == 0) return whole;
#endif
    return 0;
}

}  // namespace

void FreeDeleter::operator()(void* memory) const { std::free(memory); }

Memory allocate_zeroed(size_t bytes) {
    const bool is_large = bytes >= kHugePage;
    // Not a multiple of huge pages: what a matrix of an expert would be rounded up by adds up to gigabytes.
    const size_t rounded = (bytes + kCacheLine) / kCacheLine * kCacheLine;
    void* memory = nullptr;
    if (posix_memalign(&memory, is_large ? kHugePage : kCacheLine, rounded) != 0) throw std::bad_alloc();
    const size_t zeroed = is_large ? drop_pages(memory, rounded) : 0;
    std::memset(static_cast<char*>(memory) + zeroed, 0, rounded - zeroed);
    return Memory(memory);
}

}  // namespace ernie
