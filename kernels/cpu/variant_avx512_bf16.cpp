// AVX-512 F, BW, DQ, VL, VNNI and BF16: every processor with BF16 has VNNI.
#define ERNIE_VARIANT avx512_bf16

#include "variant.hpp"

namespace ernie {

const Kernels kAvx512Bf16Kernels =
    avx512_bf16::make_kernels<avx512_bf16::Avx512, avx512_bf16::Avx512VnniDots, avx512_bf16::Avx512Bf16Pairs,
                              avx512_bf16::Avx512VnniQuads>("avx512-bf16");

}  // namespace ernie
