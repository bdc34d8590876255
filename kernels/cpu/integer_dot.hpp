// Exact integer sums of weights and activation codes, and quantized weights as floats. A register holds a pair
// of int16 values of every lane, for inputs (k, k + 1); the sums are int32. A set of these operations belongs
// to one float register type of simd.hpp and has its lanes.
//
//   load_int8(p):        pairs from bytes [lane][2]
//   load_int4(p, pair):  pair 0..3 from words [lane]; the nibbles of a word, from the lowest, are the codes + 8
//                        of inputs 0 2 4 6 1 3 5 7, so a shift by 4 * pair and the mask 0x000F000F leave inputs
//                        2 * pair and 2 * pair + 1 in the two halves of the word
//   broadcast(x):        the activation codes x[0], x[1] in every lane
//   dot(sum, w, x):      sum[i] += w[2i] * x[2i] + w[2i + 1] * x[2i + 1]
//   even(w), odd(w):     one input of each pair, as floats
//   store_codes(x, p):   floats, rounded half to even, as activation codes, int16 or int8
//   words(a, b):         two registers of floats, rounded likewise, as int16 codes in an order of their own
//   store_halves(words, high, low):  the two bytes of each, in the order of a and b
// The last two exist only where they take a few instructions.
//
// No sum overflows: ops.cpp bounds the inputs of a group (kLargestGroup, kMostStaticInputs).
#pragma once

#include "simd.hpp"

namespace ernie::ERNIE_VARIANT {

// Ends an expression: GCC would otherwise regroup the integer sums of a tile, run out of registers and spill
// them in the innermost loop (half the speed).
template <typename T>
inline T in_register(T value) {
#if defined(__GNUC__) && defined(__x86_64__)
    asm("" : "+v"(value));
#endif
    return value;
}

struct PortableDots {
    using Float = Portable;
    struct Register {
        int32_t even[4], odd[4];
    };
    using Sums = Register;  // in `even`

    static Sums zero() { return {}; }
    static Register load_int8(const int8_t* p) {
        Register r;
        for (int i = 0; i < 4; ++i) {
            r.even[i] = p[2 * i];
            r.odd[i] = p[2 * i + 1];
        }
        return r;
    }
    static Register load_int4(const int8_t* p, int pair) {
        uint32_t words[4];
        std::memcpy(words, p, sizeof words);
        Register r;
        for (int i = 0; i < 4; ++i) {
            r.even[i] = int32_t(words[i] >> (4 * pair) & 15) - kNibbleOffset;
            r.odd[i] = int32_t(words[i] >> (4 * pair + 16) & 15) - kNibbleOffset;
        }
        return r;
    }
    static Register broadcast(const int16_t* x) { return {{x[0], x[0], x[0], x[0]}, {x[1], x[1], x[1], x[1]}}; }
    static Sums dot(Sums sum, Register w, Register x) {
        for (int i = 0; i < 4; ++i) sum.even[i] += w.even[i] * x.even[i] + w.odd[i] * x.odd[i];
        return sum;
    }
    static Portable to_float(Sums a) { return even(a); }
    static Portable even(Register a) {
        return {{float(a.even[0]), float(a.even[1]), float(a.even[2]), float(a.even[3])}};
    }
    static Portable odd(Register a) {
        return {{float(a.odd[0]), float(a.odd[1]), float(a.odd[2]), float(a.odd[3])}};
    }
    template <typename Code>
    static void store_codes(Portable codes, Code* p) {
        for (int i = 0; i < 4; ++i) p[i] = Code(__builtin_nearbyintf(codes.v[i]));
    }
};

#if defined(__AVX2__)
struct Avx2Dots {
    using Float = Avx2;
    using Register = __m256i;
    using Sums = __m256i;

    static Sums zero() { return _mm256_setzero_si256(); }
    static Register load_int8(const int8_t* p) {
        return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    static Register load_int4(const int8_t* p, int pair) {
        const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        const __m256i nibbles =
            _mm256_and_si256(_mm256_srli_epi32(words, 4 * pair), _mm256_set1_epi32(0x000F000F));
        return _mm256_sub_epi16(nibbles, _mm256_set1_epi16(kNibbleOffset));
    }
    static Register broadcast(const int16_t* x) {
        int32_t pair;
        std::memcpy(&pair, x, 4);
        return _mm256_set1_epi32(pair);
    }
    static Sums dot(Sums sum, Register w, Register x) {
        return in_register(_mm256_add_epi32(sum, _mm256_madd_epi16(w, x)));
    }
    static Avx2 to_float(Sums a) { return {_mm256_cvtepi32_ps(a)}; }
    static Avx2 even(Register a) { return to_float(_mm256_srai_epi32(_mm256_slli_epi32(a, 16), 16)); }
    static Avx2 odd(Register a) { return to_float(_mm256_srai_epi32(a, 16)); }
    static __m128i narrowed(Avx2 codes) {
        const __m256i wide = _mm256_cvtps_epi32(codes.v);
        return _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    }
    static void store_codes(Avx2 codes, int16_t* p) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrowed(codes));
    }
    static void store_codes(Avx2 codes, int8_t* p) {
        const __m128i narrow = narrowed(codes);
        _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(narrow, narrow));
    }
};
#endif

#if defined(__AVXVNNI__)
// One instruction for multiply, add pairs, accumulate; the sums are the same integers.
struct AvxVnniDots : Avx2Dots {
    static Sums dot(Sums sum, Register w, Register x) {
        return in_register(_mm256_dpwssd_avx_epi32(sum, w, x));
    }
};
#endif

#if defined(__AVX512F__)
struct Avx512Dots {
    using Float = Avx512;
    using Register = __m512i;
    using Sums = __m512i;

    static Sums zero() { return _mm512_setzero_si512(); }
    static Register load_int8(const int8_t* p) {
        return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    static Register load_int4(const int8_t* p, int pair) {
        const __m512i nibbles = _mm512_and_si512(_mm512_srli_epi32(_mm512_loadu_si512(p), 4 * unsigned(pair)),
                                                 _mm512_set1_epi32(0x000F000F));
        return _mm512_sub_epi16(nibbles, _mm512_set1_epi16(kNibbleOffset));
    }
    static Register broadcast(const int16_t* x) {
        int32_t pair;
        std::memcpy(&pair, x, 4);
        return _mm512_set1_epi32(pair);
    }
    static Sums dot(Sums sum, Register w, Register x) {
        return in_register(_mm512_add_epi32(sum, _mm512_madd_epi16(w, x)));
    }
    static Avx512 to_float(Sums a) { return {_mm512_cvtepi32_ps(a)}; }
    static Avx512 even(Register a) { return to_float(_mm512_srai_epi32(_mm512_slli_epi32(a, 16), 16)); }
    static Avx512 odd(Register a) { return to_float(_mm512_srai_epi32(a, 16)); }
    static void store_codes(Avx512 codes, int16_t* p) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(codes.v)));
    }
    static void store_codes(Avx512 codes, int8_t* p) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(codes.v)));
    }
    static Register words(Avx512 a, Avx512 b) {
        return _mm512_packs_epi32(_mm512_cvtps_epi32(a.v), _mm512_cvtps_epi32(b.v));
    }
    static void store_halves(Register words, int8_t* high, int8_t* low) {
        // packs leaves, in each quarter, high bytes of a, of b, low ones of a, of b: four each.
        const __m512i bytes =
            _mm512_packs_epi16(_mm512_srai_epi16(words, 7), _mm512_and_si512(words, _mm512_set1_epi16(127)));
        const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        const __m512i halves = _mm512_permutexvar_epi32(order, bytes);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(high), _mm512_castsi512_si256(halves));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(low), _mm512_extracti64x4_epi64(halves, 1));
    }
};
#endif

#if defined(__AVX512VNNI__)
struct Avx512VnniDots : Avx512Dots {
    static Sums dot(Sums sum, Register w, Register x) { return in_register(_mm512_dpwssd_epi32(sum, w, x)); }
};
#endif

template <typename Half>
struct LoweredDots {
    static constexpr int kHalf = Half::Float::kLanes;
    using Float = Lowered<typename Half::Float>;
    struct Register {
        typename Half::Register a, b;
    };
    using Sums = Register;

    static Sums zero() { return {Half::zero(), Half::zero()}; }
    static Register load_int8(const int8_t* p) { return {Half::load_int8(p), Half::load_int8(p + 2 * kHalf)}; }
    static Register load_int4(const int8_t* p, int pair) {
        return {Half::load_int4(p, pair), Half::load_int4(p + 4 * kHalf, pair)};
    }
    static Register broadcast(const int16_t* x) { return {Half::broadcast(x), Half::broadcast(x)}; }
    static Sums dot(Sums sum, Register w, Register x) {
        return {Half::dot(sum.a, w.a, x.a), Half::dot(sum.b, w.b, x.b)};
    }
    static Float to_float(Sums x) { return {Half::to_float(x.a), Half::to_float(x.b)}; }
    static Float even(Register x) { return {Half::even(x.a), Half::even(x.b)}; }
    static Float odd(Register x) { return {Half::odd(x.a), Half::odd(x.b)}; }
    template <typename Code>
    static void store_codes(Float codes, Code* p) {
        Half::store_codes(codes.a, p);
        Half::store_codes(codes.b, p + kHalf);
    }
};

}  // namespace ernie::ERNIE_VARIANT
