# Included by the Makefile: the trainers' own classes, and the notebook. They need PyTorch, which nothing else does.

# PYTHON=.. on the command line is one that has all of it.
CLIENTS_PYTHON := $(if $(filter command%,$(origin PYTHON)),$(PYTHON),build/venv-clients/bin/python)
clients-check: all ## trainers' own classes against a broker and assay-http (PyTorch and the trainers, 5 GB; or PYTHON=.. that has them)
ifeq ($(filter command%,$(origin PYTHON)),)
	python3 -m venv build/venv-clients
	build/venv-clients/bin/pip install -q -r tests/clients/checks/requirements.txt
	build/venv-clients/bin/pip install -q --no-deps -r tests/clients/checks/requirements-alone.txt
endif
	ASSAY_BIN=$(CURDIR)/$(B)/bin ASSAY_PATIENCE=$(PATIENCE) $(CLIENTS_PYTHON) -m pytest -q -p no:cacheprovider --confcutdir=tests tests/clients/checks
	$(CLIENTS_PYTHON) -m mypy --strict --no-warn-return-any --ignore-missing-imports --cache-dir build/mypy tests/clients/assay
