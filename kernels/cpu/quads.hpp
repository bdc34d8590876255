// Exact integer sums of int8 activation codes and weights in quads: four inputs of an output lie together, one
// byte each, and a register has the quads of all its lanes. Weights are stored as code + offset, unsigned (an
// int8 code + 128, an int4 code + 8), which is what vpdpbusd and vpmaddubsw multiply by a signed byte; a tile
// starts with -offset times the sum of the codes, so its int32 sums are those of the codes themselves.
//
//   kInputs              inputs of a load: 4, or 8 where two quads are added up in int16 first
//   kHasInt8             whether int8 weights are in quads; elsewhere pairs are as fast (integer_dot.hpp)
//   kHasHalves           whether int16 codes meet quads, as two halves, whose sums `join` adds up
//   kRows                rows of a tile
//   kIsNarrow            whether a panel has the outputs of one register, as a tile of AMX does
//   set(a)               a in every lane
//   load_int8(p)         quads from bytes [lane][4]
//   load_int4(p, quad)   quad 0 or 1 of words [lane]: byte i has input i in its low half, input 4 + i above
//   broadcast(x)         kInputs activation codes in every lane
//   dot(sum, w, x)       the sum with the products of kInputs inputs
//   join(high, low)      high * 128 + low
//   add(a, b)            a + b, of narrow ones
//
// No sum overflows: ops.cpp bounds the inputs of a group (kLargestGroup, kMostStaticInputs).
#pragma once

#include <array>

#include "integer_dot.hpp"

namespace ernie::ERNIE_VARIANT {

inline int32_t quad_at(const int8_t* x) {
    int32_t quad;
    std::memcpy(&quad, x, sizeof quad);
    return quad;
}

struct PortableQuads {
    using Float = Portable;
    struct Sums {
        int32_t v[4];
    };
    using Weights = std::array<uint8_t, 16>;
    static constexpr int kInputs = 4, kRows = 2;
    static constexpr bool kHasInt8 = true, kHasHalves = false, kIsNarrow = false;

    static Sums set(int32_t a) { return {{a, a, a, a}}; }
    static Weights load_int8(const int8_t* p) {
        Weights w;
        std::memcpy(w.data(), p, sizeof w);
        return w;
    }
    static Weights load_int4(const int8_t* p, int quad) {
        Weights w = load_int8(p);
        for (uint8_t& code : w) code = quad ? code >> 4 : code & 15;
        return w;
    }
    static const int8_t* broadcast(const int8_t* x) { return x; }
    static Sums dot(Sums sum, const Weights& w, const int8_t* x) {
        for (size_t i = 0; i < 16; ++i) sum.v[i / 4] += w[i] * x[i % 4];
        return sum;
    }
    static Portable to_float(Sums a) { return {{float(a.v[0]), float(a.v[1]), float(a.v[2]), float(a.v[3])}}; }
};

#if defined(__AVX2__)
// Products of a code and at most 15 fit int16 four at a time.
struct Avx2Quads {
    using Float = Avx2;
    using Sums = __m256i;
    struct Weights {
        __m256i first, second;
    };
    static constexpr int kInputs = 8, kRows = 4;
    static constexpr bool kHasInt8 = false, kHasHalves = false, kIsNarrow = false;

    static Sums set(int32_t a) { return _mm256_set1_epi32(a); }
    static Weights load_int4(const int8_t* p, int) {
        const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        const __m256i mask = _mm256_set1_epi8(15);
        return {_mm256_and_si256(words, mask), _mm256_and_si256(_mm256_srli_epi32(words, 4), mask)};
    }
    static Weights broadcast(const int8_t* x) {
        return {_mm256_set1_epi32(quad_at(x)), _mm256_set1_epi32(quad_at(x + 4))};
    }
    static Sums dot(Sums sum, Weights w, Weights x) {
        const __m256i pairs =
            _mm256_add_epi16(_mm256_maddubs_epi16(w.first, x.first), _mm256_maddubs_epi16(w.second, x.second));
        return in_register(_mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))));
    }
    static Avx2 to_float(Sums a) { return {_mm256_cvtepi32_ps(a)}; }
};

// A quad of bytes to a lane of 256 bits, as vpdpbusd takes them.
struct Avx2Bytes : Avx2Quads {
    using Weights = __m256i;
    static constexpr int kInputs = 4, kRows = 6;
    static constexpr bool kHasInt8 = true, kHasHalves = true;

    static Weights load_int8(const int8_t* p) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    }
    static Weights load_int4(const int8_t* p, int quad) {
        return _mm256_and_si256(_mm256_srli_epi32(load_int8(p), 4 * quad), _mm256_set1_epi8(15));
    }
    static Weights broadcast(const int8_t* x) { return _mm256_set1_epi32(quad_at(x)); }
    static Sums join(Sums high, Sums low) { return _mm256_add_epi32(_mm256_slli_epi32(high, 7), low); }
};

// What vpdpbusd does, on AVX2: slow, for tests.
struct Avx2ByteQuads : Avx2Bytes {
    static Sums dot(Sums sum, Weights w, Weights x) {
        const __m256i even = _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(255)),
                                               _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
        const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), _mm256_srai_epi16(x, 8));
        return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
    }
};
#endif

#if defined(__AVXVNNI__)
struct AvxVnniQuads : Avx2Bytes {
    static Sums dot(Sums sum, Weights w, Weights x) { return in_register(_mm256_dpbusd_avx_epi32(sum, w, x)); }
};
#endif

#if defined(__AVX512F__)
struct Avx512Quads {
    using Float = Avx512;
    using Sums = __m512i;
    struct Weights {
        __m512i first, second;
    };
    static constexpr int kInputs = 8, kRows = 4;
    static constexpr bool kHasInt8 = false, kHasHalves = false, kIsNarrow = false;

    static Sums set(int32_t a) { return _mm512_set1_epi32(a); }
    static Weights load_int4(const int8_t* p, int) {
        const __m512i words = _mm512_loadu_si512(p), mask = _mm512_set1_epi8(15);
        return {_mm512_and_si512(words, mask), _mm512_and_si512(_mm512_srli_epi32(words, 4), mask)};
    }
    static Weights broadcast(const int8_t* x) {
        return {_mm512_set1_epi32(quad_at(x)), _mm512_set1_epi32(quad_at(x + 4))};
    }
    static Sums dot(Sums sum, Weights w, Weights x) {
        const __m512i pairs =
            _mm512_add_epi16(_mm512_maddubs_epi16(w.first, x.first), _mm512_maddubs_epi16(w.second, x.second));
        return in_register(_mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1))));
    }
    static Avx512 to_float(Sums a) { return {_mm512_cvtepi32_ps(a)}; }
};
#endif

#if defined(__AVX512VNNI__)
struct Avx512VnniQuads : Avx512Quads {
    using Weights = __m512i;
    static constexpr int kInputs = 4, kRows = 6;
    static constexpr bool kHasInt8 = true, kHasHalves = true;

    static Weights load_int8(const int8_t* p) { return _mm512_loadu_si512(p); }
    static Weights load_int4(const int8_t* p, int quad) {
        return _mm512_and_si512(_mm512_srli_epi32(_mm512_loadu_si512(p), 4 * unsigned(quad)),
                                _mm512_set1_epi8(15));
    }
    static Weights broadcast(const int8_t* x) { return _mm512_set1_epi32(quad_at(x)); }
    static Sums join(Sums high, Sums low) { return _mm512_add_epi32(_mm512_slli_epi32(high, 7), low); }
    static Sums dot(Sums sum, Weights w, Weights x) { return in_register(_mm512_dpbusd_epi32(sum, w, x)); }
};
#endif

template <typename Half>
struct LoweredQuads {
    static constexpr int kHalf = Half::Float::kLanes;
    using Float = Lowered<typename Half::Float>;
    struct Sums {
        typename Half::Sums a, b;
    };
    struct Weights {
        typename Half::Weights a, b;
    };
    static constexpr int kInputs = Half::kInputs, kRows = 4;
    static constexpr bool kHasInt8 = Half::kHasInt8, kHasHalves = Half::kHasHalves, kIsNarrow = false;

    static Sums set(int32_t a) { return {Half::set(a), Half::set(a)}; }
    static Weights load_int8(const int8_t* p) { return {Half::load_int8(p), Half::load_int8(p + 4 * kHalf)}; }
    static Weights load_int4(const int8_t* p, int quad) {
        return {Half::load_int4(p, quad), Half::load_int4(p + 4 * kHalf, quad)};
    }
    static Weights broadcast(const int8_t* x) { return {Half::broadcast(x), Half::broadcast(x)}; }
    static Sums join(Sums high, Sums low) { return {Half::join(high.a, low.a), Half::join(high.b, low.b)}; }
    static Sums dot(Sums sum, Weights w, Weights x) {
        return {Half::dot(sum.a, w.a, x.a), Half::dot(sum.b, w.b, x.b)};
    }
    static Float to_float(Sums a) { return {Half::to_float(a.a), Half::to_float(a.b)}; }
};

}  // namespace ernie::ERNIE_VARIANT
