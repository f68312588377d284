# make            build ./drawbridge
# sudo make demo  tell the story with two real guests, in namespaces of its own
# sudo make test  all tests but those of whole hosts
# sudo make test-hosts  whole hosts under systemd, in containers; CI runs both
# make bench      measure beside the peer, write docs/bench.md; ONLY=forwards measures that section alone
# sudo make install | uninstall, make deb

PREFIX  ?= /usr/local
DESTDIR ?=
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# The program that is built and installed.
BIN     ?= drawbridge
GO      ?= $(shell command -v go || echo /usr/local/go/bin/go)
GOFLAGS_BUILD = -trimpath -ldflags '-s -w -X main.release=$(VERSION)'

bindir  = $(PREFIX)/bin
libexec = $(PREFIX)/lib/drawbridge
man     = $(PREFIX)/share/man/man8
bash    = $(PREFIX)/share/bash-completion/completions
zsh     = $(PREFIX)/share/zsh/$(if $(filter /usr,$(PREFIX)),vendor-completions,site-functions)
fish    = $(PREFIX)/share/fish/vendor_completions.d
unitdir = $(if $(filter /usr,$(PREFIX)),/usr/lib/systemd/system,/etc/systemd/system)
# Where firewalld looks for what comes with programs, whatever their prefix.
firewalld = /usr/lib/firewalld
sysusers = $(if $(filter /usr,$(PREFIX)),/usr/lib/sysusers.d,/etc/sysusers.d)

.PHONY: all build demo test test-hosts bench install uninstall deb clean fuzz

all: build

build:
	CGO_ENABLED=0 $(GO) build $(GOFLAGS_BUILD) -o $(BIN) ./cmd/drawbridge

demo:
	@scripts/install-packages build demo
	@CGO_ENABLED=0 $(GO) build $(GOFLAGS_BUILD) -o drawbridge ./cmd/drawbridge
	@$(GO) build -o .cache/demo ./test/demo
	@.cache/demo --drawbridge ./drawbridge

test:
	@scripts/install-packages build test
	@scripts/test

# Whole hosts under systemd, in containers: install, upgrade, reboot, remove.
test-hosts:
	@scripts/install-packages build test hosts
	@DRAWBRIDGE_HOSTS=1 $(GO) test -count=1 -p 1 -timeout 35m -v ./test/hosts/ ./test/neighbours/

bench:
	@scripts/install-packages build test bench hosts
	@CGO_ENABLED=0 $(GO) build $(GOFLAGS_BUILD) -o drawbridge ./cmd/drawbridge
	@npm --prefix test/page ci --silent --no-audit --no-fund --ignore-scripts
	$(GO) run ./test/bench $(if $(ONLY),--only $(ONLY) --out docs/bench.md)

install: build
	@umask 022; set -e; d='$(DESTDIR)' b=$$(realpath '$(BIN)'); \
	install -D -m 755 "$$b" "$$d$(bindir)/drawbridge"; \
	install -d "$$d$(libexec)" "$$d$(man)" "$$d$(unitdir)" "$$d$(bash)" "$$d$(zsh)" "$$d$(fish)"; \
	ln -sfr "$$d$(bindir)/drawbridge" "$$d$(libexec)/drawbridge-bridge-helper"; \
	"$$b" man "$$d$(man)"; \
	"$$b" completion bash > "$$d$(bash)/drawbridge"; \
	"$$b" completion zsh > "$$d$(zsh)/_drawbridge"; \
	"$$b" completion fish > "$$d$(fish)/drawbridge.fish"; \
	for unit in packaging/*.service; do \
	  sed 's|@bindir@|$(bindir)|g' "$$unit" > "$$d$(unitdir)/$$(basename "$$unit")"; done; \
	sed 's|@bindir@|$(bindir)|g' packaging/take-back > "$$d$(libexec)/take-back"; \
	chmod 755 "$$d$(libexec)/take-back"; \
	install -D -m 644 packaging/sysusers.conf "$$d$(sysusers)/drawbridge.conf"; \
	install -m 755 packaging/firewalld/read-zone "$$d$(libexec)/read-zone"; \
	install -D -m 644 packaging/firewalld/zone.xml "$$d$(firewalld)/zones/drawbridge.xml"; \
	install -D -m 644 packaging/firewalld/policy-out.xml "$$d$(firewalld)/policies/drawbridge-out.xml"
	@if [ -z "$(DESTDIR)" ]; then systemd-sysusers $(sysusers)/drawbridge.conf; \
	  "$(libexec)/read-zone"; \
	  if [ -d /run/systemd/system ]; then systemctl daemon-reload; \
	    systemctl try-restart drawbridge-guests drawbridge; fi; \
	  echo "installed; now: systemctl enable --now drawbridge"; fi

# Takes back everything that install and the daemon did, networks included. It is
# refused with the guests' names while guests are plugged in, unless CUT_GUESTS=1;
# the state directories stay unless PURGE=1.
uninstall:
	@if [ -z "$(DESTDIR)" ] && [ -x "$(libexec)/take-back" ]; then "$(libexec)/take-back" $(if $(CUT_GUESTS),--cut-guests); fi
	@set -e; d='$(DESTDIR)'; \
	rm -f "$$d$(bindir)/drawbridge" "$$d$(unitdir)/drawbridge.service" "$$d$(unitdir)"/drawbridge-*.service \
	  "$$d$(man)/drawbridge.8" "$$d$(man)"/drawbridge-*.8 "$$d$(sysusers)/drawbridge.conf" \
	  "$$d$(bash)/drawbridge" "$$d$(zsh)/_drawbridge" "$$d$(fish)/drawbridge.fish"; \
	rm -f "$$d$(firewalld)/zones/drawbridge.xml" "$$d$(firewalld)/policies/drawbridge-out.xml"; \
	for dir in zones policies ""; do rmdir "$$d$(firewalld)/$$dir" 2>/dev/null || true; done; \
	rm -rf "$$d$(libexec)"
	@set -e; if [ -z "$(DESTDIR)" ]; then \
	  if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi; \
	  sh packaging/deb/postrm remove; \
	  if getent group drawbridge >/dev/null; then groupdel drawbridge; fi; \
	  if [ -n "$(PURGE)" ]; then sh packaging/deb/postrm purge; fi; fi

deb:
	@scripts/deb $(VERSION)

# Longer runs of every fuzzer than make test does.
fuzz:
	scripts/fuzz $(or $(FUZZTIME),60s)

clean:
	rm -rf drawbridge dist .cache
