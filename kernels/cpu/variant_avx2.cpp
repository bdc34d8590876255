// AVX2 and FMA.
#define ERNIE_VARIANT avx2

#include "variant.hpp"

namespace ernie {

const Kernels kAvx2Kernels =
    avx2::make_kernels<avx2::Avx2, avx2::Avx2Dots, avx2::SplitPairs<avx2::Avx2>, avx2::Avx2Quads>("avx2");

}  // namespace ernie
