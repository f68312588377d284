package main

import (
	"cmp"
	"fmt"
	"time"

	"drawbridge/internal/linux"
	"drawbridge/internal/login"
	"drawbridge/internal/rest"
	"drawbridge/internal/store"
)

// readWeb checks the flags that say how browsers come in.
func (s *settings) readWeb(origins []string) error {
	for _, text := range origins {
		u, err := rest.ParseOrigin(text)
		if err != nil {
			return fmt.Errorf("--web-origin: %w", err)
		}
		s.web.Origins = append(s.web.Origins, u)
	}
	if s.web.Listen == "" {
		return nil
	}
	if err := rest.CheckListen(s.web.Listen, s.web.Anywhere); err != nil {
		return fmt.Errorf("--%w", err)
	}
	return nil
}

// serve makes the server of the API. The page is where the flag says, or else
// where it was asked to be before the daemon ended. A port that somebody has
// keeps nobody from managing networks.
func (d *running) newServer() (*rest.Server, error) {
	var err error
	if d.keyStore, err = store.OpenKeys(d.stateDir); err != nil {
		return nil, err
	}
	if why := d.keyStore.Damaged(); why != nil {
		d.log.Warn("all logins and tokens of the web page are gone", "why", why)
	}
	keys, err := login.Open(d.keyStore, time.Now)
	if err != nil {
		return nil, err
	}
	return rest.New(rest.Config{
		Engine: d.engine, Log: d.log, Version: version(), Modes: modes(), ServicesPID: d.servicesPID, Doctor: d.doctor(), LookOut: true, Keys: keys, Web: d.web, Sources: d.sources(), OpenCapture: linux.OpenCapture,
	}), nil
}

// openWeb lets browsers in, where that is wanted.
func (d *running) openWeb(server *rest.Server) {
	listen := cmp.Or(d.web.Listen, server.Keys.Listen())
	if listen == "" {
		return
	}
	at, err := server.OpenWeb(listen)
	if err != nil {
		d.log.Error("the page is not served; drawbridge web tries again", "listen", listen, "err", err)
		return
	}
	d.log.Info("the page is served", "listen", at)
	if d.web.Anywhere {
		d.log.Warn("the page has no encryption of its own: whoever sees its traffic can do what its users can", "listen", at)
	}
}
