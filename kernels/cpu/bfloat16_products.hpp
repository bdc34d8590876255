// Products with bfloat16 weights, which panels keep in pairs of inputs (2 i, 2 i + 1).
//
// Activations rounded to bfloat16 are multiplied as vdpbf16ps of AVX512_BF16 does it (Intel's manual):
//   sum = fma(odd weight, odd activation, sum), then sum = fma(even weight, even activation, sum),
// each rounded half to even to float32, denormals in and out being zero. All instruction sets give the same
// bits. How an activation is kept and how many steps a pair takes differs (a set of these operations, P):
//
//   Item, item(bits):     a rounded activation
//   kSteps:               multiply-adds per pair
//   load(p, step):        weights from pairs [lane][2]
//   broadcast(x, step):   the activations x[0], x[1]
//   dot(sum, w, x):       the sum after the step
#pragma once

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "bfloat16.hpp"
#include "simd.hpp"

namespace ernie::ERNIE_VARIANT {

// While an object lives, denormals are zero on this thread. On processors other than x86 they stay.
class FlushDenormals {
  public:
#if defined(__SSE2__)
    FlushDenormals() : control_(_mm_getcsr()) { _mm_setcsr(control_ | kInputs | kResults); }
    ~FlushDenormals() { _mm_setcsr(control_); }
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;

  private:
    static constexpr unsigned kInputs = 1 << 6, kResults = 1 << 15;
    unsigned control_;
#else
    FlushDenormals() {}
#endif
};

// A multiply-add of one rounding, where V::fma may have two. A product of bfloat16 values is exact in float32,
// so the two differ only where it leaves the range.
template <typename V>
V fused(V a, V b, V c) {
    return V::fma(a, b, c);
}
inline Portable fused(Portable a, Portable b, Portable c) {
    Portable r;
    for (int i = 0; i < 4; ++i) r.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
    return r;
}

// Float32 activations: the even input of a pair first, then the odd one, in rising order of k.
template <typename V>
struct Float32Pairs {
    using Float = V;
    using Item = float;
    static constexpr int kSteps = 2;

    static V load(const uint16_t* p, int step) { return V::load_place(p, step); }
    static V broadcast(const float* x, int step) { return V::set(x[step]); }
    static V dot(V sum, V w, V x) { return V::fma(w, x, sum); }
};

// Two multiply-adds in place of vdpbf16ps, the odd input first (`1 - step`). Rounded activations are kept as
// floats, ready to broadcast, and a step holds the weights of one place only: sums, weights and one activation
// fit the registers of AVX2.
template <typename V>
struct SplitPairs {
    using Float = V;
    using Item = float;
    static constexpr int kSteps = 2;

    static Item item(uint16_t bits) { return from_bfloat16(bits); }
    static V load(const uint16_t* p, int step) { return V::load_place(p, 1 - step); }
    static V broadcast(const float* x, int step) { return V::set(x[1 - step]); }
    static V dot(V sum, V w, V x) { return fused(w, x, sum); }
};

#if defined(__AVX512BF16__)
struct Avx512Bf16Pairs {
    using Float = Avx512;
    using Item = uint16_t;
    static constexpr int kSteps = 1;

    static Item item(uint16_t bits) { return bits; }
    static __m512bh load(const uint16_t* p, int) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p)); }
    static __m512bh broadcast(const uint16_t* x, int) {
        int32_t pair;
        std::memcpy(&pair, x, 4);
        return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
    }
    static Avx512 dot(Avx512 sum, __m512bh w, __m512bh x) { return {_mm512_dpbf16_ps(sum.v, w, x)}; }
};
#endif

// Avx512Bf16Pairs on other registers: slow, for tests.
template <typename V>
struct LoweredPairs {
    using Float = V;
    using Item = uint16_t;
    static constexpr int kSteps = 1;
    struct Register {
        V even, odd;
    };

    static Item item(uint16_t bits) { return bits; }
    static Register load(const uint16_t* p, int) { return {V::load_place(p, 0), V::load_place(p, 1)}; }
    static Register broadcast(const uint16_t* x, int) {
        return {V::set(from_bfloat16(x[0])), V::set(from_bfloat16(x[1]))};
    }
    static V dot(V sum, Register w, Register x) { return fused(w.even, x.even, fused(w.odd, x.odd, sum)); }
};

// Activations to bfloat16, as P keeps them.
template <typename P>
void round_rows(const RoundTask& task, int part, int parts) {
    const Range range = share(task.rows, part, parts);
    const int64_t stride = task.rounded.stride;
    for (int64_t row = range.begin; row < range.end; ++row) {
        const float* x = task.x + row * task.width;
        auto* items = static_cast<typename P::Item*>(task.rounded.items) + row * stride;
        for (int64_t k = 0; k < task.width; ++k) items[k] = P::item(to_bfloat16(x[k]));
        for (int64_t k = task.width; k < stride; ++k) items[k] = 0;
    }
}

}  // namespace ernie::ERNIE_VARIANT
