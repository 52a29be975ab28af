# install.mk - make install, uninstall and deb.
#
# PREFIX is /usr/local, or /usr in packages; DESTDIR a folder in front of all, for packages too. Units of systemd and the
# configuration go where the prefix has them; an assayd.conf that is there stays. share/assay has two small models to begin
# with, and what Prometheus and Grafana read.
SYSCONFDIR ?= $(if $(filter /usr,$(PREFIX)),/etc,$(PREFIX)/etc)
UNITDIR    ?= $(if $(filter /usr,$(PREFIX)),/lib,$(PREFIX)/lib)/systemd/system
SHARE = $(DESTDIR)$(PREFIX)/share
BIN   = $(DESTDIR)$(PREFIX)/bin
UNITS := broker/assayd.service broker/http/assay-http.service broker/http/assay-http.socket
DOCS  := README.md CHANGELOG.md LICENSE broker/OPERATION.md broker/http/README.md schema/PROTOCOL.md schema/ROWS.md \
         debian/deploy/README.md debian/deploy/Containerfile debian/deploy/score.sbatch debian/deploy/score-job.yaml schema/SCHEMA.md worker/README.md cuda/README.md
MODELS  := demo-reward demo-process
MONITOR := broker/http/alerts.yml broker/http/dashboard.json
OWN   = $(SHARE)/assay
CONF  = $(DESTDIR)$(SYSCONFDIR)/assay/assayd.conf
placed = sed -e 's|@BIN@|$(PREFIX)/bin|g' -e 's|@ETC@|$(SYSCONFDIR)|g' -e 's|@SHARE@|$(PREFIX)/share|g'

.PHONY: install uninstall deb deb-check
install: all man ## programs, man pages, completion, documents and systemd's units into PREFIX (default /usr/local)
	install -D -m 755 -t $(BIN) $(BINS) $(CUDA_BINS)
	install -D -m 644 -t $(SHARE)/man/man1 $(B)/man/*.1
	install -D -m 644 $(B)/completion/bash $(SHARE)/bash-completion/completions/assay
	install -D -m 644 $(B)/completion/zsh $(SHARE)/zsh/site-functions/_assay
	install -D -m 644 $(B)/completion/fish $(SHARE)/fish/vendor_completions.d/assay.fish
	@for doc in $(DOCS); do install -D -m 644 $$doc $(SHARE)/doc/assay/$$doc || exit 1; done
	install -D -m 644 -t $(OWN) $(MONITOR)
	@for m in $(MODELS); do install -D -m 644 -t $(OWN)/models/$$m tests/models/$$m/* || exit 1; done
	install -m 644 -t $(OWN)/models $(MODELS:%=tests/models/%.jsonl)
	@install -d $(DESTDIR)$(UNITDIR) $(dir $(CONF))
	@for unit in $(UNITS); do $(placed) $$unit | install -m 644 /dev/stdin $(DESTDIR)$(UNITDIR)/$${unit##*/} || exit 1; done
	@test -e $(CONF) || $(placed) broker/assayd.conf | install -m 644 /dev/stdin $(CONF)

uninstall: ## what install put there, but for an assayd.conf that was changed
	rm -f $(addprefix $(BIN)/,assay assayd assay-worker assay-worker-cuda assay-http)
	rm -f $(SHARE)/man/man1/assay.1 $(SHARE)/man/man1/assayd.1 $(SHARE)/man/man1/assay-*.1
	rm -f $(SHARE)/bash-completion/completions/assay $(SHARE)/zsh/site-functions/_assay \
	  $(SHARE)/fish/vendor_completions.d/assay.fish
	rm -f $(addprefix $(SHARE)/doc/assay/,$(DOCS)) $(addprefix $(DESTDIR)$(UNITDIR)/,$(notdir $(UNITS)))
	rm -f $(addprefix $(OWN)/,$(notdir $(MONITOR))) $(patsubst tests/%,$(OWN)/%,$(wildcard tests/models/demo-[rp]*.jsonl $(MODELS:%=tests/models/%/*)))
	@if $(placed) broker/assayd.conf | cmp -s - $(CONF); then rm -f $(CONF); fi
	@find $(SHARE)/doc/assay $(OWN) $(dir $(CONF)) -depth -type d -empty -delete 2>/dev/null || true

deb: ## Debian packages assay and assay-http, in build/deb-packages (needs debhelper)
	@command -v dh > /dev/null || { echo 'make deb: expected debhelper, found none: apt-get install debhelper' >&2; exit 69; }
	@rm -rf build/deb build/deb-packages
	@env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS debian/rules clean
	@env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS debian/rules binary
	@cd build/deb-packages && sha256sum *.deb

deb-check: ## are the packages reproducible and hardened, and do they work in a new Debian? (broker/OPERATION.md)
	@env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS debian/check
