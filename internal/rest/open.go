package rest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"drawbridge/internal/api"
	"drawbridge/internal/spec"
)

// sendTimeout bounds how long a client may leave its descriptors unread; they
// are kept open here until then.
const sendTimeout = 5 * time.Second

// registerOpen adds the one call that is more than HTTP: after 101 the
// connection carries a line of JSON with descriptors beside it.
func (s *Server) registerOpen() {
	path := "/" + api.Version + "/ports/open"
	s.mux.HandleFunc("POST "+path, s.openPort)
	op := s.operation("open-port", http.MethodPost, "/ports/open",
		"Make a port that lives as long as its descriptors")
	op.Description = "Needs `Connection: Upgrade` and `Upgrade: " + api.FDProtocol + "`. After 101 one line of JSON (Opened) " +
		"comes, with the descriptors as SCM_RIGHTS beside it: those of the tap, then those of vhost; no more than 253 a message, " +
		"the others with one newline each. Then the connection is closed."
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		"application/json": {Schema: s.schema(api.PortRequest{})},
	}}
	op.Responses["101"] = &huma.Response{
		Description: "The port and its descriptors follow",
		Content:     map[string]*huma.MediaType{"application/json": {Schema: s.schema(api.Opened{})}},
	}
	s.huma.OpenAPI().AddOperation(&op)
}

func (s *Server) openPort(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), api.FDProtocol) {
		s.refuse(w, r, newProblem(http.StatusBadRequest, api.CodeBadRequest,
			"descriptors come over a connection that is upgraded: send Connection: Upgrade and Upgrade: "+api.FDProtocol))
		return
	}
	if _, local := r.Context().Value(peerKey{}).(Peer); !local {
		s.refuse(w, r, newProblem(http.StatusBadRequest, api.CodeBadRequest, "descriptors are handed over on the unix socket only"))
		return
	}
	in, err := readPortRequest(r)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	made := "qemu"
	if in.Made == "bridge-helper" {
		made = in.Made
	}
	req, err := s.portRequest(r.Context(), in, made)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	port, taps, vhosts, err := s.Engine.OpenPort(r.Context(), req)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	files := slices.Concat(taps, vhosts)
	// The kernel removes the tap with its last descriptor: no copy may stay here,
	// whether or not the client got its own.
	defer closeAll(files)
	line, err := json.Marshal(api.Opened{Port: portOf(port), Taps: len(taps), Vhosts: len(vhosts)})
	if err == nil {
		err = hand(w, line, files)
	}
	if err != nil {
		s.Log.Warn("a port's descriptors could not be handed over; it is gone", "tap", port.Tap, "guest", port.Guest, "err", err)
		return
	}
	s.Log.Info("port opened", "tap", port.Tap, "guest", port.Guest, "network", port.Network, "queues", len(taps),
		"uid", callerOf(r.Context()).peer.UID, "pid", callerOf(r.Context()).peer.PID)
}

func readPortRequest(r *http.Request) (api.PortRequest, error) {
	var in api.PortRequest
	err := readOne(r, &in)
	return in, err
}

// readOne reads the one value that a body must be.
func readOne(r *http.Request, in any) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(in); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return err
		}
		return &spec.InvalidError{Field: "body", Reason: err.Error()}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return &spec.InvalidError{Field: "body", Reason: "there is more than one value"}
	}
	return nil
}

// hand takes the connection over and sends what belongs to the port.
func hand(w http.ResponseWriter, line []byte, files []*os.File) error {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fmt.Errorf("take the connection over: %w", err)
	}
	defer conn.Close()
	uc, err := unixConn(conn)
	if err != nil {
		return err
	}
	if err := uc.SetDeadline(time.Now().Add(sendTimeout)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + api.FDProtocol + "\r\n\r\n"
	if _, err := io.WriteString(uc, switching); err != nil {
		return fmt.Errorf("switch protocols: %w", err)
	}
	return api.SendDescriptors(uc, line, files)
}

func unixConn(c net.Conn) (*net.UnixConn, error) {
	switch c := c.(type) {
	case *countedConn:
		return c.UnixConn, nil
	case *net.UnixConn:
		return c, nil
	}
	return nil, errors.New("pass descriptors: not a unix socket")
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
