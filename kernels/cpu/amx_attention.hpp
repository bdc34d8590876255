// Attention in AMX tiles: of bfloat16 patches (patch_task.hpp), kStrip rows against kPatchTile keys at a time,
// and over the cache (bfloat16_attention.hpp).
//
// The online softmax is that of attention_tile.hpp, in powers of two; weights are rounded to bfloat16, their
// sum is not.
#pragma once

#include "amx.hpp"
#include "attention.hpp"
#include "patch_attention.hpp"

namespace ernie::ERNIE_VARIANT {

inline constexpr int64_t kStrip = 2 * kTileRows;

// The rows of a unit pass over the keys of their frame together, strip by strip: keys and values are read from
// far away once for all of them.
class TilePass {
  public:
    TilePass(const PatchAttentionTask& task, const PatchUnit& unit, float* scratch)
        : task_(task), unit_(unit), p_(task.patches), groups_((p_.head_dim + kPage - 1) / kPage) {
        sums_of_values_ = scratch;
        scores_ = sums_of_values_ + kPatchRows * p_.stride;
        maxima_ = scores_ + kStrip * kPatchTile;
        totals_ = maxima_ + kPatchRows;
        weights_ = reinterpret_cast<uint16_t*>(totals_ + kPatchRows);
    }

    void run() {
        for (int64_t i = 0; i < kPatchRows * p_.stride; ++i) sums_of_values_[i] = 0;
        for (int64_t r = 0; r < kPatchRows; ++r) {
            maxima_[r] = -__builtin_inff();
            totals_[r] = 0;
        }
        const int64_t first_page = p_.page_of(unit_.head, unit_.first_row / p_.frame);
        for (int64_t key = 0; key < p_.frame; key += kPatchTile) {
            const int64_t visible = p_.frame - key < kPatchTile ? p_.frame - key : int64_t(kPatchTile);
            for (int64_t row = 0; row < unit_.rows; row += kStrip) {
                score(row, first_page + key / kPage);
                for (int64_t r = 0; r < kStrip && row + r < unit_.rows; ++r) weigh(row + r, r, visible);
                add_values(row, first_page + key / kPage);
            }
        }
        for (int64_t r = 0; r < unit_.rows; ++r) {
            const float* sums = sums_of_values_ + r * p_.stride;
            const float factor = 1.0f / totals_[r];
            float* y = task_.y + ((unit_.first_row + r - task_.begin) * p_.heads + unit_.head) * p_.head_dim;
            for (int64_t d = 0; d < p_.head_dim; ++d) y[d] = sums[d] * factor;
        }
    }

  private:
    // Scores of kStrip rows with the keys of kPatchTile patches from `page` on.
    void score(int64_t row, int64_t page) {
        const uint16_t* queries = static_cast<const uint16_t*>(p_.queries) +
                                  (unit_.head * p_.rows + unit_.first_row + row) * p_.stride;
        const uint16_t* keys = static_cast<const uint16_t*>(p_.keys) + page * p_.stride * kPage;
        for (int64_t i = 0; i < kPatchTile / kPage; i += 2, keys += 2 * p_.stride * kPage) {
            zero_tiles();
            multiply_tiles<true, true>(queries, p_.stride, keys, keys + p_.stride * kPage, 2 * kPage,
                                       kTileInputs * kPage, p_.stride / kTileInputs);
            store_tiles(scores_ + i * kPage, kPatchTile);
        }
    }

    // Scores of row r, number `place` of its strip, to weights relative to its new maximum; rescales what the
    // row summed so far.
    void weigh(int64_t r, int64_t place, int64_t visible) {
        float* scores = scores_ + place * kPatchTile;
        uint16_t* weights = weights_ + place * kPatchTile;
        for (int64_t j = visible; j < kPatchTile; ++j) scores[j] = -__builtin_inff();
        __m512 largest = _mm512_loadu_ps(scores);
        for (int64_t j = 16; j < kPatchTile; j += 16)
            largest = _mm512_max_ps(largest, _mm512_loadu_ps(scores + j));
        const float tile_maximum = _mm512_reduce_max_ps(largest) * scale_;
        if (tile_maximum > maxima_[r]) {
            const __m512 correction = PowerOfTwo::of(Avx512::set(maxima_[r] - tile_maximum)).v;
            maxima_[r] = tile_maximum;
            totals_[r] *= _mm512_cvtss_f32(correction);
            float* sums = sums_of_values_ + r * p_.stride;
            for (int64_t d = 0; d < p_.stride; d += 16)
                _mm512_storeu_ps(sums + d, _mm512_mul_ps(_mm512_loadu_ps(sums + d), correction));
        }
        const __m512 shift = _mm512_set1_ps(-maxima_[r]), scale = _mm512_set1_ps(scale_);
        __m512 total = _mm512_setzero_ps();
        for (int64_t j = 0; j < kPatchTile; j += 16) {
            const __m512 weight =
                PowerOfTwo::of(Avx512{_mm512_fmadd_ps(_mm512_loadu_ps(scores + j), scale, shift)}).v;
            total = _mm512_add_ps(total, weight);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights + j),
                                reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(weight)));
        }
        totals_[r] += _mm512_reduce_add_ps(total);
    }

    // Adds the weighted values of kPatchTile patches to kStrip rows, two groups of dimensions at a time.
    void add_values(int64_t row, int64_t page) {
        const uint16_t* values = static_cast<const uint16_t*>(p_.values) + page * p_.stride * kPage;
        constexpr int64_t kGroup = 2 * kPage * kPage;
        const int64_t block = p_.stride / kPage * kGroup, steps = kPatchTile / kTileInputs;
        const size_t stride = size_t(4 * p_.stride);
        for (int64_t group = 0; group < groups_; group += 2, values += 2 * kGroup) {
            float* sums = sums_of_values_ + row * p_.stride + group * kPage;
            _tile_loadd(0, sums, stride);
            _tile_loadd(1, sums + kPage, stride);
            _tile_loadd(2, sums + kTileRows * p_.stride, stride);
            _tile_loadd(3, sums + kTileRows * p_.stride + kPage, stride);
            if (group + 1 < groups_)
                multiply_tiles<true, true>(weights_, kPatchTile, values, values + kGroup, 2 * kPage, block,
                                           steps);
            else
                multiply_tiles<true, false>(weights_, kPatchTile, values, values, 2 * kPage, block, steps);
            store_tiles(sums, p_.stride);
        }
    }

    const PatchAttentionTask& task_;
    const PatchUnit& unit_;
    const PatchView& p_;
    const int64_t groups_;
    const float scale_ = 1.44269504f / __builtin_sqrtf(float(p_.head_dim));
    float* sums_of_values_;  // [kPatchRows][stride]
    float* scores_;          // [kStrip][kPatchTile]
    float* maxima_;          // [kPatchRows], in powers of two
    float* totals_;          // [kPatchRows]
    uint16_t* weights_;      // [kStrip][kPatchTile]
};

inline void amx_attend_patches(const PatchAttentionTask& task, int part, int parts) {
    if (task.patches.kind == CacheKind::Float32) return attend_patches<Avx512>(task, part, parts);
    const TileRegisters tiles;
    float* scratch = task.scratch + part * task.scratch_size;
    for (int64_t i; (i = task.next_unit->fetch_add(1, std::memory_order_relaxed)) < task.num_units;)
        TilePass(task, task.units[i], scratch).run();
}

// The products of a strip over the cache.
struct AmxDots {
    using Float = Avx512;
    using Session = TileRegisters;

    static void score(const PairStrip& s) { s.rows > kTileRows ? score<true>(s) : score<false>(s); }

    static void add_values(const PairStrip& s) {
        constexpr int64_t kGroup = kSpan * kPage;
        const int64_t groups = s.stride / kPage;
        for (int64_t g = 0; g < groups; g += 2) {
            float* sums = s.sums_of_values + g * kPage;
            const uint16_t* values = s.values + g * kGroup;
            if (g + 1 == groups)
                add_groups<true, false>(s, values, sums);
            else if (s.rows > kTileRows)
                add_groups<true, true>(s, values, sums);
            else
                add_groups<false, true>(s, values, sums);
        }
    }

  private:
    template <bool kTwoRows>
    static void score(const PairStrip& s) {
        const int64_t page = kPage * s.depth;
        for (int64_t span = 0; span < s.spans; ++span) {
            const uint16_t* keys = s.keys + 2 * span * page;
            zero_tiles();
            multiply_tiles<kTwoRows, true>(s.queries, s.depth, keys, keys + page, 2 * kPage,
                                           kTileInputs * kPage, s.depth / kTileInputs);
            store<kTwoRows, true>(s.scores + span * kSpan, kPairKeys);
        }
    }

    template <bool kTwoRows, bool kTwoGroups>
    static void add_groups(const PairStrip& s, const uint16_t* values, float* sums) {
        constexpr int64_t kGroup = kSpan * kPage;
        const size_t bytes = size_t(4 * s.stride);
        _tile_loadd(0, sums, bytes);
        if constexpr (kTwoGroups) _tile_loadd(1, sums + kPage, bytes);
        if constexpr (kTwoRows) {
            _tile_loadd(2, sums + kTileRows * s.stride, bytes);
            if constexpr (kTwoGroups) _tile_loadd(3, sums + kTileRows * s.stride + kPage, bytes);
        }
        multiply_tiles<kTwoRows, kTwoGroups>(s.weights, kPairKeys, values, values + kGroup, 2 * kPage,
                                             s.stride / kPage * kGroup, s.spans);
        store<kTwoRows, kTwoGroups>(sums, s.stride);
    }

    template <bool kTwoRows, bool kTwoColumns>
    static void store(float* out, int64_t stride) {
        const size_t bytes = size_t(4 * stride);
        _tile_stored(0, out, bytes);
        if constexpr (kTwoColumns) _tile_stored(1, out + kPage, bytes);
        if constexpr (kTwoRows) {
            _tile_stored(2, out + kTileRows * stride, bytes);
            if constexpr (kTwoColumns) _tile_stored(3, out + kTileRows * stride + kPage, bytes);
        }
    }
};

inline void amx_attend(const AttentionTask& task, int part, int parts) {
    switch (task.cache.kind) {
        case CacheKind::Float32:
            return attend<Avx512, Avx512Bf16Pairs>(task, part, parts);
        case CacheKind::Bfloat16:
            return attend_units<Avx512, PairTiles<AmxDots, uint16_t>>(task, part);
        case CacheKind::Int8:
            return attend_units<Avx512, PairTiles<AmxDots, int8_t>>(task, part);
    }
}

}  // namespace ernie::ERNIE_VARIANT
