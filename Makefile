# Everything runs inside .venv, which each target makes on first use. `make demo` and `make test` are all the set-up.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# OpenMP runtimes that spin for work slow each other down several-fold: where processes share the cores, idle
# threads should sleep. A process alone is slower so.
test campaign crowd fleet: export OMP_WAIT_POLICY ?= PASSIVE
test campaign crowd fleet: export GOMP_SPINCOUNT ?= 0
# Tests start hundreds of processes: what the first has compiled, the others need not, whatever is set outside.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test campaign crowd fleet check bench format clean
.DELETE_ON_ERROR:

# torch first and pinned, so that no other package's range chooses a different build.
.venv/run: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) --editable .
	touch $@

# tinysoundfont goes in without its dependency pyaudio: that is for playing live, and needs a C build.
# Of musicnn and basic-pitch only the weights are read: their dependencies (old TensorFlow) stay out.
.venv/dev: .venv/run
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps tinysoundfont musicnn basic-pitch
	touch $@

demo: .venv/run
	mkdir -p out
	$(BIN)/ditto-music generate --tags "genre=electronic mood=energetic tempo=120" \
		--intensity crescendo --seed 7 --force --output out/demo.wav
	@echo "Listen to out/demo.wav; see out/demo.png and out/demo.json"

# The page is tested in Debian's chromium, which .ci/run installs; without one those tests are skipped.
# A process that dies fails the run: xdist may wait for ever for one that it started anew (its #1323).
test: .venv/dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --max-worker-restart 0

# Command lines, changed files, kills, full disks: 10 000 of them, of which `make test` runs a slice;
# make campaign SHARE=0.01 makes a hundredth.
SEED ?= 0
SHARE ?= 1
campaign: .venv/dev
	mkdir -p out
	$(BIN)/python -m tests.campaign --seed $(SEED) --share $(SHARE) --log out/campaign.json

# Clients at once on one studio, and the jobs of each; `make test` runs a few.
CLIENTS ?= 8
JOBS ?= 25
crowd: .venv/dev
	CLIENTS=$(CLIENTS) JOBS=$(JOBS) $(BIN)/python -m pytest tests/studio/test_many.py \
		--capture no --override-ini timeout=3600

# Batches at the size that docs/scale.md tells of: half an hour on a machine with nothing else to do.
# The log has machine, date, commit and each bound with what was measured; a bound that fails, fails it.
fleet: .venv/dev
	mkdir -p out
	$(BIN)/python -m tests.fleet --log out/fleet.json

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One table of the papers: make bench TABLE=d2-table2 COUNT=4
TABLE ?= d2-table2
COUNT ?= 4
bench: .venv/dev
	$(BIN)/python -m benchmarks $(TABLE) --count $(COUNT)

clean:
	rm -rf .venv out
