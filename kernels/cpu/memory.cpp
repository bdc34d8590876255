#include "memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
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
    const size_t page = size_t(sysconf(_SC_PAGESIZE)), whole = bytes / page * page;
    if (madvise(memory, whole, MADV_DONTNEED) == 0) return whole;
#endif
    return 0;
}

}  // namespace

void* allocate_aligned(size_t bytes) {
    const bool is_large = bytes >= kHugePage;
    void* memory = nullptr;
    if (posix_memalign(&memory, is_large ? kHugePage : kCacheLine, bytes) != 0) throw std::bad_alloc();
#if defined(__linux__)
    if (is_large) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    return memory;
}

Memory allocate_zeroed(size_t bytes) {
    const size_t rounded = round_up(bytes + 1, kCacheLine);
    Memory memory(allocate_aligned(rounded), std::free);
    const size_t zeroed = rounded >= kHugePage ? drop_pages(memory.get(), rounded) : 0;
    std::memset(static_cast<char*>(memory.get()) + zeroed, 0, rounded - zeroed);
    return memory;
}

Memory allocate_staggered(size_t bytes) {
    if (bytes < kHugePage) return allocate_zeroed(bytes);
    static std::atomic<uint32_t> count{0};
    // Multiples of the golden ratio, modulo 1, are spread evenly however many there are.
    const size_t offset = (count++ * 2654435769u >> 17) * kCacheLine;  // 15 bits of it: below 2 MiB
    const Memory whole = allocate_zeroed(offset + bytes);
#if defined(__linux__)
    madvise(whole.get(), kHugePage, MADV_NOHUGEPAGE);
#endif
    return Memory(whole, static_cast<char*>(whole.get()) + offset);
}

Memory allocate_in_chunk(size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
    return allocate_zeroed(bytes);  // its neighbours would hide what is read or written behind it
#else
    static std::mutex mutex;
    static std::weak_ptr<void> last;  // the chunk with room, while one of its allocations lives
    static size_t used = 0;
    const std::lock_guard<std::mutex> lock(mutex);
    const size_t rounded = round_up(bytes + 1, kCacheLine);
    if (rounded > kChunk / 8)  // alone: in a chunk much would be left over that is too small for the next one
        return allocate_zeroed(round_up(rounded, kHugePage));
    Memory chunk = last.lock();
    if (!chunk || kChunk - used < rounded) {
        chunk = allocate_zeroed(kChunk);
        last = chunk;
        used = 0;
    }
    const Memory memory(chunk, static_cast<char*>(chunk.get()) + used);
    used += rounded;
    return memory;
#endif
}

Memory MemoryPool::take(size_t bytes) {
    size_t size = round_up(bytes + 1, kHugePage);
    Memory block;
    {
        const std::lock_guard<std::mutex> lock(blocks_->mutex);
        if (const auto found = blocks_->free.lower_bound(size); found == blocks_->free.end()) {
            blocks_->free.clear();
        } else {
            size = found->first;
            block = std::move(found->second);
            blocks_->free.erase(found);
        }
    }
    if (!block) block = {allocate_aligned(size), std::free};
    return {block.get(), [blocks = blocks_, size, block](void*) {
                const std::lock_guard<std::mutex> lock(blocks->mutex);
                try {
                    blocks->free.emplace(size, block);
                } catch (const std::bad_alloc&) {  // then it is freed
                }
            }};
}

}  // namespace ernie
