# make            build ./drawbridge
# sudo make demo  tell the story with two real guests, in namespaces of its own
# sudo make test  everything that CI runs
# make bench      measure beside the peer, write docs/bench.md
# sudo make install | uninstall, make deb

PREFIX  ?= /usr/local
DESTDIR ?=
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GO      ?= $(shell command -v go || echo /usr/local/go/bin/go)
GOFLAGS_BUILD = -trimpath -ldflags '-s -w -X main.release=$(VERSION)'

bindir  = $(PREFIX)/bin
libexec = $(PREFIX)/lib/drawbridge
man     = $(PREFIX)/share/man/man1
unitdir = $(if $(filter /usr,$(PREFIX)),/lib/systemd/system,/etc/systemd/system)
sysusers = $(if $(filter /usr,$(PREFIX)),/usr/lib/sysusers.d,/etc/sysusers.d)

.PHONY: all build demo test bench install uninstall deb clean fuzz

all: build

build:
	CGO_ENABLED=0 $(GO) build $(GOFLAGS_BUILD) -o drawbridge ./cmd/drawbridge

demo:
	@scripts/install-packages build demo
	@CGO_ENABLED=0 $(GO) build $(GOFLAGS_BUILD) -o drawbridge ./cmd/drawbridge
	@$(GO) build -o .cache/demo ./test/demo
	@.cache/demo --drawbridge ./drawbridge

test:
	@scripts/install-packages build test
	@scripts/test

bench:
	@scripts/install-packages build test bench
	$(GO) run ./test/bench

install: build
	install -D -m 755 drawbridge $(DESTDIR)$(bindir)/drawbridge
	install -d $(DESTDIR)$(libexec)
	ln -sf $(bindir)/drawbridge $(DESTDIR)$(libexec)/drawbridge-bridge-helper
	install -d $(DESTDIR)$(man) $(DESTDIR)$(unitdir)
	./drawbridge man $(DESTDIR)$(man)
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/vendor-completions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	./drawbridge completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/drawbridge
	./drawbridge completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/vendor-completions/_drawbridge
	./drawbridge completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/drawbridge.fish
	sed 's|@bindir@|$(bindir)|g' packaging/drawbridge.service > $(DESTDIR)$(unitdir)/drawbridge.service
	sed 's|@bindir@|$(bindir)|g' packaging/drawbridge-guests.service > $(DESTDIR)$(unitdir)/drawbridge-guests.service
	install -D -m 644 packaging/sysusers.conf $(DESTDIR)$(sysusers)/drawbridge.conf
	@if [ -z "$(DESTDIR)" ]; then systemd-sysusers $(sysusers)/drawbridge.conf; \
	  if [ -d /run/systemd/system ]; then systemctl daemon-reload; echo "installed; now: systemctl enable --now drawbridge"; fi; fi

# Takes back everything that install and the daemon did, networks included; the
# state directory stays unless PURGE=1.
uninstall:
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then \
	  if systemctl is-active -q drawbridge; then $(bindir)/drawbridge down --cut-guests || exit 1; fi; \
	  systemctl disable --now drawbridge drawbridge-guests 2>/dev/null || true; fi
	rm -f $(DESTDIR)$(bindir)/drawbridge $(DESTDIR)$(unitdir)/drawbridge.service $(DESTDIR)$(unitdir)/drawbridge-guests.service
	rm -rf $(DESTDIR)$(libexec)
	rm -f $(DESTDIR)$(man)/drawbridge.1 $(DESTDIR)$(man)/drawbridge-*.1 $(DESTDIR)$(sysusers)/drawbridge.conf
	rm -f $(DESTDIR)$(PREFIX)/share/bash-completion/completions/drawbridge $(DESTDIR)$(PREFIX)/share/zsh/vendor-completions/_drawbridge $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/drawbridge.fish
	@if [ -z "$(DESTDIR)" ]; then \
	  if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi; \
	  for u in drawbridge-guests; do if id -u $$u >/dev/null 2>&1; then userdel $$u; fi; done; \
	  if getent group drawbridge >/dev/null; then groupdel drawbridge; fi; \
	  rm -rf /run/drawbridge /run/drawbridge-guests; \
	  if [ -n "$(PURGE)" ]; then rm -rf /var/lib/drawbridge /var/lib/drawbridge-guests; fi; fi

deb: build
	scripts/deb $(VERSION)

# Longer runs of every fuzzer than make test does.
fuzz:
	scripts/fuzz $(or $(FUZZTIME),60s)

clean:
	rm -rf drawbridge dist .cache
