// usage: bert FILE < ROWS   writes a BERT of the base shape with random weights to FILE, as TorchScript
// in bfloat16, and answers each row with its logits: two of the pair head, four of the intent head.
//
// A row is a line of numbers: how many tokens it has, their ids, their types. It is computed alone, in
// float32 and without padding, so that its logits vouch for any batch that it is in later.

#include <torch/script.h>

#include <iomanip>
#include <iostream>
#include <sstream>

namespace {

constexpr int64_t kLayers = 12, kHidden = 768, kHeads = 12, kInner = 3072;
constexpr int64_t kWords = 30522, kPositions = 512, kTypes = 32;

// The network's parameters, and the code that reads them.
struct Builder {
    torch::jit::Module module{"Bert"};
    std::ostringstream code;

    void parameter(const std::string& name, const at::Tensor& value) {
        module.register_parameter(name, value, /*is_buffer=*/false);
    }

    void linear(const std::string& name, int64_t inputs, int64_t outputs) {
        // Wide enough for attention and for the heads to tell rows apart.
        parameter(name + "_w", at::randn({outputs, inputs}).mul(0.05));
        parameter(name + "_b", at::randn({outputs}).mul(0.05));
    }

    void norm(const std::string& name) {
        parameter(name + "_w", at::ones({kHidden}));
        parameter(name + "_b", at::zeros({kHidden}));
    }

    void embedding(const std::string& name, int64_t rows) { parameter(name, at::randn({rows, kHidden})); }

    static std::string apply(const std::string& name, const std::string& input) {
        return "torch.linear(" + input + ", self." + name + "_w, self." + name + "_b)";
    }

    void normalise(const std::string& name, const std::string& input) {
        code << "    x = torch.layer_norm(" << input << ", [" << kHidden << "], self." << name << "_w, self." << name
             << "_b, 1e-12)\n";
    }

    void layer(const std::string& layer) {
        for (std::string name : {"_q", "_k", "_v", "_o"}) linear(layer + name, kHidden, kHidden);
        linear(layer + "_up", kHidden, kInner);
        linear(layer + "_down", kInner, kHidden);
        norm(layer + "_n1");
        norm(layer + "_n2");
        for (std::string name : {"q", "k", "v"}) {
            code << "    " << name << " = " << apply(layer + "_" + name, "x") << ".view([b, l, " << kHeads << ", "
                 << kHidden / kHeads << "]).transpose(1, 2)\n";
        }
        code << "    a = torch.matmul(q, k.transpose(2, 3)).div(8.0).add(bias).softmax(-1)\n"
             << "    c = torch.matmul(a, v).transpose(1, 2).reshape([b, l, " << kHidden << "])\n";
        normalise(layer + "_n1", "x.add(" + apply(layer + "_o", "c") + ")");
        code << "    h = torch.gelu(" << apply(layer + "_up", "x") << ")\n";
        normalise(layer + "_n2", "x.add(" + apply(layer + "_down", "h") + ")");
    }

    torch::jit::Module build() {
        embedding("words", kWords);
        embedding("positions", kPositions);
        embedding("types", kTypes);
        norm("embedded");
        code << "def forward(self, ids: Tensor, mask: Tensor, kinds: Tensor):\n"
             << "    b = ids.size(0)\n"
             << "    l = ids.size(1)\n"
             << "    bias = torch.rsub(mask, 1).mul(-10000.0).view([b, 1, 1, l])\n"
             << "    e = torch.embedding(self.words, ids).add(torch.embedding(self.types, kinds))\n";
        normalise("embedded", "e.add(self.positions.narrow(0, 0, l))");
        for (int64_t i = 0; i < kLayers; ++i) layer("l" + std::to_string(i));
        linear("pair", kHidden, 2);
        linear("intent", kHidden, 4);
        code << "    first = x.select(1, 0)\n"
             << "    return (" << apply("pair", "first") << ", " << apply("intent", "first") << ")\n";
        module.define(code.str());
        return module;
    }
};

at::Tensor numbers(std::istream& line, int64_t count) {
    auto values = at::empty({1, count}, at::kLong);
    for (int64_t i = 0; i < count; ++i) line >> values.data_ptr<int64_t>()[i];
    return values;
}

void answer(torch::jit::Module& module, std::istream& line) {
    int64_t count = 0;
    line >> count;
    auto ids = numbers(line, count), types = numbers(line, count);
    auto logits = module.forward({ids, at::ones_like(ids), types}).toTuple();
    for (const auto& head : logits->elements()) {
        auto values = head.toTensor().contiguous();
        for (int64_t i = 0; i < values.numel(); ++i) std::cout << values.data_ptr<float>()[i] << ' ';
    }
    std::cout << '\n';
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 2) {
        std::cerr << "usage: bert FILE < ROWS\n";
        return 2;
    }
    at::NoGradGuard no_gradients;
    torch::manual_seed(1);
    auto module = Builder().build();
    module.eval();
    module.to(at::kBFloat16);
    module.save(arguments[1]);
    module.to(at::kFloat);
    std::cout << std::setprecision(9);
    for (std::string text; std::getline(std::cin, text);) {
        std::istringstream line(text);
        answer(module, line);
    }
}
