// An op library that needs a libtorch of the other C++ ABI: the tests build it with the macro
// turned around, so that the name of this function's symbol is one which libtorch lacks.
#include <string>

namespace c10 {
std::string demangle(const char* name);
}

std::string of_neuron() { return c10::demangle("neuron"); }
