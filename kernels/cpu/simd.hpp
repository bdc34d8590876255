// Registers as value types. A kernel is a template over one of them and is compiled once per instruction set in
// a namespace of its own (ERNIE_VARIANT), so that no inline function of one set can be linked into another.
//
// `Lowered<Half>` doubles any register: the 16-lane code of AVX-512 compiled for AVX2, for tests on machines
// without AVX-512. Multiply-add is always one explicit `fma`: the compiler must not contract
// (-ffp-contract=off), so every row tile rounds alike.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels.hpp"

namespace ernie::ERNIE_VARIANT {

struct Portable {
    static constexpr int kLanes = 4;
    static constexpr bool kFusesMultiplyAdd = false;
    float v[4];

    static Portable zero() { return {{0, 0, 0, 0}}; }
    static Portable set(float a) { return {{a, a, a, a}}; }
    static Portable load(const float* p) { return {{p[0], p[1], p[2], p[3]}}; }
    static Portable load(const int8_t* p) { return {{float(p[0]), float(p[1]), float(p[2]), float(p[3])}}; }
    static Portable load(const uint16_t* p) {
        Portable r;
        for (int i = 0; i < 4; ++i) {
            const uint32_t bits = uint32_t(p[i]) << 16;
            std::memcpy(&r.v[i], &bits, 4);
        }
        return r;
    }
    // Place 0 or 1 of bfloat16 pairs [lane][2].
    static Portable load_place(const uint16_t* p, int place) {
        const uint16_t lanes[4] = {p[place], p[2 + place], p[4 + place], p[6 + place]};
        return load(lanes);
    }
    void store(float* p) const { std::memcpy(p, v, sizeof v); }
    template <typename F>
    static Portable map(Portable a, Portable b, F f) {
        return {{f(a.v[0], b.v[0]), f(a.v[1], b.v[1]), f(a.v[2], b.v[2]), f(a.v[3], b.v[3])}};
    }
    static Portable add(Portable a, Portable b) {
        return map(a, b, [](float x, float y) { return x + y; });
    }
    static Portable mul(Portable a, Portable b) {
        return map(a, b, [](float x, float y) { return x * y; });
    }
    static Portable div(Portable a, Portable b) {
        return map(a, b, [](float x, float y) { return x / y; });
    }
    static Portable max(Portable a, Portable b) {
        return map(a, b, [](float x, float y) { return x > y ? x : y; });
    }
    static Portable min(Portable a, Portable b) {
        return map(a, b, [](float x, float y) { return x < y ? x : y; });
    }
    static Portable fma(Portable a, Portable b, Portable c) { return add(mul(a, b), c); }
    static Portable abs(Portable a) {
        return map(a, a, [](float x, float) { return __builtin_fabsf(x); });
    }
    static Portable round(Portable a) {
        return map(a, a, [](float x, float) { return __builtin_nearbyintf(x); });
    }
    // 2 ** a for integral a in -126..127
    static Portable power_of_two(Portable a) {
        Portable r;
        for (int i = 0; i < 4; ++i) {
            const uint32_t bits = uint32_t(int32_t(a.v[i]) + 127) << 23;
            std::memcpy(&r.v[i], &bits, 4);
        }
        return r;
    }
    // b where a < limit, else c
    static Portable select_less(Portable a, float limit, Portable b, Portable c) {
        Portable r;
        for (int i = 0; i < 4; ++i) r.v[i] = a.v[i] < limit ? b.v[i] : c.v[i];
        return r;
    }
    float sum() const { return (v[0] + v[2]) + (v[1] + v[3]); }
    float maximum() const {
        const float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
        return a > b ? a : b;
    }
};

#if defined(__AVX2__)
struct Avx2 {
    static constexpr int kLanes = 8;
    static constexpr bool kFusesMultiplyAdd = true;
    __m256 v;

    static Avx2 zero() { return {_mm256_setzero_ps()}; }
    static Avx2 set(float a) { return {_mm256_set1_ps(a)}; }
    static Avx2 load(const float* p) { return {_mm256_loadu_ps(p)}; }
    static Avx2 load(const int8_t* p) {
        return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
    }
    static Avx2 load(const uint16_t* p) {
        const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
    }
    static Avx2 load_place(const uint16_t* p, int place) {
        const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        // Shifts, no mask: the tile of linear.hpp has no register left for one.
        const __m256i upper = place ? _mm256_srli_epi32(pairs, 16) : pairs;
        return {_mm256_castsi256_ps(_mm256_slli_epi32(upper, 16))};
    }
    void store(float* p) const { _mm256_storeu_ps(p, v); }
    static Avx2 add(Avx2 a, Avx2 b) { return {_mm256_add_ps(a.v, b.v)}; }
    static Avx2 mul(Avx2 a, Avx2 b) { return {_mm256_mul_ps(a.v, b.v)}; }
    static Avx2 div(Avx2 a, Avx2 b) { return {_mm256_div_ps(a.v, b.v)}; }
    static Avx2 max(Avx2 a, Avx2 b) { return {_mm256_max_ps(a.v, b.v)}; }
    static Avx2 min(Avx2 a, Avx2 b) { return {_mm256_min_ps(a.v, b.v)}; }
    static Avx2 fma(Avx2 a, Avx2 b, Avx2 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
    static Avx2 abs(Avx2 a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
    static Avx2 round(Avx2 a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
    static Avx2 power_of_two(Avx2 a) {
        const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(a.v), _mm256_set1_epi32(127));
        return {_mm256_castsi256_ps(_mm256_slli_epi32(biased, 23))};
    }
    static Avx2 select_less(Avx2 a, float limit, Avx2 b, Avx2 c) {
        return {_mm256_blendv_ps(c.v, b.v, _mm256_cmp_ps(a.v, _mm256_set1_ps(limit), _CMP_LT_OQ))};
    }
    float sum() const {
        __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        a = _mm_add_ps(a, _mm_movehl_ps(a, a));
        return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
    }
    float maximum() const {
        __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        a = _mm_max_ps(a, _mm_movehl_ps(a, a));
        return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
    }
};
#endif

#if defined(__AVX512F__)
struct Avx512 {
    static constexpr int kLanes = 16;
    static constexpr bool kFusesMultiplyAdd = true;
    __m512 v;

    static Avx512 zero() { return {_mm512_setzero_ps()}; }
    static Avx512 set(float a) { return {_mm512_set1_ps(a)}; }
    static Avx512 load(const float* p) { return {_mm512_loadu_ps(p)}; }
    static Avx512 load(const int8_t* p) {
        return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
    }
    static Avx512 load(const uint16_t* p) {
        const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
    }
    static Avx512 load_place(const uint16_t* p, int place) {
        const __m512i pairs = _mm512_loadu_si512(p);
        return {_mm512_castsi512_ps(place ? _mm512_and_si512(pairs, _mm512_set1_epi32(int(0xFFFF0000)))
                                          : _mm512_slli_epi32(pairs, 16))};
    }
    void store(float* p) const { _mm512_storeu_ps(p, v); }
    static Avx512 add(Avx512 a, Avx512 b) { return {_mm512_add_ps(a.v, b.v)}; }
    static Avx512 mul(Avx512 a, Avx512 b) { return {_mm512_mul_ps(a.v, b.v)}; }
    static Avx512 div(Avx512 a, Avx512 b) { return {_mm512_div_ps(a.v, b.v)}; }
    static Avx512 max(Avx512 a, Avx512 b) { return {_mm512_max_ps(a.v, b.v)}; }
    static Avx512 min(Avx512 a, Avx512 b) { return {_mm512_min_ps(a.v, b.v)}; }
    static Avx512 fma(Avx512 a, Avx512 b, Avx512 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
    static Avx512 abs(Avx512 a) { return {_mm512_abs_ps(a.v)}; }
    static Avx512 round(Avx512 a) {
        return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
    }
    static Avx512 power_of_two(Avx512 a) {
        const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(a.v), _mm512_set1_epi32(127));
        return {_mm512_castsi512_ps(_mm512_slli_epi32(biased, 23))};
    }
    static Avx512 select_less(Avx512 a, float limit, Avx512 b, Avx512 c) {
        return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, _mm512_set1_ps(limit), _CMP_LT_OQ), c.v, b.v)};
    }
    Avx2 low_half() const { return {_mm512_castps512_ps256(v)}; }
    Avx2 high_half() const { return {_mm512_extractf32x8_ps(v, 1)}; }
    float sum() const { return Avx2::add(low_half(), high_half()).sum(); }
    float maximum() const { return Avx2::max(low_half(), high_half()).maximum(); }
};
#endif

template <typename Half>
struct Lowered {
    static constexpr int kHalf = Half::kLanes;
    static constexpr int kLanes = 2 * kHalf;
    static constexpr bool kFusesMultiplyAdd = Half::kFusesMultiplyAdd;
    Half a, b;

    static Lowered zero() { return {Half::zero(), Half::zero()}; }
    static Lowered set(float x) { return {Half::set(x), Half::set(x)}; }
    template <typename T>
    static Lowered load(const T* p) {
        return {Half::load(p), Half::load(p + kHalf)};
    }
    static Lowered load_place(const uint16_t* p, int place) {
        return {Half::load_place(p, place), Half::load_place(p + 2 * kHalf, place)};
    }
    void store(float* p) const {
        a.store(p);
        b.store(p + kHalf);
    }
    static Lowered add(Lowered x, Lowered y) { return {Half::add(x.a, y.a), Half::add(x.b, y.b)}; }
    static Lowered mul(Lowered x, Lowered y) { return {Half::mul(x.a, y.a), Half::mul(x.b, y.b)}; }
    static Lowered div(Lowered x, Lowered y) { return {Half::div(x.a, y.a), Half::div(x.b, y.b)}; }
    static Lowered max(Lowered x, Lowered y) { return {Half::max(x.a, y.a), Half::max(x.b, y.b)}; }
    static Lowered min(Lowered x, Lowered y) { return {Half::min(x.a, y.a), Half::min(x.b, y.b)}; }
    static Lowered fma(Lowered x, Lowered y, Lowered z) {
        return {Half::fma(x.a, y.a, z.a), Half::fma(x.b, y.b, z.b)};
    }
    static Lowered abs(Lowered x) { return {Half::abs(x.a), Half::abs(x.b)}; }
    static Lowered round(Lowered x) { return {Half::round(x.a), Half::round(x.b)}; }
    static Lowered power_of_two(Lowered x) { return {Half::power_of_two(x.a), Half::power_of_two(x.b)}; }
    static Lowered select_less(Lowered x, float limit, Lowered y, Lowered z) {
        return {Half::select_less(x.a, limit, y.a, z.a), Half::select_less(x.b, limit, y.b, z.b)};
    }
    float sum() const { return Half::add(a, b).sum(); }
    float maximum() const { return Half::max(a, b).maximum(); }
};

// The first `count` values at p, then zeros.
template <typename V>
V load_partial(const float* p, int64_t count) {
    if (count >= V::kLanes) return V::load(p);
    float padded[V::kLanes] = {};
    for (int64_t i = 0; i < count; ++i) padded[i] = p[i];
    return V::load(padded);
}

template <typename V>
void store_partial(V value, float* p, int64_t count) {
    if (count >= V::kLanes) return value.store(p);
    float padded[V::kLanes];
    value.store(padded);
    for (int64_t i = 0; i < count; ++i) p[i] = padded[i];
}

struct Range {
    int64_t begin, end;
};

inline Range share(int64_t count, int part, int parts) {
    return {count * part / parts, count * (part + 1) / parts};
}

}  // namespace ernie::ERNIE_VARIANT
