// The experts of a step. Rows are gathered by expert, go through all experts of a wave as one set of tasks, and
// are added up row by row, experts rising: a row's result does not depend on the others. A wave has about as
// many pairs of row and expert as there are rows, so that scratch memory does not grow with experts_per_token.
#include "moe.hpp"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <stdexcept>
#include <string>

#include "checks.hpp"
#include "ops.hpp"

namespace ernie {
namespace {

constexpr int64_t kLeastWave = 1024;  // pairs; fewer are never cut

void check_mlp(const char* name, const Mlp& mlp, int64_t hidden, int64_t panel) {
    const std::string prefix(name);
    if (!mlp.gate_up || !mlp.down)
        throw std::invalid_argument(prefix + " must be gate_up and down, one is None");
    expect((prefix + " gate_up panel width").c_str(), mlp.gate_up->panel, panel);
    expect((prefix + " down panel width").c_str(), mlp.down->panel, panel);
    expect((prefix + " gate_up inputs").c_str(), mlp.gate_up->inputs, hidden);
    expect((prefix + " gate_up outputs").c_str(), mlp.gate_up->outputs, 2 * mlp.down->inputs);
    expect((prefix + " down outputs").c_str(), mlp.down->outputs, hidden);
}

void gather(const float* x, int64_t width, const int32_t* rows, int64_t begin, int64_t end, float* y) {
    for (int64_t i = begin; i < end; ++i) std::copy_n(x + rows[i] * width, width, y + i * width);
}

void add_scaled(const float* x, float factor, int64_t width, float* y) {
    for (int64_t k = 0; k < width; ++k) y[k] += factor * x[k];
}

}  // namespace

void ExpertBank::check(int64_t panel) const {
    const int64_t hidden = router->inputs, count = router->outputs;
    expect("router panel width", router->panel, panel);
    expect_below("first expert", first_expert, count);
    expect_below("last local expert", int64_t(experts.size()) - 1, count - first_expert);
    expect("correction_bias length", int64_t(bias.size()), count);
    expect_below("last of experts_per_token", experts_per_token - 1, count);
    for (const Mlp& expert : experts) {
        check_mlp("expert", expert, hidden, panel);
        expect("expert width", expert.down->inputs, experts[0].down->inputs);
        const PackedLinear &gate_up = *expert.gate_up, &like = *experts[0].gate_up;
        if (gate_up.activation != like.activation || gate_up.in_quads != like.in_quads ||
            gate_up.group != like.group)
            throw std::invalid_argument("all experts of a bank must round their inputs alike");
    }
}

void MoeLayer::check(int64_t panel) const {
    if (banks.empty() || banks.size() > 2)
        throw std::invalid_argument("a layer has one bank of experts, or that of text and that of vision");
    for (const ExpertBank& bank : banks) {
        bank.check(panel);
        expect("router inputs", bank.router->inputs, hidden());
    }
    if (shared.gate_up || shared.down) check_mlp("shared experts", shared, hidden(), panel);
}

// Fills chosen_ and chosen_weights_; the mutex is held.
void Ops::route_rows(Matrix x, const ExpertBank& bank) {
    const int64_t experts = bank.router->outputs, count = bank.experts_per_token;
    float* logits = grow(hidden_, x.rows * experts);
    multiply(x.data, x.rows, *bank.router, logits);
    int32_t* chosen = grow(chosen_, x.rows * count);
    float* weights = grow(chosen_weights_, x.rows * count);
    share_rows(x.rows, 16 * experts, [&](int64_t begin, int64_t end) {
        choose_experts(logits, bank.bias.data(), experts, count, begin, end, chosen, weights);
    });
}

void Ops::moe(Matrix x, const MoeLayer& layer, const Batch& batch, Matrix y) {
    expect("moe input rows", x.rows, batch.tokens());
    expect("moe input columns", x.columns, layer.hidden());
    expect_shape("moe result", y, x.rows, x.columns);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (layer.shared.gate_up)
        transform(x, *layer.shared.gate_up, *layer.shared.down, y);
    else
        std::fill_n(y.data, x.rows * x.columns, 0.0f);
    if (layer.banks.size() == 1 || batch.vision_rows.empty()) return add_bank(x, layer.banks[0], y);
    std::vector<int32_t> rows(size_t(x.rows)), text;
    std::iota(rows.begin(), rows.end(), 0);
    std::set_difference(rows.begin(), rows.end(), batch.vision_rows.begin(), batch.vision_rows.end(),
                        std::back_inserter(text));
    add_bank_rows(x, layer.banks[0], text, y);
    add_bank_rows(x, layer.banks[1], batch.vision_rows, y);
}

// Adds the results of a bank to those rows of y that go to it.
void Ops::add_bank_rows(Matrix x, const ExpertBank& bank, const std::vector<int32_t>& rows, Matrix y) {
    const int64_t count = int64_t(rows.size()), width = x.columns;
    if (count == 0) return;
    float* inputs = grow(bank_rows_, 2 * count * width);
    float* results = inputs + count * width;
    share_rows(count, 2 * width, [&](int64_t begin, int64_t end) {
        gather(x.data, width, rows.data(), begin, end, inputs);
        gather(y.data, width, rows.data(), begin, end, results);
    });
    add_bank({inputs, count, width}, bank, {results, count, width});
    share_rows(count, width, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
            std::copy_n(results + i * width, width, y.data + rows[size_t(i)] * width);
    });
}

// Adds the results of a bank to all rows of y.
void Ops::add_bank(Matrix x, const ExpertBank& bank, Matrix y) {
    route_rows(x, bank);
    const QuantizedRows codes =
        bank.experts.empty() ? QuantizedRows{} : quantize_once(x, *bank.experts[0].gate_up);
    pairs_.sort(chosen_.data(), chosen_weights_.data(), x.rows, bank.experts_per_token, bank.router->outputs);
    const int64_t most = std::max(x.rows, kLeastWave);
    for (int64_t first = bank.first_expert, last; first < bank.end_expert(); first = last) {
        last = first + 1;  // a wave has one expert at least, however many rows chose it
        while (last < bank.end_expert() &&
               pairs_.starts[size_t(last) + 1] - pairs_.starts[size_t(first)] <= most)
            ++last;
        add_experts(x, codes, bank, first, last, y);
    }
}

// Adds the results of experts first..last to y. Where there are codes of x, rows are gathered as codes.
void Ops::add_experts(Matrix x, const QuantizedRows& codes, const ExpertBank& bank, int64_t first, int64_t last,
                      Matrix y) {
    const int64_t begin = pairs_.starts[size_t(first)], end = pairs_.starts[size_t(last)];
    const int64_t count = end - begin, hidden = x.columns, width = bank.experts[0].down->inputs;
    if (count == 0) return;
    float* rows = grow(expert_rows_, count * hidden);  // the inputs, then the outputs
    float* inner = grow(hidden_, count * width);
    const int32_t* rows_of_pairs = pairs_.rows.data() + begin;
    if (!codes.codes)
        share_rows(count, hidden,
                   [&](int64_t from, int64_t to) { gather(x.data, hidden, rows_of_pairs, from, to, rows); });
    std::vector<Product> gate_up, down;
    for (int64_t e = first; e < last; ++e) {
        const int64_t start = pairs_.starts[size_t(e)] - begin,
                      size = pairs_.starts[size_t(e) + 1] - begin - start;
        if (size == 0) continue;  // its weights are not read
        const Mlp& expert = bank.experts[size_t(e - bank.first_expert)];
        gate_up.push_back({expert.gate_up.get(), rows + start * hidden, size, inner + start * width, nullptr,
                           codes.codes ? &codes : nullptr, rows_of_pairs + start});
        down.push_back({expert.down.get(), inner + start * width, size, rows + start * hidden});
    }
    multiply_gated(gate_up);
    multiply(down);
    share_rows(x.rows, hidden * bank.experts_per_token, [&](int64_t from, int64_t to) {
        for (int64_t row = from; row < to; ++row)
            for (int64_t i = 0; i < bank.experts_per_token; ++i) {
                const int64_t pair = pairs_.places[size_t(row * bank.experts_per_token + i)];
                if (pair < begin || pair >= end) continue;
                add_scaled(rows + (pair - begin) * hidden, pairs_.weights[size_t(pair)], hidden,
                           y.data + row * hidden);
            }
    });
}

}  // namespace ernie
