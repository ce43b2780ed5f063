#!/bin/sh
# Writes what `make lock` compiled, with a head that says where it is from; nothing on an empty input.
set -eu
lock=$(cat)
test -n "$lock"
{
    echo "# Made by \`make lock\`: what the images install ($1), for Python 3.11 on x86-64 Linux."
    test "$1" != cpu || echo "# torch is the CPU build, which only PyTorch's CPU index has: Dockerfile, TORCH_INDEX."
    test "$1" = cpu || echo "# torch is the build with CUDA, from the plain registry. Resolved, never installed."
    printf '%s\n' "$lock"
} > "$(dirname "$0")/requirements-$1.txt"
