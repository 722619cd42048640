// usage: compile SHAPE FILE [TORCHSCRIPT]   writes a module for the stand-in's device

#include <fstream>
#include <iostream>
#include <sstream>
#include <string>

void write_compiled(const char* neff, size_t bytes, const char* shape, const char* path);

int main(int count, char** arguments) {
    if (count < 3) {
        std::cerr << "usage: compile ROWSxLENGTH FILE [TORCHSCRIPT]\n";
        return 2;
    }
    std::string neff;
    if (count > 3) {
        std::ifstream file(arguments[3], std::ios::binary);
        std::ostringstream bytes;
        bytes << file.rdbuf();
        neff = bytes.str();
        if (neff.empty()) {
            std::cerr << arguments[3] << ": cannot be read\n";
            return 1;
        }
    }
    write_compiled(neff.data(), neff.size(), arguments[1], arguments[2]);
}
