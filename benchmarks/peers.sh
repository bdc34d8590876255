#!/usr/bin/env bash
# Builds llama.cpp, out of the source package llama-cpp-python 0.3.36, and a Q8_0 model of the 0.3B shape:
#   benchmarks/peers.sh W
# Everything goes into the directory W: some 20 minutes on two cores, 3 GB. Needs cmake, ninja and a C++ compiler.
# Then: make bench LLAMA=W
set -euo pipefail

work=${1:?directory to build in}
here=$(cd "$(dirname "$0")" && pwd)
version=0.3.36
mkdir -p "$work"
work=$(cd "$work" && pwd)

[ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet gguf numpy

if [ ! -x "$work/build/bin/llama-batched-bench" ]; then
    "$work/venv/bin/pip" download --quiet --no-deps --no-binary llama-cpp-python -d "$work" "llama-cpp-python==$version"
    tar -C "$work" -xzf "$work/llama_cpp_python-$version.tar.gz"
    cmake -G Ninja -S "$work/llama_cpp_python-$version/vendor/llama.cpp" -B "$work/build" \
        -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DLLAMA_OPENSSL=OFF \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF
    cmake --build "$work/build" --target llama-bench llama-batched-bench llama-quantize -j2
fi

if [ ! -f "$work/dense-q8_0.gguf" ]; then
    "$work/venv/bin/python" "$here/random_gguf.py" "$work/dense-bf16.gguf"
    "$work/build/bin/llama-quantize" "$work/dense-bf16.gguf" "$work/dense-q8_0.gguf" Q8_0 2
fi
echo "llama.cpp: $work/build/bin, model: $work/dense-q8_0.gguf"
