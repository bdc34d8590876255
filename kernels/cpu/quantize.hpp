// Activations to int16 codes, one scale per row and group (formats.py: quantize_activations, bit for bit).
#pragma once

#include "dot.hpp"

namespace ernie::ERNIE_VARIANT {

template <typename D>
void quantize_group(const float* x, int64_t count, float levels, float* scale, int16_t* codes) {
    using V = typename D::Float;
    V maximum = V::zero(), poison = V::zero();  // max() drops NaN, so what is no number is gathered apart
    for (int64_t k = 0; k < count; k += V::kLanes) {
        const V values = load_partial<V>(x + k, count - k);
        maximum = V::max(V::abs(values), maximum);
        poison = V::add(poison, V::mul(values, V::zero()));
    }
    *scale = maximum.maximum() / levels + poison.sum();  // NaN if one of them is NaN or infinite
    if (!(*scale > 0)) {
        for (int64_t k = 0; k < count; ++k) codes[k] = 0;
        return;
    }
    const V divisor = V::set(*scale), most = V::set(levels), least = V::set(-levels);
    for (int64_t k = 0; k < count; k += V::kLanes) {
        const V rounded = V::round(V::div(load_partial<V>(x + k, count - k), divisor));
        int16_t block[V::kLanes];
        D::store_codes(V::min(V::max(rounded, least), most), block);
        const int64_t items = count - k < V::kLanes ? count - k : V::kLanes;
        std::memcpy(codes + k, block, size_t(items) * sizeof(int16_t));
    }
}

template <typename D>
void quantize(const QuantizeTask& task, int part, int parts) {
    const QuantizedRows& q = task.quantized;
    const Range range = share(task.rows, part, parts);
    for (int64_t row = range.begin; row < range.end; ++row) {
        int16_t* codes = q.codes + row * q.stride;
        for (int64_t g = 0; g < q.groups; ++g) {
            const int64_t start = g * q.group;
            const int64_t count = task.width - start < q.group ? task.width - start : q.group;
            quantize_group<D>(task.x + row * task.width + start, count, task.levels,
                              q.scales + row * q.groups + g, codes + start);
        }
        for (int64_t k = task.width; k < q.stride; ++k) codes[k] = 0;
    }
}

}  // namespace ernie::ERNIE_VARIANT
