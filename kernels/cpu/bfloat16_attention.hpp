// Attention by dot products of bfloat16 numbers, for caches of bfloat16 and int8 numbers.
//
// Queries are rounded once, weights after they have been summed; keys and values of kPairKeys slots are laid
// out in pairs once for all rows of a unit. Codes of int8 are exact in bfloat16. The online softmax is that of
// attention_tile.hpp in powers of two: scores have a factor of log2(e), which is in the queries.
//
// A row's scores and sums are chains over dimensions and keys in an order that depends on the instruction set
// alone. Keys that a row may not see have weights of 0, and no value in the cache is infinite or NaN
// (cache_append.hpp): so they change no bit.
#pragma once

#include <type_traits>

#include "attention_pages.hpp"
#include "attention_tile.hpp"
#include "bfloat16.hpp"
#include "bfloat16_products.hpp"

namespace ernie::ERNIE_VARIANT {

inline constexpr int64_t kPairKeys = 128;
inline constexpr int64_t kSpan = 2 * kPage;       // keys whose values stand together
inline constexpr int64_t kStripRows = 32;         // rows whose scores stay in the first cache
inline constexpr int64_t kPairBlock = 2 * kPage;  // items: sixteen pairs side by side

// Some rows of a unit against a tile of keys.
struct PairStrip {
    const uint16_t* queries;  // [rows][depth]
    const uint16_t* keys;     // [pages][depth / 2][kPage][2]: pairs of dimensions
    const uint16_t* values;   // [spans][stride / kPage][kSpan / 2][kPage][2]: pairs of slots
    float* scores;            // [kStripRows][kPairKeys]
    uint16_t* weights;        // [kStripRows][kPairKeys]
    float* sums_of_values;    // [rows][stride]
    int64_t depth;            // stride rounded up to kSpan
    int64_t stride;
    int64_t rows;   // results of rows past the last are computed and never read
    int64_t spans;  // that one of the rows sees
};

// Two runs of kPage items to kPage pairs.
template <typename V>
void pair_up(const uint16_t* items, uint16_t* pairs) {
    for (int64_t i = 0; i < kPage; ++i) {
        pairs[2 * i] = items[i];
        pairs[2 * i + 1] = items[kPage + i];
    }
}
template <typename V>
void pair_up(const int8_t* items, uint16_t* pairs) {
    for (int64_t i = 0; i < kPage; ++i) {
        pairs[2 * i] = to_bfloat16(float(items[i]));
        pairs[2 * i + 1] = to_bfloat16(float(items[kPage + i]));
    }
}
template <typename V>
void round_lanes(V values, uint16_t* items) {
    float lanes[V::kLanes];
    values.store(lanes);
    for (int i = 0; i < V::kLanes; ++i) items[i] = to_bfloat16(lanes[i]);
}

#if defined(__AVX512BF16__)
template <>
inline void pair_up<Avx512>(const uint16_t* items, uint16_t* pairs) {
    const __m512i halves = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                            22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    _mm512_storeu_si512(pairs, _mm512_permutexvar_epi16(halves, _mm512_loadu_si512(items)));
}
template <>
inline void pair_up<Avx512>(const int8_t* items, uint16_t* pairs) {
    const __m512i first = _mm512_castps_si512(Avx512::load(items).v);
    const __m512i second = _mm512_castps_si512(Avx512::load(items + kPage).v);
    _mm512_storeu_si512(pairs, _mm512_or_si512(_mm512_srli_epi32(first, 16), second));  // low halves are 0
}
inline void round_lanes(Avx512 values, uint16_t* items) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(items),
                        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values.v)));
}
#endif

// The products of a strip by P (bfloat16_products.hpp), kMicroRows rows and two registers of results at a time.
template <typename P>
struct PairDots {
    using Float = typename P::Float;
    struct Session {};  // what a thread needs while it multiplies

    static void score(const PairStrip& s) {
        for (int64_t row = 0; row < s.rows; row += kMicroRows<Float>)
            for (int64_t span = 0; span < s.spans; ++span) {
                const uint16_t* keys = s.keys + span * kSpan * s.depth;
                float* out = s.scores + row * kPairKeys + span * kSpan;
                multiply<2, false>(s.queries + row * s.depth, s.depth, keys, kPage * s.depth, s.depth / 2, out,
                                   kPairKeys);
            }
    }

    static void add_values(const PairStrip& s) {
        constexpr int64_t kGroup = kSpan * kPage;
        const int64_t groups = s.stride / kPage;
        for (int64_t row = 0; row < s.rows; row += kMicroRows<Float>)
            for (int64_t span = 0; span < s.spans; ++span) {
                const uint16_t* weights = s.weights + row * kPairKeys + span * kSpan;
                const uint16_t* values = s.values + span * groups * kGroup;
                float* out = s.sums_of_values + row * s.stride;
                int64_t g = 0;
                for (; g + 1 < groups; g += 2)
                    multiply<2, true>(weights, kPairKeys, values + g * kGroup, kGroup, kSpan / 2,
                                      out + g * kPage, s.stride);
                if (g < groups)
                    multiply<1, true>(weights, kPairKeys, values + g * kGroup, kGroup, kSpan / 2,
                                      out + g * kPage, s.stride);
            }
    }

  private:
    // out [kMicroRows][kRegisters * kPage] = (or +=) x times `pairs` blocks of w; registers are `w_step` items
    // apart.
    template <int kRegisters, bool kAdds>
    static void multiply(const uint16_t* x, int64_t x_stride, const uint16_t* w, int64_t w_step, int64_t pairs,
                         float* out, int64_t out_stride) {
        constexpr int kRows = kMicroRows<Float>;
        Float sums[kRows][kRegisters];
        for (int r = 0; r < kRows; ++r)
            for (int i = 0; i < kRegisters; ++i)
                sums[r][i] = kAdds ? Float::load(out + r * out_stride + i * kPage) : Float::zero();
        for (int64_t pair = 0; pair < pairs; ++pair, x += 2, w += kPairBlock) {
            decltype(P::load(w, 0)) block[kRegisters];
            for (int i = 0; i < kRegisters; ++i) block[i] = P::load(w + i * w_step, 0);
            for (int r = 0; r < kRows; ++r) {
                const auto value = P::broadcast(x + r * x_stride, 0);
                for (int i = 0; i < kRegisters; ++i) sums[r][i] = P::dot(sums[r][i], block[i], value);
            }
        }
        for (int r = 0; r < kRows; ++r)
            for (int i = 0; i < kRegisters; ++i) sums[r][i].store(out + r * out_stride + i * kPage);
    }
};

// Tiles of kPairKeys keys; T is how the cache stores an item. Dots multiplies strips.
template <typename Dots, typename T>
class PairTiles {
    using V = typename Dots::Float;
    static_assert(V::kLanes == kPage);

  public:
    using Power = PowerOfTwo;
    using Session = typename Dots::Session;
    static constexpr int64_t kKeys = kPairKeys;

    PairTiles(const AttentionTask& task, const AttentionUnit& unit, RowState& state, float* scratch)
        : state_(state), pages_(task, unit, 1, scratch), has_scales_(task.cache.key_scales) {
        strip_.stride = state.stride;
        strip_.depth = (state.stride + kSpan - 1) / kSpan * kSpan;
        state.scores = strip_.scores = take(scratch, kStripRows * kPairKeys);
        strip_.weights = weights_ = take_items(scratch, kStripRows * kPairKeys);
        strip_.queries = queries_ = take_items(scratch, kRowTile * strip_.depth);
        strip_.keys = keys_ = take_items(scratch, kPairKeys * strip_.depth);
        strip_.values = values_ = take_items(scratch, kPairKeys * strip_.stride);
        key_scales_ = take(scratch, kPairKeys);
        value_scales_ = take(scratch, kPairKeys);
        for (int64_t row = 0; row < state.rows; ++row) round_query(row);
    }

    void attend(int64_t start, int64_t count) {
        const int64_t pages = (count + kPage - 1) / kPage;
        for (int64_t i = 0; i < pages; ++i) {
            const int64_t position = start + i * kPage;
            if (position + kPage < pages_.end()) pages_.prefetch(position + kPage);
            lay_out(pages_.find(position, count - i * kPage, 0), i);
        }
        if (pages % 2) clear_values(pages);
        for (int64_t row = 0; row < state_.rows; row += kStripRows) {
            const int64_t rows = smaller(kStripRows, state_.rows - row);
            const int64_t visible = state_.visible[row + rows - 1];
            if (visible == 0) continue;
            strip_.rows = rows;
            strip_.spans = (visible + kSpan - 1) / kSpan;
            strip_.queries = queries_ + row * strip_.depth;
            strip_.sums_of_values = state_.sums_of_values + row * strip_.stride;
            Dots::score(strip_);
            for (int64_t r = 0; r < rows; ++r) weigh(row + r, r);
            Dots::add_values(strip_);
        }
    }

  private:
    static uint16_t* take_items(float*& scratch, int64_t count) {
        return reinterpret_cast<uint16_t*>(take(scratch, count / 2));
    }

    void round_query(int64_t row) {
        const float* query = state_.queries + row * strip_.stride;
        uint16_t* out = queries_ + row * strip_.depth;
        for (int64_t d = 0; d < strip_.stride; d += kPage)
            round_lanes(V::mul(V::load(query + d), V::set(1.44269504f)), out + d);
        for (int64_t d = strip_.stride; d < strip_.depth; ++d) out[d] = 0;
    }

    // Copies page i of the tile in pairs.
    void lay_out(const Page<T>& page, int64_t i) {
        const int64_t size = kPage * strip_.stride;
        uint16_t* keys = keys_ + i * kPage * strip_.depth;
        for (int64_t at = 0; at < size; at += kPairBlock) pair_up<V>(page.keys + at, keys + at);
        for (int64_t at = size; at < kPage * strip_.depth; ++at) keys[at] = 0;
        uint16_t* values = values_of(i);
        for (int64_t at = 0; at < size; at += kPage * kPage)
            for (int64_t pair = 0; pair < kPage * kPage; pair += kPairBlock)
                pair_up<V>(page.values + at + pair, values + 2 * at + pair);
        if (!has_scales_) return;
        std::memcpy(key_scales_ + i * kPage, page.key_scales, kPage * sizeof(float));
        std::memcpy(value_scales_ + i * kPage, page.value_scales, kPage * sizeof(float));
    }

    void clear_values(int64_t page) {
        for (int64_t at = 0; at < kPage * strip_.stride; at += kPage * kPage)
            std::memset(values_of(page) + 2 * at, 0, kPage * kPage * sizeof(uint16_t));
    }

    // A page is one half of each group of its span.
    uint16_t* values_of(int64_t page) const {
        return values_ + page / 2 * kSpan * strip_.stride + page % 2 * kPage * kPage;
    }

    // Scores of a row, number `place` of its strip, to weights relative to its new maximum; rescales what the
    // row summed so far.
    void weigh(int64_t row, int64_t place) {
        float* scores = strip_.scores + place * kPairKeys;
        uint16_t* weights = weights_ + place * kPairKeys;
        const int64_t visible = state_.visible[row], end = (visible + kPage - 1) / kPage * kPage;
        if (has_scales_)
            for (int64_t j = 0; j < end; j += kPage)
                V::mul(V::load(scores + j), V::load(key_scales_ + j)).store(scores + j);
        for (int64_t j = visible; j < end; ++j) scores[j] = -__builtin_inff();
        V largest = V::set(-__builtin_inff());
        for (int64_t j = 0; j < end; j += kPage) largest = V::max(largest, V::load(scores + j));
        raise_maximum(row, largest.maximum());
        V sum = V::zero();
        const V shift = V::set(-state_.maxima[row]);
        for (int64_t j = 0; j < end; j += kPage) {
            V weight = PowerOfTwo::of(V::add(V::load(scores + j), shift));
            sum = V::add(sum, weight);
            // The scale of a value's slot goes into its weight, after the weight has been counted.
            if (has_scales_) weight = V::mul(weight, V::load(value_scales_ + j));
            round_lanes(weight, weights + j);
        }
        for (int64_t j = visible; j < strip_.spans * kSpan; ++j) weights[j] = 0;
        state_.sums[row] += sum.sum();
    }

    void raise_maximum(int64_t row, float maximum) {
        if (!(maximum > state_.maxima[row])) return;
        float correction[V::kLanes];
        PowerOfTwo::of(V::set(state_.maxima[row] - maximum)).store(correction);
        state_.maxima[row] = maximum;
        state_.sums[row] *= correction[0];
        float* values = state_.sums_of_values + row * strip_.stride;
        for (int64_t d = 0; d < strip_.stride; d += kPage)
            V::mul(V::load(values + d), V::set(correction[0])).store(values + d);
    }

    RowState& state_;
    PageFinder<T> pages_;
    const bool has_scales_;
    PairStrip strip_;
    uint16_t* queries_;
    uint16_t* keys_;
    uint16_t* values_;
    uint16_t* weights_;
    float* key_scales_;
    float* value_scales_;
};

}  // namespace ernie::ERNIE_VARIANT
