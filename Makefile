# make demo          environment, install, the whole pipeline on the built-in simulated corpus
# make demo QUICK=1  the same on a smaller corpus
# make test          environment, ruff, pytest
PYTHON ?= python3
VENV := .venv
DEMO := demo
QUICK ?=
BIN := $(CURDIR)/$(VENV)/bin
MAIN := $(BIN)/python main.py --data_dir $(DEMO)/corpus --offline \
	--pretrained_model $(DEMO)/pretrain/scPretrain.out --save_model $(DEMO)/pretrain/scPretrain.out \
	--save_result $(DEMO)/results/result.out

.PHONY: demo test clean

$(VENV)/.run: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: $(VENV)/.run
	rm -rf $(DEMO)
	$(BIN)/python -m stages.simulate $(DEMO)/corpus $(if $(QUICK),--quick)
	$(MAIN) --is_pretrain --kmeans
	$(MAIN) --is_pretrain --kmeans --pretrain_output
	$(MAIN) --kmeans $(if $(QUICK),--ft_epoch 60)
	@echo "the corpus is in $(DEMO)/corpus, the checkpoint in $(DEMO)/pretrain, the results are in $(DEMO)/results"

test: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

clean:
	rm -rf $(DEMO)
