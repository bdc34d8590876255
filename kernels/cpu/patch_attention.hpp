// Rotated patches, and their attention: every patch sees all patches of its frame (patch_task.hpp).
//
// A row's online softmax runs over tiles of kKeyTile keys from the first patch of the frame on: it does not
// depend on the rows beside it. Bfloat16 numbers are widened, tile by tile.
#pragma once

#include "attention_tile.hpp"
#include "bfloat16.hpp"
#include "rotary.hpp"

namespace ernie::ERNIE_VARIANT {

inline void store_query(const PatchView& p, const float* x, int64_t head, int64_t row) {
    const int64_t at = (head * p.rows + row) * p.stride;
    if (p.kind == CacheKind::Float32)
        std::memcpy(static_cast<float*>(p.queries) + at, x, size_t(p.head_dim) * sizeof(float));
    else
        for (int64_t d = 0; d < p.head_dim; ++d) static_cast<uint16_t*>(p.queries)[at + d] = to_bfloat16(x[d]);
}

inline void store_patch_key(const PatchView& p, const float* x, int64_t page, int64_t lane) {
    if (p.kind == CacheKind::Float32) {
        float* out = static_cast<float*>(p.keys) + page * p.stride * kPage + lane;
        for (int64_t d = 0; d < p.head_dim; ++d) out[d * kPage] = x[d];
        return;
    }
    uint16_t* out = static_cast<uint16_t*>(p.keys) + page * p.stride * kPage + 2 * lane;
    for (int64_t d = 0; d < p.head_dim; d += 2) {
        out[d * kPage] = to_bfloat16(x[d]);
        out[d * kPage + 1] = to_bfloat16(x[d + 1]);
    }
}

inline void store_patch_value(const PatchView& p, const float* x, int64_t page, int64_t lane) {
    if (p.kind == CacheKind::Float32) {
        float* out = static_cast<float*>(p.values) + page * p.stride * kPage + lane * kPage;
        for (int64_t d = 0; d < p.head_dim; ++d) out[d / kPage * kPage * kPage + d % kPage] = x[d];
        return;
    }
    const int64_t slot = page % 2 * kPage + lane;  // of two pages
    uint16_t* out = static_cast<uint16_t*>(p.values) + page / 2 * p.stride * 2 * kPage;
    out += slot / 2 * 2 * kPage + slot % 2;
    for (int64_t d = 0; d < p.head_dim; ++d)
        out[d / kPage * 2 * kPage * kPage + d % kPage * 2] = to_bfloat16(x[d]);
}

// Rows are shared out in whole pages, and taken page by page and head by head: so their lines stay in cache.
template <typename V>
void append_patches(const PatchAppendTask& task, int part, int parts) {
    const PatchView& p = task.patches;
    const int64_t width = p.heads * p.head_dim, half = p.head_dim / 2;
    float* rotated = task.scratch + part * p.head_dim;
    const Range pages = share((task.count + kPage - 1) / kPage, part, parts);
    for (int64_t start = pages.begin * kPage; start < pages.end * kPage; start += kPage) {
        const int64_t end = start + kPage < task.count ? start + kPage : task.count;
        for (int64_t head = 0; head < p.heads; ++head)
            for (int64_t i = start; i < end; ++i) {
                const int64_t row = task.begin + i, place = row % p.frame;
                const int64_t page = p.page_of(head, row / p.frame) + place / kPage;
                const PositionAngles angles{task.cosines + place * half, task.sines + place * half, half,
                                            false};
                const float* x = task.qkv + i * 3 * width + head * p.head_dim;
                rotate_head(angles, x, 1.0f, rotated);
                store_query(p, rotated, head, row);
                rotate_head(angles, x + width, 1.0f, rotated);
                store_patch_key(p, rotated, page, place % kPage);
                store_patch_value(p, x + 2 * width, page, place % kPage);
            }
    }
}

template <typename V>
class PatchPass {
  public:
    PatchPass(const PatchAttentionTask& task, const PatchUnit& unit, float* scratch)
        : task_(task), unit_(unit), p_(task.patches) {
        queries_ = take(scratch, kRowTile * p_.stride);
        state_.queries = queries_;
        state_.sums_of_values = take(scratch, kRowTile * p_.stride);
        keys_ = take(scratch, kKeyTile * p_.stride);
        values_ = take(scratch, kKeyTile * p_.stride);
        state_.scores = take(scratch, kRowTile * kKeyTile);
        state_.maxima = take(scratch, kRowTile);
        state_.sums = take(scratch, kRowTile);
        state_.stride = p_.stride;
        state_.rows = unit.rows;
    }

    void run() {
        load_queries();
        for (int64_t i = 0; i < kRowTile * p_.stride; ++i) state_.sums_of_values[i] = 0;
        for (int64_t row = 0; row < state_.rows; ++row) {
            state_.maxima[row] = -__builtin_inff();
            state_.sums[row] = 0;
        }
        const int64_t first_page = p_.page_of(unit_.head, unit_.first_row / p_.frame);
        for (int64_t key = 0; key < p_.frame; key += kKeyTile) {
            const int64_t left = p_.frame - key;
            for (int64_t row = 0; row < unit_.rows; ++row)
                state_.visible[row] = left < kKeyTile ? left : int64_t(kKeyTile);
            attend_tile<V>(state_, tile_at(first_page + key / kPage));
        }
        for (int64_t row = 0; row < unit_.rows; ++row) {
            const float* sums = state_.sums_of_values + row * p_.stride;
            float* y = task_.y + ((unit_.first_row + row - task_.begin) * p_.heads + unit_.head) * p_.head_dim;
            for (int64_t d = 0; d < p_.head_dim; ++d) y[d] = sums[d] / state_.sums[row];
        }
    }

  private:
    static float* take(float*& scratch, int64_t count) {
        float* taken = scratch;
        scratch += count;
        return taken;
    }

    void load_queries() {
        const V scale = V::set(1.0f / __builtin_sqrtf(float(p_.head_dim)));
        const int64_t at = (unit_.head * p_.rows + unit_.first_row) * p_.stride;
        for (int64_t i = 0; i < unit_.rows * p_.stride; i += V::kLanes) {
            const V query = p_.kind == CacheKind::Float32
                                ? V::load(static_cast<const float*>(p_.queries) + at + i)
                                : V::load(static_cast<const uint16_t*>(p_.queries) + at + i);
            V::mul(query, scale).store(queries_ + i);
        }
    }

    // kKeyTile patches from `page` on, as floats.
    KeyTile<float> tile_at(int64_t page) const {
        KeyTile<float> tile{};
        const int64_t size = kPage * p_.stride;
        for (int64_t i = 0; i < kPages; ++i) {
            tile.keys[i] = keys_ + i * size;
            tile.values[i] = values_ + i * size;
            if (p_.kind == CacheKind::Float32) {
                tile.keys[i] = static_cast<const float*>(p_.keys) + (page + i) * size;
                tile.values[i] = static_cast<const float*>(p_.values) + (page + i) * size;
            }
        }
        if (p_.kind == CacheKind::Bfloat16) {
            widen_keys(static_cast<const uint16_t*>(p_.keys) + page * size);
            widen_values(static_cast<const uint16_t*>(p_.values) + page * size);
        }
        return tile;
    }

    // Pairs of dimensions [stride / 2][kPage][2] to [stride][kPage], page by page.
    void widen_keys(const uint16_t* from) const {
        for (int64_t d = 0; d < kPages * p_.stride; ++d)
            for (int64_t lane = 0; lane < kPage; lane += V::kLanes)
                V::load_place(from + d / 2 * 2 * kPage + 2 * lane, int(d % 2)).store(keys_ + d * kPage + lane);
    }

    // Pairs of patches of two pages to patches of one page each.
    void widen_values(const uint16_t* from) const {
        const int64_t groups = p_.stride / kPage;
        for (int64_t pages = 0; pages < kPages; pages += 2)
            for (int64_t group = 0; group < groups; ++group)
                for (int64_t slot = 0; slot < 2 * kPage; ++slot, from += slot % 2 ? 0 : 2 * kPage) {
                    float* out = values_ + ((pages + slot / kPage) * groups + group) * kPage * kPage;
                    for (int64_t lane = 0; lane < kPage; lane += V::kLanes)
                        V::load_place(from + 2 * lane, int(slot % 2)).store(out + slot % kPage * kPage + lane);
                }
    }

    const PatchAttentionTask& task_;
    const PatchUnit& unit_;
    const PatchView& p_;
    RowState state_;
    float* queries_;
    float* keys_;
    float* values_;
};

template <typename V>
void attend_patches(const PatchAttentionTask& task, int part, int) {
    float* scratch = task.scratch + part * task.scratch_size;
    for (int64_t i; (i = task.next_unit->fetch_add(1, std::memory_order_relaxed)) < task.num_units;) {
        const PatchUnit& unit = task.units[i];
        for (int64_t row = 0; row < unit.rows; row += kRowTile) {
            const int64_t left = unit.rows - row;
            const PatchUnit part{unit.head, unit.first_row + row, left < kRowTile ? left : int64_t(kRowTile)};
            PatchPass<V>(task, part, scratch).run();
        }
    }
}

}  // namespace ernie::ERNIE_VARIANT
