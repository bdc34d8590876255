// AVX-512 F, BW, DQ, VL and VNNI.
#define ERNIE_VARIANT avx512_vnni

#include "variant.hpp"

namespace ernie {

const Kernels kAvx512VnniKernels =
    avx512_vnni::make_kernels<avx512_vnni::Avx512, avx512_vnni::Avx512VnniDots,
                              avx512_vnni::SplitPairs<avx512_vnni::Avx512>, avx512_vnni::Avx512VnniQuads>(
        "avx512-vnni");

}  // namespace ernie
