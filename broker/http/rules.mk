# assay-http: libmicrohttpd is for this program alone.
ASK  := $(call objects,$(wildcard broker/ask/*.c))
HTTP := $(call objects,$(filter-out broker/http/main.c,$(wildcard broker/http/*.c)))
$(B)/bin/assay: $(ASK) $(call objects,broker/dealer.c)
$(B)/bin/assay-http: $(call objects,broker/http/main.c broker/data_dir.c broker/dealer.c) $(HTTP) $(ASK) $(STORE) $(COMMON)
$(B)/bin/assay-http: LDLIBS += $(shell $(PKG_CONFIG) --libs libmicrohttpd)
$(B)/lib/assay.a: $(HTTP) $(ASK)

# The page's files as C strings.
PAGE_FILES := page_html page_css page_js
$(call objects,broker/http/assets.c): | $(PAGE_FILES:%=$(B)/gen/%.h)
$(B)/gen/page_%.h: broker/http/page/page.%
	@mkdir -p $(@D)
	@sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/^/"/' -e 's/$$/\\n"/' $< > $@

.PHONY: page-shots
page-shots: all ## pictures of the page, in OUT (default build/page); needs chromium
	@ASSAY_BIN=$(CURDIR)/$(B)/bin $(PYTHON) tests/e2e/page_shots.py $(if $(filter file,$(origin OUT)),build/page,$(OUT))
