// The choice of a token from each row of logits; ernie_kernels/sampling.py defines it. Greedy rows are seen in
// slices (head.cpp).
//
// Nothing is sorted. A weight is in [0, 1], so its bits rise with it: the bound of top_k or top_p is found ten
// bits at a time, by what each of 1024 bins holds. Sums are double, in an order that depends on the row alone.
#pragma once

#include <cmath>

#include "exponential.hpp"
#include "simd.hpp"

namespace ernie::ERNIE_VARIANT {

inline constexpr int kBinBits = 10;
inline constexpr int kBins = 1 << kBinBits;
inline constexpr int64_t kSumBlock = 256;

inline uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

// Keep the weights with more than these bits and the first `ties` of those that have just these.
struct Bound {
    uint32_t bits;
    int64_t ties;
};

template <typename V>
float largest(const float* x, int64_t n) {
    float best = x[0];
    int64_t i = 0;
    if (n >= V::kLanes) {
        V lanes = V::load(x);
        for (i = V::kLanes; i + V::kLanes <= n; i += V::kLanes) lanes = V::max(lanes, V::load(x + i));
        best = lanes.maximum();
    }
    for (; i < n; ++i) best = x[i] > best ? x[i] : best;
    return best;
}

template <typename V>
void weigh(const float* x, int64_t n, float temperature, float min_p, float* weights) {
    const V best = V::set(-largest<V>(x, n)), divisor = V::set(temperature);
    for (int64_t i = 0; i < n; i += V::kLanes) {
        const V scaled = V::div(V::add(load_partial<V>(x + i, n - i), best), divisor);
        const V weight = exponential(scaled);
        store_partial(V::select_less(weight, min_p, V::zero(), weight), weights + i, n - i);
    }
}

inline double block_sum(const float* weights, int64_t n) {
    double sums[4] = {};
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int k = 0; k < 4; ++k) sums[k] += double(weights[i + k]);
    for (; i < n; ++i) sums[0] += double(weights[i]);
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

inline double sum(const float* weights, int64_t n) {
    double total = 0;
    for (int64_t i = 0; i < n; i += kSumBlock)
        total += block_sum(weights + i, n - i < kSumBlock ? n - i : kSumBlock);
    return total;
}

// What the values hold by ten of their bits: their sum if ByMass, else their number. Neighbours often share a
// bin, and one addition must not wait for the other.
template <bool ByMass>
void fill_bins(const float* values, int64_t n, int shift, double* held) {
    double odd[kBins] = {};
    for (int bin = 0; bin < kBins; ++bin) held[bin] = 0;
    int64_t i = 0;
    for (; i + 2 <= n; i += 2) {
        held[bits_of(values[i]) >> shift & (kBins - 1)] += ByMass ? double(values[i]) : 1.0;
        odd[bits_of(values[i + 1]) >> shift & (kBins - 1)] += ByMass ? double(values[i + 1]) : 1.0;
    }
    if (i < n) held[bits_of(values[i]) >> shift & (kBins - 1)] += ByMass ? double(values[i]) : 1.0;
    for (int bin = 0; bin < kBins; ++bin) held[bin] += odd[bin];
}

// Copies the values of one bin.
inline int64_t take_bin(const float* values, int64_t n, int shift, uint32_t bin, float* taken) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; ++i) {
        const float value = values[i];
        taken[count] = value;
        count += (bits_of(value) >> shift & (kBins - 1)) == bin;
    }
    return count;
}

// The bound above or at which the weights hold `target`: their sum if ByMass, else their number. If all of them
// hold less, everything is kept. Weights of zero do not count: they alone have the first bin.
template <bool ByMass>
Bound find_bound(const float* weights, int64_t n, double target, float* scratch) {
    double held[kBins];
    const float* values = weights;
    uint32_t bits = 0;
    for (int shift = 2 * kBinBits; shift >= 0; shift -= kBinBits) {
        fill_bins<ByMass>(values, n, shift, held);
        const int first = values == weights ? 1 : 0;
        int bin = kBins - 1;
        for (; bin >= first && held[bin] < target; --bin) target -= held[bin];
        if (bin < first) {
            if (values == weights) return {0, 0};
            for (bin = 0; held[bin] == 0; ++bin) continue;  // rounding: the bound is the smallest of these
            target = held[bin];
        }
        bits = bits << kBinBits | uint32_t(bin);
        n = take_bin(values, n, shift, uint32_t(bin), scratch);
        values = scratch;
    }
    const double ties = ByMass ? std::ceil(target / double(scratch[0])) : target;
    return {bits, ties < 1 ? 1 : int64_t(ties)};
}

// Sets the weights that the bound drops to zero.
inline void drop(float* weights, int64_t n, Bound bound) {
    int64_t ties = 0;
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t bits = bits_of(weights[i]);
        weights[i] = bits >= bound.bits ? weights[i] : 0.0f;
        ties += bits == bound.bits;
    }
    for (int64_t i = n - 1; ties > bound.ties && bound.bits > 0; --i) {
        if (bits_of(weights[i]) != bound.bits) continue;
        weights[i] = 0.0f;
        --ties;
    }
}

// The token at which the sum of the weights exceeds uniform * their sum.
inline int64_t pick(const float* weights, int64_t n, double uniform) {
    const double threshold = uniform * sum(weights, n);
    double before = 0;
    int64_t token = 0;
    for (int64_t i = 0; i < n; i += kSumBlock) {
        const int64_t end = n - i < kSumBlock ? n : i + kSumBlock;
        const double held = block_sum(weights + i, end - i);
        if (held == 0) continue;
        const bool is_here = before + held > threshold;
        for (int64_t k = i; k < end; ++k) {
            if (weights[k] == 0.0f) continue;
            token = k;  // the last one that has a weight, where rounding lifts the threshold onto the sum
            if (is_here && (before += double(weights[k])) > threshold) return k;
        }
        if (is_here) return token;
        before += held;
    }
    return token;
}

template <typename V>
void sample(const SamplingTask& task, int part, int parts) {
    const Range range = share(task.rows, part, parts);
    const int64_t n = task.width;
    float *weights = task.weights + 2 * part * n, *scratch = weights + n;
    for (int64_t row = range.begin; row < range.end; ++row) {
        const SamplingRow& row_sampling = task.batch[row];
        weigh<V>(task.logits + row * n, n, row_sampling.temperature, row_sampling.min_p, weights);
        if (row_sampling.top_k > 0 && row_sampling.top_k < n)
            drop(weights, n, find_bound<false>(weights, n, double(row_sampling.top_k), scratch));
        if (row_sampling.top_p < 1)
            drop(weights, n, find_bound<true>(weights, n, row_sampling.top_p * sum(weights, n), scratch));
        task.tokens[row] = pick(weights, n, row_sampling.uniform);
    }
}

// Whether one of the numbers is NaN.
template <typename V>
bool has_nan(const float* x, int64_t n) {
    V sum = V::zero();  // of numbers between -1 and 1, or NaN: max and min return the second operand then
    for (int64_t i = 0; i < n; i += V::kLanes)
        sum = V::add(sum, V::max(V::set(-1.0f), V::min(V::set(1.0f), load_partial<V>(x + i, n - i))));
    return sum.sum() != sum.sum();
}

template <typename V>
void raise_best(const BestTask& task) {
    if (task.columns <= 0) return;
    for (int64_t i = 0; i < task.count; ++i) {
        const float* x = task.logits + task.rows[i] * task.stride;
        BestColumn& best = task.best[i];
        const float found = has_nan<V>(x, task.columns) ? __builtin_nanf("") : largest<V>(x, task.columns);
        if (found != found) best = {found, task.first};
        if (!(found > best.value)) continue;
        const float* at = x;
        while (*at != found) ++at;
        best = {found, task.first + (at - x)};
    }
}

}  // namespace ernie::ERNIE_VARIANT
