// AVX-512 F, BW, DQ and VL.
#define ERNIE_VARIANT avx512

#include "variant.hpp"

namespace ernie {

const Kernels kAvx512Kernels =
    avx512::make_kernels<avx512::Avx512, avx512::Avx512Dots, avx512::SplitPairs<avx512::Avx512>,
                         avx512::Avx512Quads>("avx512");

}  // namespace ernie
