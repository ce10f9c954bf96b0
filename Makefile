# make demo          environment, install, the whole pipeline on the built-in simulated corpus
# make demo QUICK=1  the same on a smaller corpus, without UMAP pictures (RECIPE=paper: with the published recipe)
# make test          environment, ruff, mypy, pytest with coverage (who may import whom is one of the tests)
PYTHON ?= python3
VENV := .venv
DEMO := demo
QUICK ?=
RECIPE ?=
BIN := $(CURDIR)/$(VENV)/bin
FLAGS := --data_dir $(DEMO)/corpus --offline --figs $(DEMO)/figs \
	--pretrained_model $(DEMO)/pretrain/scPretrain.out --save_model $(DEMO)/pretrain/scPretrain.out \
	--save_result $(DEMO)/results/result.out \
	$(if $(QUICK),--format png --dpi 100 $(if $(RECIPE:scpretrain2=),--pt_epoch 20 --ft_epoch 60))

EXPLORED := --query $(DEMO)/corpus/Sim_human_blood.h5 --data_dir $(DEMO)/corpus --offline $(if $(QUICK),--no-umap)

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
	$(BIN)/python simulate.py $(DEMO)/corpus $(if $(QUICK),--quick)
	$(BIN)/python main.py $(FLAGS) --is_pretrain --kmeans $(if $(RECIPE),--recipe $(RECIPE))
	$(BIN)/python main.py $(FLAGS) --is_pretrain --kmeans --pretrain_output
	$(BIN)/python main.py $(FLAGS) --kmeans
	$(BIN)/python rf_svm_lr.py $(FLAGS)
	$(BIN)/python clus.py $(FLAGS) $(if $(QUICK),--umap none)
	$(BIN)/python fig.py $(FLAGS)
	mkdir -p $(DEMO)/annotate
	$(BIN)/python annotate.py $(EXPLORED) --explore --out $(DEMO)/annotate/explored.h5ad
	$(BIN)/python simulate.py $(DEMO)/corpus --name $(DEMO)/annotate/explored.csv
	$(BIN)/python annotate.py $(EXPLORED) --labels $(DEMO)/annotate/explored.labels.csv --out $(DEMO)/annotate/annotated.h5ad
	@echo "corpus: $(DEMO)/corpus   checkpoint: $(DEMO)/pretrain   tables: $(DEMO)/results"
	@echo "figures to look at first:"
	@echo "pages: $(DEMO)/annotate/explored.html (where groups are named) and $(DEMO)/annotate/annotated.html"
	@ls $(DEMO)/figs/summary.png $(DEMO)/figs/nn_macro_f1.png $(if $(QUICK),,$(DEMO)/figs/*_both.png)

test: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --cov

clean:
	rm -rf $(DEMO)
