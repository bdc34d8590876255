// A layer of experts.
#pragma once

#include <memory>
#include <vector>

#include "weights.hpp"

namespace ernie {

// A gated MLP: gate_up [2 I][H], all gate rows first; down [H][I].
struct Mlp {
    std::shared_ptr<PackedLinear> gate_up;
    std::shared_ptr<PackedLinear> down;
};

struct ExpertBank {
    std::shared_ptr<PackedLinear> router;  // [experts][H]
    std::vector<float> bias;               // [experts], for the choice only
    int64_t experts_per_token;
    int64_t first_expert;  // the router's row of experts[0]; of those before and after, other ranks have some
    std::vector<Mlp> experts;

    int64_t end_expert() const { return first_expert + int64_t(experts.size()); }

    // Throws std::invalid_argument unless the sizes fit each other and panels of `panel` outputs.
    void check(int64_t panel) const;
};

struct MoeLayer {
    std::vector<ExpertBank> banks;  // that of all rows, or those of text and of vision
    Mlp shared;                     // of all rows; null: none

    int64_t hidden() const { return banks[0].router->inputs; }

    // As of a bank.
    void check(int64_t panel) const;
};

}  // namespace ernie
