# Fust. `make up` installs and starts it; `make install WITH=tune,data` adds parts; `make test` is what every change passes.
PY := .venv/bin/python
FUST := .venv/bin/fust

.PHONY: up install test test-faults test-slow bench ui fmt gates clean

up: install
	@$(FUST) up

install:
	@PYTHON="$(PYTHON)" sh scripts/bootstrap.sh $(WITH)

.PHONY: test-install
test-install:
	@PYTHON="$(PYTHON)" sh scripts/bootstrap.sh test
	@sh scripts/test-system.sh

gates: test-install
	$(PY) -m ruff check src tests benchmarks examples scripts
	$(PY) -m ruff format --check src tests benchmarks examples scripts
	$(PY) -m pyright
	.venv/bin/lint-imports
	sh ui/check-drift.sh

# Two at a time, a file to one of them: most tests wait for servers and browsers of their own. What fails is tried once
# more, alone: on a busy machine a browser or a stream may be late. Both outcomes are printed.
test: gates
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not faults" || $(PY) -m pytest --lf --lfnf=none -m "not slow and not faults"

# One at a time, and what fails is tried once more as well; the first outcome stays in the log and is to be explained.
test-faults: test-install
	$(PY) -m pytest -m "faults and not slow" || $(PY) -m pytest --lf --lfnf=none -m "faults and not slow"

test-slow: test-install
	@sh scripts/test-system.sh slow
	$(PY) -m pytest -m "slow"
	FUST_FUZZ=10 $(PY) -m pytest tests/faults/test_fuzz_*.py

bench: test-install
	@for script in $(filter-out benchmarks/team.py,$(wildcard benchmarks/[a-z]*.py)); do $(PY) $$script $(BENCH) || exit 1; done

.PHONY: team
team: test-install
	$(PY) benchmarks/team.py --minutes 30

ui:
	cd ui && npm ci --no-audit --no-fund && npm run build

fmt:
	$(PY) -m ruff check --fix src tests benchmarks examples scripts
	$(PY) -m ruff format src tests benchmarks examples scripts

clean:
	rm -rf .venv ui/node_modules build dist
