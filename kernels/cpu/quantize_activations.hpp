// Activations to int16 codes, bit for bit as ernie_kernels/formats.py: one scale per row and group
// (quantize_activations), or one static scale for int8 codes, of rotated inputs if need be (quantize_inputs,
// hadamard.py).
#pragma once

#include "integer_dot.hpp"

namespace ernie::ERNIE_VARIANT {

template <typename D>
void quantize_group(const float* x, int64_t count, float levels, float* scale, int16_t* codes) {
    using V = typename D::Float;
    V maximum = V::zero(), poison = V::zero();  // max() drops NaN, so what is not finite is collected apart
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

// The fast Walsh-Hadamard transform of `count` numbers, a power of two: sums and differences only.
template <typename V>
void rotate_block(float* x, int64_t count) {
    int64_t distance = 1;
    for (; distance < V::kLanes && distance < count; distance *= 2)
        for (int64_t start = 0; start < count; start += 2 * distance)
            for (int64_t i = start; i < start + distance; ++i) {
                const float a = x[i], b = x[i + distance];
                x[i] = a + b;
                x[i + distance] = a - b;
            }
    const V minus = V::set(-1.0f);
    for (; distance < count; distance *= 2)
        for (int64_t start = 0; start < count; start += 2 * distance)
            for (int64_t i = start; i < start + distance; i += V::kLanes) {
                const V a = V::load(x + i), b = V::load(x + i + distance);
                V::add(a, b).store(x + i);
                V::add(a, V::mul(b, minus)).store(x + i + distance);
            }
}

// Codes of `count` numbers of a block.
template <typename D>
void quantize_block(const float* x, int64_t count, float scale, int16_t* codes) {
    using V = typename D::Float;
    const V divisor = V::set(scale), most = V::set(127.0f), least = V::set(-127.0f);
    for (int64_t k = 0; k < count; k += V::kLanes) {
        const V rounded = V::round(V::div(load_partial<V>(x + k, count - k), divisor));
        int16_t block[V::kLanes];
        D::store_codes(V::min(V::max(rounded, least), most), block);  // a NaN becomes -127
        const int64_t items = count - k < V::kLanes ? count - k : V::kLanes;
        std::memcpy(codes + k, block, size_t(items) * sizeof(int16_t));
    }
}

template <typename V>
V poison_of(const float* x, int64_t count) {
    V poison = V::zero();
    for (int64_t k = 0; k < count; k += V::kLanes)
        poison = V::add(poison, V::mul(load_partial<V>(x + k, count - k), V::zero()));
    return poison;  // NaN where a number is NaN or infinite, else 0
}

// A row with a number that is not finite has the scale NaN, and so the result.
template <typename D>
void quantize_static(const StaticQuantizeTask& task, int part, int parts) {
    using V = typename D::Float;
    const QuantizedRows& q = task.quantized;
    const int64_t step = task.rotation ? task.rotation : kLargestRotation;
    const Range range = share(task.rows, part, parts);
    float block[kLargestRotation];
    for (int64_t row = range.begin; row < range.end; ++row) {
        int16_t* codes = q.codes + row * q.stride;
        V poison = V::zero();
        for (int64_t start = 0; start < task.width; start += step) {
            const int64_t count = task.width - start < step ? task.width - start : step;
            std::memcpy(block, task.x + row * task.width + start, size_t(count) * sizeof(float));
            if (task.rotation) rotate_block<V>(block, count);
            poison = V::add(poison, poison_of<V>(block, count));
            quantize_block<D>(block, count, task.scale, codes + start);
        }
        for (int64_t k = task.width; k < q.stride; ++k) codes[k] = 0;
        q.scales[row] = task.scale + poison.sum();
    }
}

}  // namespace ernie::ERNIE_VARIANT
