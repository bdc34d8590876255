#include "memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

namespace ernie {
namespace {

constexpr size_t kCacheLine = 64, kHugePage = size_t(2) << 20, kChunk = size_t(64) << 20;

size_t round_up(size_t bytes, size_t multiple) { return (bytes + multiple - 1) / multiple * multiple; }

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

Memory allocate_zeroed(size_t bytes) {
    const bool is_large = bytes >= kHugePage;
    const size_t rounded = round_up(bytes + 1, kCacheLine);
    void* memory = nullptr;
    if (posix_memalign(&memory, is_large ? kHugePage : kCacheLine, rounded) != 0) throw std::bad_alloc();
    const size_t zeroed = is_large ? drop_pages(memory, rounded) : 0;
    std::memset(static_cast<char*>(memory) + zeroed, 0, rounded - zeroed);
    return Memory(memory, std::free);
}

Memory allocate_in_chunk(size_t bytes) {
    static std::mutex mutex;
    static std::weak_ptr<void> last;  // the chunk with room, while one of its allocations lives
    static size_t used = 0, size = 0;
    const std::lock_guard<std::mutex> lock(mutex);
    const size_t rounded = round_up(bytes + 1, kCacheLine);
    Memory chunk = last.lock();
    if (!chunk || size - used < rounded) {
        size = std::max(kChunk, round_up(rounded, kHugePage));
        chunk = allocate_zeroed(size);
        last = chunk;
        used = 0;
    }
    const Memory memory(chunk, static_cast<char*>(chunk.get()) + used);
    used += rounded;
    return memory;
}

}  // namespace ernie
