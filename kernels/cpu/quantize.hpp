// Activations to int8 codes, one scale per row and group (formats.py: quantize_activations, bit for bit).
#pragma once

#include "simd.hpp"

namespace ernie::ERNIE_VARIANT {

template <typename V>
void quantize_group(const float* x, int64_t count, float* scale, int8_t* high, int8_t* low) {
    V maximum = V::zero();
    for (int64_t k = 0; k < count; k += V::kLanes)
        maximum = V::max(V::abs(load_partial<V>(x + k, count - k)), maximum);
    const float levels = low ? 127.0f * 128 : 127.0f;
    *scale = maximum.maximum() / levels;
    const V divisor = V::set(*scale > 0 ? *scale : 1.0f);
    const bool is_zero = !(*scale > 0);
    for (int64_t k = 0; k < count; k += V::kLanes) {
        float rounded[V::kLanes];
        V codes = V::round(V::div(load_partial<V>(x + k, count - k), divisor));
        codes = V::min(V::max(codes, V::set(-levels)), V::set(levels));
        (is_zero ? V::zero() : codes).store(rounded);
        for (int64_t i = 0; i < V::kLanes && k + i < count; ++i) {
            const int32_t code = int32_t(rounded[i]);
            if (!low) {
                high[k + i] = int8_t(code);
                continue;
            }
            high[k + i] = int8_t((code + 64) >> 7);
            low[k + i] = int8_t(code - high[k + i] * 128);
        }
    }
}

template <typename V>
void quantize(const QuantizeTask& task, int part, int parts) {
    const QuantizedRows& q = task.quantized;
    const Range range = share(task.rows, part, parts);
    for (int64_t row = range.begin; row < range.end; ++row) {
        int8_t* high = q.high + row * q.stride;
        int8_t* low = q.low ? q.low + row * q.stride : nullptr;
        for (int64_t g = 0; g < q.groups; ++g) {
            const int64_t start = g * q.group;
            const int64_t count = task.width - start < q.group ? task.width - start : q.group;
            quantize_group<V>(task.x + row * task.width + start, count, q.scales + row * q.groups + g,
                              high + start, low ? low + start : nullptr);
        }
        for (int64_t k = task.width; k < q.stride; ++k) {
            high[k] = 0;
            if (low) low[k] = 0;
        }
    }
}

}  // namespace ernie::ERNIE_VARIANT
