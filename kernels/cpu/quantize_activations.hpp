// Activations to int16 or int8 codes, bit for bit as ernie_kernels/formats.py: one scale per row and group
// (quantize_activations), or one static scale for int8 codes, of rotated inputs if need be (quantize_inputs,
// hadamard.py).
#pragma once

#include "integer_dot.hpp"

namespace ernie::ERNIE_VARIANT {

// x / scale, cut to the codes there are; a NaN becomes the least.
template <typename V>
class Divided {
  public:
    Divided(float scale, float levels)
        : scale_(V::set(scale)), most_(V::set(levels)), least_(V::set(-levels)) {}
    V operator()(V x) const { return V::min(V::max(V::div(x, scale_), least_), most_); }

  private:
    V scale_, most_, least_;
};

// The same of finite numbers of at most levels * scale, in a third of the time: the product with the
// reciprocal, corrected once by what is left of x (Markstein). Rounded to a code it is the quotient's, of all x
// and scales: it errs by less than 2 ** -22 units in the last place, and no quotient of two floats is so close
// to where the float next to a code and a half begins.
template <typename V>
class Reciprocal {
  public:
    explicit Reciprocal(float scale) : scale_(V::set(-scale)), reciprocal_(V::set(1.0f / scale)) {}
    V operator()(V x) const {
        const V quotient = V::mul(x, reciprocal_);
        return V::fma(V::fma(quotient, scale_, x), reciprocal_, quotient);
    }
    // Whether nothing that counts overflows, or is so small that it loses bits.
    static bool fits(float scale) { return V::kFusesMultiplyAdd && scale > 0x1p-60f && scale < 0x1p60f; }

  private:
    V scale_, reciprocal_;
};

// Codes of `count` numbers.
template <typename D, typename Quotient, typename Code>
void store_codes(const float* x, int64_t count, const Quotient& quotient, Code* codes) {
    using V = typename D::Float;
    for (int64_t k = 0; k < count; k += V::kLanes) {
        const V values = quotient(load_partial<V>(x + k, count - k));
        if (count - k >= V::kLanes) {
            D::store_codes(values, codes + k);
            continue;
        }
        Code block[V::kLanes];
        D::store_codes(values, block);
        std::memcpy(codes + k, block, size_t(count - k) * sizeof(Code));
    }
}

// The scale of `count` numbers: NaN if one of them is NaN or infinite.
template <typename V>
float scale_of(const float* x, int64_t count, float levels) {
    constexpr int kChains = int(kDepth) / V::kLanes;
    V maximum[kChains], poison[kChains];  // max() drops NaN, so what is not finite is collected apart
    for (int i = 0; i < kChains; ++i) maximum[i] = poison[i] = V::zero();
    for (int64_t k = 0; k < count; k += kDepth)
        for (int i = 0; i < kChains; ++i) {
            const int64_t place = k + i * V::kLanes;
            const V values = load_partial<V>(x + place, count - place);
            maximum[i] = V::max(V::abs(values), maximum[i]);
            poison[i] = V::fma(values, V::zero(), poison[i]);
        }
    for (int i = 1; i < kChains; ++i) {
        maximum[0] = V::max(maximum[i], maximum[0]);
        poison[0] = V::add(poison[i], poison[0]);
    }
    return maximum[0].maximum() / levels + poison[0].sum();
}

template <typename D, typename Code>
void quantize_group(const float* x, int64_t count, float levels, float* scale, Code* codes) {
    using V = typename D::Float;
    *scale = scale_of<V>(x, count, levels);
    if (Reciprocal<V>::fits(*scale)) return store_codes<D>(x, count, Reciprocal<V>(*scale), codes);
    if (*scale > 0) return store_codes<D>(x, count, Divided<V>(*scale, levels), codes);
    std::memset(codes, 0, size_t(count) * sizeof(Code));
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

// kDepth int16 codes as bytes: 127 * 128 = 127 * 128 + 0, -1 = -1 * 128 + 127. Returns their sum.
inline int32_t store_halves(const int16_t* codes, int8_t* high, int8_t* low) {
    int32_t sum = 0;
    for (int64_t k = 0; k < kDepth; ++k) {
        high[k] = int8_t(codes[k] >> 7);
        low[k] = int8_t(codes[k] & 127);
        sum += codes[k];
    }
    return sum;
}

// Asks for kDepth inputs of the group after this one: they come while this one is computed. Addresses past the
// end do no harm.
inline void prefetch_inputs(const float* x) {
    for (int64_t k = 0; k < kDepth; k += 64 / int64_t(sizeof(float)))
        __builtin_prefetch(x + kLargestGroup + k, 0, 3);
}

// Codes of `count` numbers, and zeros up to a multiple of kDepth; returns their sum. Floats add up to that
// exactly: kLargestGroup * 127 * 128 is below 2 ** 24.
template <typename D, typename Quotient>
int32_t halve_group(const float* x, int64_t count, const Quotient& quotient, int8_t* high, int8_t* low) {
    using V = typename D::Float;
    static_assert(kLargestGroup * 127 * 128 < 1 << 24);
    const auto at = [&](int64_t k) { return quotient(load_partial<V>(x + k, count - k)); };
    if constexpr (requires(typename D::Register words) { D::store_halves(words, high, low); }) {
        static_assert(kDepth == 2 * V::kLanes);
        const int16_t ones[2] = {1, 1};
        typename D::Sums sums = D::zero();
        for (int64_t k = 0; k < count; k += kDepth) {
            const typename D::Register words = D::words(at(k), at(k + V::kLanes));
            D::store_halves(words, high + k, low + k);
            sums = D::dot(sums, words, D::broadcast(ones));
            prefetch_inputs(x + k);
        }
        return int32_t(D::to_float(sums).sum());
    } else {
        int32_t sum = 0;
        for (int64_t k = 0; k < count; k += kDepth) {
            int16_t codes[kDepth];
            for (int64_t i = 0; i < kDepth; i += V::kLanes) D::store_codes(at(k + i), codes + i);
            sum += store_halves(codes, high + k, low + k);
        }
        return sum;
    }
}

// int16 codes as two rows of bytes.
template <typename D>
void quantize_halves(const QuantizeTask& task, int64_t row) {
    using V = typename D::Float;
    static_assert(kQuadDepth % kDepth == 0);
    const QuantizedRows& q = task.quantized;
    int8_t* high = static_cast<int8_t*>(q.codes) + 2 * row * q.stride;
    int8_t* low = high + q.stride;
    for (int64_t g = 0; g < q.groups; ++g) {
        const int64_t start = g * q.group, place = row * q.groups + g;
        const int64_t count = task.width - start < q.group ? task.width - start : q.group;
        const float* x = task.x + row * task.width + start;
        const float scale = q.scales[place] = scale_of<V>(x, count, task.levels);
        const auto halve = [&](const auto& quotient) {
            q.sums[place] = halve_group<D>(x, count, quotient, high + start, low + start);
        };
        if (Reciprocal<V>::fits(scale)) {
            halve(Reciprocal<V>(scale));
        } else if (scale > 0) {
            halve(Divided<V>(scale, task.levels));
        } else {
            std::memset(high + start, 0, size_t(count));
            std::memset(low + start, 0, size_t(count));
            q.sums[place] = 0;
        }
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
    const Divided<V> quotient(task.scale, 127.0f);
    float block[kLargestRotation];
    for (int64_t row = range.begin; row < range.end; ++row) {
        int8_t* codes = static_cast<int8_t*>(q.codes) + row * q.stride;
        V poison = V::zero();
        for (int64_t start = 0; start < task.width; start += step) {
            const int64_t count = task.width - start < step ? task.width - start : step;
            std::memcpy(block, task.x + row * task.width + start, size_t(count) * sizeof(float));
            if (task.rotation) rotate_block<V>(block, count);
            poison = V::add(poison, poison_of<V>(block, count));
            store_codes<D>(block, count, quotient, codes + start);
        }
        for (int64_t k = task.width; k < q.stride; ++k) codes[k] = 0;
        q.scales[row] = task.scale + poison.sum();
        q.sums[row] = sum_of(codes, task.width);
    }
}

}  // namespace ernie::ERNIE_VARIANT
