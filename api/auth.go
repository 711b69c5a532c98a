package api

import (
	"errors"
	"log/slog"
	"math"
	"math/big"
	"net/http"
	"strconv"
	"time"

	"facilitator/internal/client"
	"facilitator/internal/payment"
)

// Clients says who calls; client.Directory is one. Without a key there is no
// client and no error; the error is a *client.Denial.
type Clients interface {
	Identify(c client.Call) (*client.Client, error)
}

// Limits holds clients to what they may; client.Limits is one. Errors are a
// *client.Denial.
type Limits interface {
	// Take lets one more request through.
	Take(c *client.Client) error
	// Afford says whether another payment may cost gas.
	Afford(c *client.Client) error
}

// authorized answers a call of a client that may make it.
type authorized func(w http.ResponseWriter, r *http.Request, c *client.Client) answer

// as lets clients through that have a scope and are within their limits. What they
// may pay is known after the body is read.
func (s *server) as(scope client.Scope, h authorized) handler {
	return func(w http.ResponseWriter, r *http.Request) answer {
		c, err := s.caller(r)
		if err == nil {
			err = c.May(scope)
		}
		if err == nil {
			err = s.Limits.Take(c)
		}
		if err != nil {
			return s.denied(err, c)
		}
		if c.ID != "" {
			r = r.WithContext(payment.WithClient(r.Context(), c.ID))
		}
		a := h(w, r, c)
		a.attrs = append(a.attrs, slog.String("client", c.Name))
		return a
	}
}

// caller is who calls, with a key or without.
func (s *server) caller(r *http.Request) (*client.Client, error) {
	from := s.address(r)
	if !s.calls.allow(from, s.Now()) {
		return nil, &client.Denial{Check: client.CheckRate, Text: "too many calls from this address", After: time.Second}
	}
	c, err := s.Clients.Identify(client.Call{
		Authorization: r.Header.Get("Authorization"), Method: r.Method, Path: r.URL.Path,
	})
	if err == nil && c == nil {
		c = s.Anonymous
		if len(c.Scopes) == 0 {
			err = &client.Denial{Check: client.CheckNoKey, Text: "a key is needed: Authorization: Bearer <key>"}
		}
	}
	denial := (*client.Denial)(nil)
	if errors.As(err, &denial) && (denial.Check == client.CheckNoKey || denial.Check == client.CheckKey) && !s.guesses.allow(from, s.Now()) {
		// Whoever has a good key is let through all the same: others may share its
		// address.
		err = &client.Denial{Check: client.CheckRate, Text: "too many calls from this address without a good key", After: time.Second}
	}
	return c, err
}

// deniedBody is what a caller is told that is not let through.
type deniedBody struct {
	Error string `json:"error"`
	// Reason names the check that failed.
	Reason client.Check `json:"reason"`
	// Retryable says whether the same call may be let through later.
	Retryable bool `json:"retryable"`
}

// denied turns a denial into an answer; c may be nil.
func (s *server) denied(err error, c *client.Client) answer {
	d := (*client.Denial)(nil)
	if !errors.As(err, &d) {
		return answer{status: http.StatusInternalServerError, body: errorBody{Error: "internal error"}, fault: err}
	}
	a := answer{status: http.StatusForbidden, header: map[string]string{}, attrs: []slog.Attr{slog.String("denied", string(d.Check))}}
	switch d.Check { //nolint:exhaustive // the others are of clients that are known
	case client.CheckNoKey, client.CheckKey, client.CheckExpired:
		a.status, a.header["WWW-Authenticate"] = http.StatusUnauthorized, "Bearer"
	case client.CheckRate, client.CheckGas:
		a.status, a.header["Retry-After"] = http.StatusTooManyRequests, seconds(d.After)
	}
	a.body = deniedBody{Error: d.Text, Reason: d.Check, Retryable: a.status == http.StatusTooManyRequests}
	if c != nil {
		a.attrs = append(a.attrs, slog.String("client", c.Name))
	}
	s.Meters.denials[string(d.Check)].Inc()
	return a
}

// seconds of a wait, as Retry-After has them: at least one.
func seconds(d time.Duration) string {
	return strconv.Itoa(int(math.Ceil(max(d, time.Second).Seconds())))
}

// whoami tells a client what it may.
func (s *server) whoami(_ http.ResponseWriter, r *http.Request) answer {
	c, err := s.caller(r)
	if err != nil {
		return s.denied(err, nil)
	}
	gas := new(big.Int)
	if c.GasPerDay != nil {
		gas = c.GasPerDay
	}
	return answer{status: http.StatusOK, body: map[string]any{
		"id": c.ID, "name": c.Name, "anonymous": c.Anonymous(), "scopes": c.Scopes,
		// Empty lists allow everything that is served.
		"networks": filled(c.Networks), "assets": filled(c.Assets), "payTo": filled(c.PayTo),
		"requestsPerSecond": c.Rate, "burst": c.Burst, "gasPerDayWei": gas.String(),
	}, attrs: []slog.Attr{slog.String("client", c.Name)}}
}

func filled[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
