// What the files of bindings share.
#pragma once

#include <nanobind/nanobind.h>

#include "buffer.hpp"
#include "ops.hpp"

namespace ernie {

inline Matrix matrix(const Buffer& buffer) { return {buffer.data<float>(), buffer.size(0), buffer.size(1)}; }

// Adds the class Moe, and the ops over it.
void bind_moe(nanobind::module_& module, nanobind::class_<Ops>& ops);

// Adds the class PatchCache, and the ops of vision towers.
void bind_patches(nanobind::module_& module, nanobind::class_<Ops>& ops);

}  // namespace ernie
