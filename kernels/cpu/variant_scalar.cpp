// Plain C++ for the compiler's baseline: runs on every processor.
#define ERNIE_VARIANT scalar

#include "variant.hpp"

namespace ernie {

const Kernels kScalarKernels =
    scalar::make_kernels<scalar::Portable, scalar::PortableDots, scalar::SplitPairs<scalar::Portable>,
                         scalar::PortableQuads>("scalar");

}  // namespace ernie
