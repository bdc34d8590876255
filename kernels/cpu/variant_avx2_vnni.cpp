// AVX2 and FMA with AVX-VNNI.
#define ERNIE_VARIANT avx2_vnni

#include "variant.hpp"

namespace ernie {

const Kernels kAvx2VnniKernels =
    avx2_vnni::make_kernels<avx2_vnni::Avx2, avx2_vnni::AvxVnniDots, avx2_vnni::SplitPairs<avx2_vnni::Avx2>,
                            avx2_vnni::AvxVnniQuads>("avx2-vnni");

}  // namespace ernie
