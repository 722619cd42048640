// A stand-in for torch-neuron's op library, for tests: the class and the operator that the
// compiled modules of torch-neuron 1.13.1 name, on devices that are threads of this process.
//
// Names as public sources have them: `torch.classes.neuron.Model`, made of two strings (NEFF
// and metaneff), and `neuron::forward_v2_N(Tensor[], Model)` for N outputs, in the operator
// list of netron and in AWS's Python packages that call them. Placement as AWS's guide to core
// placement says: a module goes to the least used core, the first of those.
//
// The "NEFF" is what the device computes: the bytes of a TorchScript module, or nothing for a
// residue of the sum of each row's ids, which tells rows apart. The "metaneff" is its shape, as
// ROWSxLENGTH.
//
// NEURON_RT_NUM_CORES [4] says how many cores there are, STAND_IN names a folder. Its file
// `behaviour` is read at each run, so that a test can change it; settings are separated by spaces:
//   device_us=N   a run lasts at least so long [0]
//   meet=N        a run lasts until so many have begun and not ended
//   fault=WORD    fail, hang or nan
//   log=1         each load and each run adds a line to the folder's `log`; loads always do

#include <torch/script.h>

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <map>
#include <mutex>
#include <sstream>
#include <thread>

namespace {

using Outputs = std::tuple<at::Tensor, at::Tensor>;

std::string variable(const char* name, const char* otherwise) {
    const char* value = std::getenv(name);
    return value ? value : otherwise;
}

struct Behaviour {
    std::map<std::string, std::string> settings;

    static Behaviour now() {
        Behaviour found;
        std::ifstream file(variable("STAND_IN", "/nonexistent") + "/behaviour");
        for (std::string word; file >> word;) {
            auto equals = word.find('=');
            found.settings[word.substr(0, equals)] = word.substr(equals + 1);
        }
        return found;
    }

    std::string word(const char* name) const {
        auto found = settings.find(name);
        return found == settings.end() ? "" : found->second;
    }

    long number(const char* name) const {
        auto found = word(name);
        return found.empty() ? 0 : std::stol(found);
    }
};

// All cores of the process.
struct Device {
    std::mutex mutex;
    std::condition_variable met;
    std::vector<int> loaded = std::vector<int>(std::stol(variable("NEURON_RT_NUM_CORES", "4")));
    long running = 0;

    static Device& get() {
        // Never destroyed: a hanging run outlives the process's own state.
        static Device* device = new Device();
        return *device;
    }

    void log(const std::string& line) {
        std::string folder = variable("STAND_IN", "");
        if (!folder.empty()) std::ofstream(folder + "/log", std::ios::app) << line + "\n" << std::flush;
    }

    int place(const std::string& shape) {
        std::lock_guard<std::mutex> lock(mutex);
        int core = std::min_element(loaded.begin(), loaded.end()) - loaded.begin();
        loaded[core] += 1;
        log("load core=" + std::to_string(core) + " shape=" + shape);
        return core;
    }

    void remove(int core) {
        std::lock_guard<std::mutex> lock(mutex);
        loaded[core] -= 1;
    }

    void run(int core, const std::string& shape, const Behaviour& behaviour) {
        {
            std::unique_lock<std::mutex> lock(mutex);
            running += 1;
            std::ostringstream line;
            line << "run core=" << core << " shape=" << shape << " thread=" << std::this_thread::get_id();
            if (behaviour.number("log")) log(line.str());
            met.notify_all();
            // Who is waited for counts to the end, so that all who meet leave.
            long meet = behaviour.number("meet");
            met.wait(lock, [&] { return running >= meet; });
            if (meet == 0) running -= 1;
        }
        std::this_thread::sleep_for(std::chrono::microseconds(behaviour.number("device_us")));
    }
};

// What a device computes. Cores and shapes share those of the same bytes, so that large networks fit.
struct Network {
    const std::string neff;
    c10::optional<torch::jit::Module> graph;

    explicit Network(std::string neff_) : neff(std::move(neff_)) {
        if (neff.empty()) return;
        std::istringstream bytes(neff);
        graph = torch::jit::load(bytes);
        // A CPU computes no other type as well.
        graph->to(at::kFloat);
    }

    static std::shared_ptr<Network> of(std::string neff) {
        static std::mutex mutex;
        static std::map<size_t, std::weak_ptr<Network>> known;
        std::lock_guard<std::mutex> lock(mutex);
        auto& found = known[std::hash<std::string>()(neff)];
        auto network = found.lock();
        if (!network) found = network = std::make_shared<Network>(std::move(neff));
        return network;
    }
};

// One compiled graph on one core.
struct Model : torch::CustomClassHolder {
    const std::shared_ptr<Network> network;
    const std::string metaneff;
    const int core;
    int64_t rows, length;

    Model(std::string neff, std::string metaneff_)
        : network(Network::of(std::move(neff))), metaneff(std::move(metaneff_)), core(Device::get().place(metaneff)) {
        auto cross = metaneff.find('x');
        rows = std::stol(metaneff.substr(0, cross));
        length = std::stol(metaneff.substr(cross + 1));
    }

    ~Model() override { Device::get().remove(core); }

    Outputs run(const std::vector<at::Tensor>& inputs) {
        TORCH_CHECK(inputs.size() == 3, "the graph takes 3 inputs");
        for (const auto& input : inputs) {
            TORCH_CHECK(input.scalar_type() == at::kLong && input.sizes() == at::IntArrayRef({rows, length}),
                        "the graph is compiled for int64 of ", metaneff);
        }
        auto behaviour = Behaviour::now();
        Device::get().run(core, metaneff, behaviour);
        auto outputs = compute(inputs);
        std::string fault = behaviour.word("fault");
        TORCH_CHECK(fault != "fail", "nrt_execute status=1204: core ", core, " gave up");
        while (fault == "hang") pause();
        if (fault == "nan") std::get<0>(outputs).fill_(std::numeric_limits<float>::quiet_NaN());
        return outputs;
    }

    Outputs compute(const std::vector<at::Tensor>& inputs) {
        at::NoGradGuard no_gradients;
        if (network->graph) {
            auto answer = network->graph->forward({inputs[0], inputs[1], inputs[2]}).toTuple();
            return {answer->elements()[0].toTensor(), answer->elements()[1].toTensor()};
        }
        auto residue = (inputs[0] * inputs[1]).sum(1).remainder(1009).to(at::kFloat).div(1009);
        auto zero = at::zeros_like(residue);
        return {at::stack({zero, residue}, 1), at::stack({residue, zero + 0.5, zero, zero}, 1)};
    }
};

Outputs forward_v2_2(at::TensorList inputs, const c10::intrusive_ptr<Model>& model) {
    return model->run(inputs.vec());
}

// Finds the operator by the name that the compiled module's own code has for it.
struct Operators : torch::jit::Resolver {
    std::shared_ptr<torch::jit::SugaredValue> resolveValue(
        const std::string& name, torch::jit::GraphFunction&, const torch::jit::SourceRange&) override {
        if (name != "forward_v2_2") return nullptr;
        auto symbol = c10::Symbol::fromQualString("neuron::forward_v2_2");
        return std::make_shared<torch::jit::BuiltinFunction>(symbol, c10::nullopt);
    }
};

}  // namespace

TORCH_LIBRARY(neuron, m) {
    m.class_<Model>("Model")
        .def(torch::init<std::string, std::string>())
        .def_pickle(
            [](const c10::intrusive_ptr<Model>& model) { return std::make_tuple(model->network->neff, model->metaneff); },
            [](std::tuple<std::string, std::string> state) {
                return c10::make_intrusive<Model>(std::get<0>(state), std::get<1>(state));
            });
    m.def("forward_v2_2(Tensor[] _0, __torch__.torch.classes.neuron.Model _1) -> (Tensor _0, Tensor _1)", forward_v2_2);
}

// Writes the module that torch.neuron.trace would make of the TorchScript in `neff` (empty for
// the residues) for batches of `shape` to the file `path`.
void write_compiled(const char* neff, size_t bytes, const char* shape, const char* path) {
    torch::jit::Module module("AwsNeuronGraphModule");
    auto model = c10::make_intrusive<Model>(std::string(neff, bytes), shape);
    module.register_attribute("model", c10::getCustomClassType<c10::intrusive_ptr<Model>>(), model);
    module.define(R"(
def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor):
    return forward_v2_2([input_ids, attention_mask, token_type_ids], self.model)
)",
                  std::make_shared<Operators>());
    module.save(path);
}
