// Finds the pages of a sequence in the paged cache.
#pragma once

#include "cache_append.hpp"

namespace ernie::ERNIE_VARIANT {

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

inline float* take(float*& scratch, int64_t count) {
    float* taken = scratch;
    scratch += count;
    return taken;
}

// kPage slots of one kv head (layout: attention_task.hpp); scales are null where T needs none.
template <typename T>
struct Page {
    const T* keys;
    const T* values;
    const float* key_scales;
    const float* value_scales;
};

// Blocks of whole pages are read where they are, others are gathered slot by slot into one of `places` pages.
template <typename T>
class PageFinder {
  public:
    PageFinder(const AttentionTask& task, const AttentionUnit& unit, int64_t places, float*& scratch)
        : task_(task), unit_(unit), cache_(task.cache), size_(kPage * cache_.stride) {
        keys_ = reinterpret_cast<T*>(take(scratch, places * size_));
        values_ = reinterpret_cast<T*>(take(scratch, places * size_));
        key_scales_ = take(scratch, places * kPage);
        value_scales_ = take(scratch, places * kPage);
    }

    // The page from `position` on, of which the first `count` slots are needed.
    Page<T> find(int64_t position, int64_t count, int64_t place) {
        if (cache_.block_size % kPage) return gather(position, smaller(count, kPage), place);
        const int64_t at = locate_slot(task_, unit_.sequence, position, unit_.kv_head).page;
        Page<T> page{static_cast<const T*>(cache_.keys) + at * size_,
                     static_cast<const T*>(cache_.values) + at * size_, nullptr, nullptr};
        if (cache_.key_scales) {
            page.key_scales = cache_.key_scales + at * kPage;
            page.value_scales = cache_.value_scales + at * kPage;
        }
        return page;
    }

    // Asks for the page from `position` on, which will be read soon: processors look no further than 4 KiB
    // ahead.
    void prefetch(int64_t position) const {
        if (cache_.block_size % kPage) return;
        const int64_t at = locate_slot(task_, unit_.sequence, position, unit_.kv_head).page;
        const T* keys = static_cast<const T*>(cache_.keys) + at * size_;
        const T* values = static_cast<const T*>(cache_.values) + at * size_;
        for (int64_t i = 0; i < size_; i += kLine) __builtin_prefetch(keys + i);
        for (int64_t i = 0; i < size_; i += kLine) __builtin_prefetch(values + i);
    }

    // One past the last key that the unit sees.
    int64_t end() const {
        const int64_t keys = unit_.context + (unit_.end - 1) / task_.group() + 1;
        return smaller(keys, unit_.last_range * kKeyRange);
    }

  private:
    static constexpr int64_t kLine = 64 / sizeof(T);

    // Values of slots that no row sees are 0, as weights of 0 multiply them (bfloat16_attention.hpp).
    Page<T> gather(int64_t position, int64_t count, int64_t place) {
        if (count < kPage) std::memset(values_ + place * size_, 0, size_t(size_) * sizeof(T));
        for (int64_t lane = 0; lane < count; ++lane)
            gather_slot(locate_slot(task_, unit_.sequence, position + lane, unit_.kv_head), place, lane);
        Page<T> page{keys_ + place * size_, values_ + place * size_, nullptr, nullptr};
        if (cache_.key_scales) {
            page.key_scales = key_scales_ + place * kPage;
            page.value_scales = value_scales_ + place * kPage;
        }
        return page;
    }

    void gather_slot(SlotPlace from, int64_t place, int64_t lane) {
        const T* keys = static_cast<const T*>(cache_.keys) + from.page * size_ + from.lane;
        for (int64_t d = 0; d < cache_.stride; ++d) keys_[place * size_ + d * kPage + lane] = keys[d * kPage];
        const T* values = static_cast<const T*>(cache_.values) + from.page * size_ + from.lane * kPage;
        for (int64_t d = 0; d < size_; d += kPage * kPage)
            std::memcpy(values_ + place * size_ + d + lane * kPage, values + d, kPage * sizeof(T));
        if (!cache_.key_scales) return;
        key_scales_[place * kPage + lane] = cache_.key_scales[from.page * kPage + from.lane];
        value_scales_[place * kPage + lane] = cache_.value_scales[from.page * kPage + from.lane];
    }

    const AttentionTask& task_;
    const AttentionUnit& unit_;
    const CacheView& cache_;
    int64_t size_;
    T* keys_;
    T* values_;
    float* key_scales_;
    float* value_scales_;
};

}  // namespace ernie::ERNIE_VARIANT
