// The AVX-512 code on pairs of AVX2 registers: for tests only.
#define ERNIE_VARIANT avx512_lowered

#include "variant.hpp"

namespace ernie {

const Kernels kAvx512LoweredKernels =
    avx512_lowered::make_kernels<avx512_lowered::Lowered<avx512_lowered::Avx2>,
                                 avx512_lowered::LoweredDots<avx512_lowered::Avx2Dots>,
                                 avx512_lowered::LoweredPairs<avx512_lowered::Lowered<avx512_lowered::Avx2>>,
                                 avx512_lowered::LoweredQuads<avx512_lowered::Avx2ByteQuads>>("avx512-lowered");

}  // namespace ernie
