#!/bin/sh
# Everything that needs a CUDA device, in one go: the tests marked gpu, symmetric products, a step over the hidden
# matrices of three LLaMA sizes, and the polynomial method beside an SVD of one large matrix.
#
#     sh benchmarks/gpu.sh [FOLDER]         results go to FOLDER, benchmarks/results if not given
#     PYTHON=python3 sh benchmarks/gpu.sh   with another interpreter
#
# A test that fails does not keep the rest from being measured; the exit status tells.
python=${PYTHON:-python}
out=${1:-benchmarks/results}
export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}."
mkdir -p "$out"
status=0

"$python" -m pytest -m gpu -q -n 8 tests/analysis tests/kernels tests/layouts tests/optim tests/recipes || status=1
"$python" benchmarks/symmetric_product.py --dtypes float16 bfloat16 float32 --json "$out/symmetric_product_gpu.json" || status=1
"$python" benchmarks/symmetric_tiles.py --json "$out/symmetric_tiles_gpu.json" || status=1
polynomial=htmuon:method=polynomial
compiled=htmuon:compile=true
for model in llama-60m llama-350m "llama-1b --layers 6"; do
    # shellcheck disable=SC2086
    "$python" -m htmuon bench $model --device cuda --rounds 9 --json "$out/bench_${model%% *}_gpu.json" --candidates \
        muon:method=newton_schulz htmuon $compiled "$polynomial,levels=5" "$polynomial,levels=8" \
        "$polynomial,precision=bfloat16" "$polynomial,precision=float32" htmuon:method=streaming || status=1
    compiled= # compiling takes longest: for the first one alone
done
"$python" -m htmuon bench --shapes 2048x5461 --device cuda --rounds 3 --no-peers --json "$out/bench_2048x5461_gpu.json" \
    --candidates htmuon htmuon:method=eigh htmuon:method=svd || status=1
# A model whose sides are aligned as they are.
"$python" -m htmuon bench --shapes 2048x2048*16 5632x2048*8 2048x5632*4 --device cuda --rounds 9 \
    --json "$out/bench_aligned_gpu.json" --candidates muon:method=newton_schulz htmuon "$polynomial,levels=5" || status=1
exit $status
