// Activations to int16 or int8 codes, bit for bit as ernie_kernels/formats.py: one scale per row and group
// (quantize_activations), or one static scale for int8 codes, of rotated inputs if need be (quantize_inputs,
// hadamard.py).
#pragma once

#include "integer_dot.hpp"

namespace ernie::ERNIE_VARIANT {

// Codes of `count` numbers that are divided by `scale`.
template <typename D, typename Code>
void store_codes(const float* x, int64_t count, float scale, float levels, Code* codes) {
    using V = typename D::Float;
    const V divisor = V::set(scale), most = V::set(levels), least = V::set(-levels);
    for (int64_t k = 0; k < count; k += V::kLanes) {
        const V rounded = V::round(V::div(load_partial<V>(x + k, count - k), divisor));
        const V cut = V::min(V::max(rounded, least), most);  // a NaN becomes -levels
        if (count - k >= V::kLanes) {
            D::store_codes(cut, codes + k);
            continue;
        }
        Code block[V::kLanes];
        D::store_codes(cut, block);
        std::memcpy(codes + k, block, size_t(count - k) * sizeof(Code));
    }
}

// The scale of `count` numbers: NaN if one of them is NaN or infinite.
template <typename V>
float scale_of(const float* x, int64_t count, float levels) {
    V maximum = V::zero(), poison = V::zero();  // max() drops NaN, so what is not finite is collected apart
    for (int64_t k = 0; k < count; k += V::kLanes) {
        const V values = load_partial<V>(x + k, count - k);
        maximum = V::max(V::abs(values), maximum);
        poison = V::add(poison, V::mul(values, V::zero()));
    }
    return maximum.maximum() / levels + poison.sum();
}

template <typename D, typename Code>
void quantize_group(const float* x, int64_t count, float levels, float* scale, Code* codes) {
    *scale = scale_of<typename D::Float>(x, count, levels);
    if (!(*scale > 0)) {
        for (int64_t k = 0; k < count; ++k) codes[k] = 0;
        return;
    }
    store_codes<D>(x, count, *scale, levels, codes);
}

template <typename Code>
int32_t sum_of(const Code* codes, int64_t count) {
    int32_t sum = 0;
    for (int64_t k = 0; k < count; ++k) sum += codes[k];
    return sum;
}

template <typename D, typename Code>
void quantize_row(const QuantizeTask& task, int64_t row) {
    const QuantizedRows& q = task.quantized;
    Code* codes = static_cast<Code*>(q.codes) + row * q.stride;
    for (int64_t g = 0; g < q.groups; ++g) {
        const int64_t start = g * q.group, place = row * q.groups + g;
        const int64_t count = task.width - start < q.group ? task.width - start : q.group;
        quantize_group<D>(task.x + row * task.width + start, count, task.levels, q.scales + place,
                          codes + start);
        if constexpr (sizeof(Code) == 1) q.sums[place] = sum_of(codes + start, count);
    }
    for (int64_t k = task.width; k < q.stride; ++k) codes[k] = 0;
}

// A register of int16 codes as bytes: 127 * 128 = 127 * 128 + 0, -1 = -1 * 128 + 127.
template <typename D>
void store_halves(typename D::Float values, int8_t* high, int8_t* low) {
    if constexpr (requires { D::store_halves(values, high, low); }) {
        D::store_halves(values, high, low);
    } else {
        int16_t codes[D::Float::kLanes];
        D::store_codes(values, codes);
        for (int i = 0; i < D::Float::kLanes; ++i) {
            high[i] = int8_t(codes[i] >> 7);
            low[i] = int8_t(codes[i] & 127);
        }
    }
}

// Codes of `count` numbers that are divided by `scale`, in whole registers, and their sum. Floats add them up
// exactly: kLargestGroup * 127 * 128 is below 2 ** 24.
template <typename D>
int32_t halve_group(const float* x, int64_t count, float scale, float levels, int8_t* high, int8_t* low) {
    using V = typename D::Float;
    static_assert(kLargestGroup * 127 * 128 < 1 << 24);
    const V divisor = V::set(scale), most = V::set(levels), least = V::set(-levels);
    V total = V::zero();
    for (int64_t k = 0; k < count; k += V::kLanes) {
        const V rounded = V::round(V::div(load_partial<V>(x + k, count - k), divisor));
        const V cut = V::min(V::max(rounded, least), most);
        total = V::add(total, cut);
        store_halves<D>(cut, high + k, low + k);
    }
    return int32_t(total.sum());
}

// int16 codes as two rows of bytes.
template <typename D>
void quantize_halves(const QuantizeTask& task, int64_t row) {
    using V = typename D::Float;
    static_assert(kDepth % V::kLanes == 0 &&
                  kQuadDepth % V::kLanes == 0);  // registers end with groups and rows
    const QuantizedRows& q = task.quantized;
    int8_t* high = static_cast<int8_t*>(q.codes) + 2 * row * q.stride;
    int8_t* low = high + q.stride;
    for (int64_t g = 0; g < q.groups; ++g) {
        const int64_t start = g * q.group, place = row * q.groups + g;
        const int64_t count = task.width - start < q.group ? task.width - start : q.group;
        const float* x = task.x + row * task.width + start;
        const float scale = q.scales[place] = scale_of<V>(x, count, task.levels);
        if (scale > 0) {
            q.sums[place] = halve_group<D>(x, count, scale, task.levels, high + start, low + start);
            continue;
        }
        std::memset(high + start, 0, size_t(count));
        std::memset(low + start, 0, size_t(count));
        q.sums[place] = 0;
    }
    for (int64_t k = task.width; k < q.stride; ++k) high[k] = low[k] = 0;
}

template <typename D>
void quantize(const QuantizeTask& task, int part, int parts) {
    const Range range = share(task.rows, part, parts);
    const auto quantize_one = !task.quantized.sums         ? quantize_row<D, int16_t>
                              : task.quantized.halves == 2 ? quantize_halves<D>
                                                           : quantize_row<D, int8_t>;
    for (int64_t row = range.begin; row < range.end; ++row) quantize_one(task, row);
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
        int8_t* codes = static_cast<int8_t*>(q.codes) + row * q.stride;
        V poison = V::zero();
        for (int64_t start = 0; start < task.width; start += step) {
            const int64_t count = task.width - start < step ? task.width - start : step;
            std::memcpy(block, task.x + row * task.width + start, size_t(count) * sizeof(float));
            if (task.rotation) rotate_block<V>(block, count);
            poison = V::add(poison, poison_of<V>(block, count));
            store_codes<D>(block, count, task.scale, 127.0f, codes + start);
        }
        for (int64_t k = task.width; k < q.stride; ++k) codes[k] = 0;
        q.scales[row] = task.scale + poison.sum();
        q.sums[row] = sum_of(codes, task.width);
    }
}

}  // namespace ernie::ERNIE_VARIANT
