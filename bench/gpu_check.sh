#!/bin/bash
# What a machine with a GPU says of this checkout, written to a folder as it goes.
#
#     bench/gpu_check.sh FOLDER [tests] [sanitize] [bench]      all three, if none is named
#
# From the root of the checkout; nothing is installed. Each part takes less than nine minutes. Files:
# facts.txt; tests.txt; sanitize.txt; peers.json, bench.json, sweep.json, sweep.png, tables.md. The
# status is 1 if a part or Python failed, and 0 where there is no GPU: then every file says "not available".

set -u

if [ $# -lt 1 ]; then
    echo "gpu_check: need a folder: bench/gpu_check.sh FOLDER [tests] [sanitize] [bench]" >&2
    exit 2
fi
OUT=$1
shift
PARTS=${*:-tests sanitize bench}
for part in $PARTS; do
    case $part in
    tests | sanitize | bench) ;;
    *)
        echo "gpu_check: no part $part; there are tests, sanitize, bench" >&2
        exit 2
        ;;
    esac
done
mkdir -p "$OUT" || exit 2
PYTHON=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
FAILED=""

has() { command -v "$1" >/dev/null 2>&1; }

module() { "$PYTHON" -c "import importlib.util as u, sys; sys.exit(not u.find_spec('$1'))"; }

# Run a command for so many seconds at most, its output appended to a file; notes if it fails.
run() {
    local name=$1 seconds=$2 file=$3
    shift 3
    timeout --kill-after=5 "$seconds" "$@" >>"$file" 2>&1
    local status=$?
    [ $status -eq 124 ] && echo "$name: stopped after $seconds s" >>"$file"
    if [ $status -ne 0 ]; then
        echo "gpu_check: $name failed with status $status, see $file"
        FAILED="$FAILED $name"
    fi
}

facts() {
    {
        date -u +%FT%TZ
        uname -srm
        nproc
        if has nvidia-smi; then
            timeout 20 nvidia-smi
            timeout 20 nvidia-smi -q -d CLOCK,POWER
        else
            echo "nvidia-smi: not available"
        fi
        "$PYTHON" --version
        timeout 60 "$PYTHON" - <<'PROGRAM'
from importlib.metadata import PackageNotFoundError, distributions, version

cupy = sorted(d.name for d in distributions() if d.name and d.name.startswith("cupy"))
for name in ("numpy", *cupy, "torch", "triton", "jax", "jaxlib", "ml_dtypes", "pytest"):
    try:
        print(name, version(name))
    except PackageNotFoundError:
        print(name, "not available")
PROGRAM
        timeout 60 "$PYTHON" -m graphc.cli devices
    } >"$OUT/facts.txt" 2>&1
}

# Why the backend cuda cannot run here; nothing if it can. Fails where Python or graphc does.
reason() {
    local said status
    said=$(timeout 60 "$PYTHON" -c '
import graphc
found = graphc.devices()["cuda"]
print("" if found.usable else found.reason)' 2>&1)
    status=$?
    echo "$said" | tail -n 1
    return $status
}

# The tests marked `gpu`, and those of all backends, on cuda.
tests() {
    local shared=()
    module xdist && shared=(-n 4 --dist worksteal)
    # the warnings of whichever versions of libraries are here are no failures
    run tests 500 "$OUT/tests.txt" "$PYTHON" -m pytest tests -q -rfEs -p no:cacheprovider \
        -W default --tb=short "${shared[@]}" --backend cuda -m gpu
}

sanitize() {
    local sanitizer=""
    has compute-sanitizer && sanitizer=compute-sanitizer
    [ -x /usr/local/cuda/bin/compute-sanitizer ] && sanitizer=/usr/local/cuda/bin/compute-sanitizer
    if [ -z "$sanitizer" ]; then
        echo "compute-sanitizer: not available; the kernels run without it" >"$OUT/sanitize.txt"
        run kernels 240 "$OUT/sanitize.txt" "$PYTHON" -m bench.gpu_kernels
        return
    fi
    # libraries ask for what is not there, and cope: errors of calls are not errors of kernels
    for tool in "memcheck --report-api-errors no" racecheck; do
        echo "== $tool" >>"$OUT/sanitize.txt"
        run "${tool%% *}" 260 "$OUT/sanitize.txt" "$sanitizer" --tool $tool --error-exitcode 9 \
            "$PYTHON" -m bench.gpu_kernels
    done
}

# A benchmark into JSON; its Markdown goes to the end of tables.md.
measure() {
    local name=$1 seconds=$2
    shift 2
    echo "## $name" >>"$OUT/tables.md"
    run "$name" "$seconds" "$OUT/bench.log" "$PYTHON" -m graphc.cli bench --out "$OUT/$name.json" "$@"
    cat "$OUT/$name.md" >>"$OUT/tables.md" 2>/dev/null || tail -n 5 "$OUT/bench.log" >>"$OUT/tables.md"
    rm -f "$OUT/$name.md" "$OUT/bench.log"
}

bench() {
    local picture=()
    if module matplotlib; then
        picture=(--plot "$OUT/sweep.png")
    else
        echo "sweep.png: not available: no matplotlib; python -m bench.sweep draws sweep.json" \
            >>"$OUT/tables.md"
    fi
    measure peers 380 --peers --backend cuda --seconds 290
    measure sweep 85 --sweep --seconds 60 "${picture[@]}"
    measure bench 65 --seconds 40 --case digits --case mnist --case wide --case elementwise
}

facts
if ! WHY=$(reason); then
    echo "gpu_check: FAILED: $PYTHON does not run graphc: $WHY"
    exit 1
fi
if [ -n "$WHY" ]; then
    for part in $PARTS; do
        case $part in
        bench) echo "not available: $WHY" >"$OUT/tables.md" ;;
        *) echo "not available: $WHY" >"$OUT/$part.txt" ;;
        esac
    done
    if [ -e /dev/nvidia0 ] || { has nvidia-smi && nvidia-smi -L >/dev/null 2>&1; }; then
        echo "gpu_check: FAILED: there is a GPU, but the backend cuda cannot run: $WHY"
        exit 1
    fi
    echo "gpu_check: nothing was checked: the backend cuda is not available: $WHY"
    exit 0
fi
for part in $PARTS; do
    $part
done
if [ -n "$FAILED" ]; then
    echo "gpu_check: FAILED:$FAILED"
    exit 1
fi
echo "gpu_check: passed: $PARTS"
