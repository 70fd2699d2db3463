# Everything a user runs. `make` alone lists it.
EXTRAS := [notebooks,dev,build,dask,course,photographs,page]
LISTED := setup.mk Makefile
# tests side by side, one thread each
TEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2
include setup.mk

.PHONY: test test-all check gpu-check evaluate bench bench-memory bench-map data environment student solutions grade page book pdf tour slides clean

test: setup ## unit tests and the quickstart in its smoke profile
	$(TEST) --dist worksteal -m "not slow"

test-all: setup ## every notebook in its smoke profile, the explorers in Chromium, whole builds
	$(TEST) --dist loadfile --no-loadscope-reorder -m slow

check: setup ## ruff, mypy, and that notebooks are committed without outputs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy erase_lib
	$(BIN)/nbstripout --verify --extra-keys metadata.papermill notebooks/*.ipynb

gpu-check: setup ## seconds and memory of an erasure at Stable Diffusion's size, on a CUDA GPU
	$(BIN)/python -m tools.benchmarks.gpu_check

results-%: setup ## run the grid notebooks/params/NAME.yaml; its table goes to data/results
	$(BIN)/erase-sweep --grid notebooks/params/$*.yaml --out runs/results-$* --workers 2 \
	    --publish data/results

evaluate: setup ## the three suites, one erasure each: runs/evaluate; goes on where it was cut off
	$(BIN)/erase-sweep --grid notebooks/params/evaluate.yaml --out runs/evaluate --workers 2

bench: setup ## time every method, schedule and the K/V prediction; tables go to data/results
	$(BIN)/python -m tools.benchmarks.speed --out data/results/speed.json
	$(BIN)/python -m tools.benchmarks.kv --out data/results/kv.json

bench-memory: setup ## memory at Stable Diffusion's shapes: 20 GB, some 10 minutes; `full` needs more
	$(BIN)/python -m tools.benchmarks.memory --methods xattn noxattn --out data/results/memory.json

bench-map: setup ## frames a second of the map of concepts, in Debian's chromium
	$(BIN)/python -m tools.benchmarks.map_fps --out data/results/map_fps.json

data: setup ## build data/emoji again from the npm packages (about 31 MB, fetched once)
	@command -v npm >/dev/null || { echo "npm is needed to fetch the pictures: install Node.js" >&2; exit 1; }
	$(BIN)/python -m tools.embedded.pictures
	$(BIN)/python -m tools.embedded.words
	$(BIN)/python -m tools.embedded.sets

environment: setup ## write environment.yml, for conda, from pyproject.toml and constraints.txt
	$(BIN)/python -m tools.environment

student: setup ## the course without solutions: build/erase-course-student, and a zip
	$(BIN)/python -m course.editions student

solutions: setup ## the lecturer's: with solutions and SOLUTIONS.md: build/erase-course-solutions
	$(BIN)/python -m course.editions solutions

grade: setup ## who solved what: make grade FOLDER=handed-in; the table: build/grades.csv
	@test -n "$(FOLDER)" || { echo "Say where the notebooks lie: make grade FOLDER=handed-in" >&2; exit 1; }
	$(BIN)/python -m course.grade "$(FOLDER)" --profile $(or $(PROFILE),course)

page: setup ## an erasure to try in a browser, without a server: build/page; npm fetches 33 MB, once
	$(BIN)/python -m tools.page.build

# PAGE=0 leaves the page out, and with it npm
book: setup $(if $(filter 0,$(PAGE)),,page) ## run the notebooks (some 15 minutes, what has not changed is kept): build/book/html; PAGE=0: without the page
	$(BIN)/python -m course.book $(if $(filter 0,$(PAGE)),,--page build/page)

pdf: setup ## the book on paper, by Chromium: build/book/book.pdf; CODE=shown with its code
	$(BIN)/python -m course.pdf --code $(or $(CODE),hidden)

tour: setup ## run the tour's notebooks and write docs/tour, its pages for whoever looks at the repository
	$(BIN)/python -m course.tour

slides: setup ## the slides of the tagged cells, for a browser without network: build/slides
	$(BIN)/python -m course.slides

clean: ## remove caches; .venv, runs/ and build/ stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
