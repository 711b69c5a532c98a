// Package apitest holds requests and answers against api/openapi.yaml, for the
// tests of api and for those that run the whole service.
package apitest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"facilitator/api"
)

const jsonType = "application/json"

// Exchange is a request and its answer.
type Exchange struct {
	Method, Path string // with http.path_prefix and the query
	Header       http.Header
	Body         string

	Status int
	Answer http.Header
	Text   string
}

// Description reads api/openapi.yaml.
func Description() (*openapi3.T, error) {
	doc, err := openapi3.NewLoader().LoadFromData([]byte(api.OpenAPI))
	if err != nil {
		return nil, fmt.Errorf("openapi.yaml: %w", err)
	}
	return doc, nil
}

// exact is the description, where answers may have no member beside those that it
// names. Clients are told to expect more, and tests are not.
func exact() (*openapi3.T, error) {
	doc, err := Description()
	if err != nil {
		return nil, err
	}
	for _, item := range doc.Paths.Map() {
		for _, operation := range item.Operations() {
			for _, answer := range operation.Responses.Map() {
				for _, media := range answer.Value.Content {
					closeObjects(media.Schema)
				}
			}
		}
	}
	return doc, nil
}

func closeObjects(ref *openapi3.SchemaRef) {
	if ref == nil || ref.Value == nil {
		return
	}
	s := ref.Value
	if no := false; len(s.Properties) > 0 && s.AdditionalProperties.Has == nil && s.AdditionalProperties.Schema == nil {
		s.AdditionalProperties.Has = &no
	}
	closeObjects(s.Items)
	for _, inner := range slices.Concat(s.AnyOf, s.OneOf, s.AllOf) {
		closeObjects(inner)
	}
	for _, inner := range s.Properties {
		closeObjects(inner)
	}
}

// Checker holds exchanges against the description. It may be used by many at once.
type Checker struct {
	read func() (*description, error)
}

// New returns a checker that reads the description once.
func New() *Checker { return &Checker{read: sync.OnceValues(read)} }

// description has the schemas of bodies compiled, which openapi3filter would do for
// every exchange: it is most of what a check costs.
type description struct {
	*openapi3.T
	bodies map[*openapi3.Schema]*jsonschema.Schema
}

func read() (*description, error) {
	doc, err := exact()
	if err != nil {
		return nil, err
	}
	// A schema's references to the components are resolved within this document.
	var bodies []*openapi3.SchemaRef
	for _, item := range doc.Paths.Map() {
		for _, operation := range item.Operations() {
			if operation.RequestBody != nil {
				bodies = append(bodies, operation.RequestBody.Value.Content[jsonType].Schema)
			}
			for _, answer := range operation.Responses.Map() {
				if media := answer.Value.Content[jsonType]; media != nil {
					bodies = append(bodies, media.Schema)
				}
			}
		}
	}
	text, err := json.Marshal(map[string]any{"components": doc.Components, "bodies": bodies})
	if err != nil {
		return nil, fmt.Errorf("openapi.yaml: %w", err)
	}
	resource, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("openapi.yaml: %w", err)
	}
	const name = "openapi.json"
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource(name, resource); err != nil {
		return nil, fmt.Errorf("openapi.yaml: %w", err)
	}
	d := &description{doc, map[*openapi3.Schema]*jsonschema.Schema{}}
	for i, body := range bodies {
		if d.bodies[body.Value], err = compiler.Compile(fmt.Sprintf("%s#/bodies/%d", name, i)); err != nil {
			return nil, fmt.Errorf("openapi.yaml: %w", err)
		}
	}
	return d, nil
}

// body says what of a JSON body is not as its schema has it.
func (d *description) body(media *openapi3.MediaType, text string) error {
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		return fmt.Errorf("body: %w", err)
	}
	if err := d.bodies[media.Schema.Value].Validate(value); err != nil {
		return fmt.Errorf("body: %w", err)
	}
	return nil
}

// Check says what of an exchange is not as described. What was judged good must
// have been asked in the form that is described; what was refused need not.
func (c *Checker) Check(ctx context.Context, x Exchange) error {
	doc, err := c.read()
	if err != nil {
		return err
	}
	at, err := url.Parse(x.Path)
	if err != nil {
		return fmt.Errorf("path: %w", err)
	}
	ctx = context.WithoutCancel(ctx) // it is over when its answer is checked
	r, err := http.NewRequestWithContext(ctx, x.Method, x.Path, strings.NewReader(x.Body))
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	r.Header = x.Header.Clone()
	if r.Header == nil {
		r.Header = http.Header{}
	}
	r.Header.Set("Content-Type", "application/json") // which is not looked at
	r.URL = at
	route, params := find(doc.T, x.Method, at.Path)
	if route == nil || strings.Contains(x.Text, "no such path") { // the prefix is missing
		if x.Status != http.StatusNotFound && x.Status != http.StatusMethodNotAllowed {
			return fmt.Errorf("%s %s answers %d and is not described", x.Method, x.Path, x.Status)
		}
		return nil
	}
	asked, answered := (*openapi3.MediaType)(nil), (*openapi3.MediaType)(nil) // in JSON
	if described := route.Operation.RequestBody; described != nil {
		asked = described.Value.Content[jsonType]
	}
	if described := route.Operation.Responses.Status(x.Status); described != nil && strings.HasPrefix(x.Answer.Get("Content-Type"), jsonType) {
		answered = described.Value.Content[jsonType]
	}
	options := &openapi3filter.Options{
		ExcludeRequestBody: asked != nil, ExcludeResponseBody: answered != nil, IncludeResponseStatus: true,
		SkipSettingDefaults: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc,
	}
	request := &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route, Options: options}
	if x.good() {
		err := openapi3filter.ValidateRequest(ctx, request)
		if asked != nil {
			err = errors.Join(err, doc.body(asked, x.Body))
		}
		if err != nil {
			return fmt.Errorf("%s %s was accepted, but by the description the request is wrong: %w\n%s", x.Method, x.Path, err, x.Body)
		}
	}
	response := &openapi3filter.ResponseValidationInput{RequestValidationInput: request, Status: x.Status, Header: x.Answer, Options: options}
	response.SetBodyBytes([]byte(x.Text))
	err = errors.Join(openapi3filter.ValidateResponse(ctx, response), headers(route.Operation, x.Status, x.Answer))
	if answered != nil {
		err = errors.Join(err, doc.body(answered, x.Text))
	}
	if err != nil {
		return fmt.Errorf("%s %s: the answer is not as described: %w\n%d %s", x.Method, x.Path, err, x.Status, x.Text)
	}
	return nil
}

// find is the operation of a request; nil where there is none.
func find(doc *openapi3.T, method, path string) (*routers.Route, map[string]string) {
	params := map[string]string{}
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	for doc.Paths.Value(path) == nil && path != "" { // http.path_prefix stands before it
		if id, ok := strings.CutPrefix(path, "/settlements/"); ok {
			path, params["id"] = "/settlements/{id}", id
			break
		}
		_, path, _ = strings.Cut(path[1:], "/")
		if path != "" {
			path = "/" + path
		}
	}
	item := doc.Paths.Value(path)
	if item == nil || item.GetOperation(method) == nil {
		return nil, nil
	}
	return &routers.Route{Spec: doc, Path: path, PathItem: item, Method: method, Operation: item.GetOperation(method)}, params
}

// headers says which of an answer are not described. HTTP's own need not be.
func headers(operation *openapi3.Operation, status int, sent http.Header) error {
	answer := operation.Responses.Status(status)
	if answer == nil {
		return nil // that it is missing was said
	}
	var faults []error
	for name := range sent {
		switch name {
		case "Connection", "Content-Length", "Content-Type", "Date", "Transfer-Encoding":
			continue
		}
		described := false
		for known := range answer.Value.Headers {
			described = described || http.CanonicalHeaderKey(known) == name
		}
		if !described {
			faults = append(faults, fmt.Errorf("header %s is not described", name))
		}
	}
	return errors.Join(faults...)
}

// good says whether the answer is that of a request which nothing was wrong with.
func (x Exchange) good() bool {
	var verdict struct{ IsValid, Success *bool }
	if x.Status != http.StatusOK || json.Unmarshal([]byte(x.Text), &verdict) != nil {
		return false
	}
	return (verdict.IsValid == nil || *verdict.IsValid) && (verdict.Success == nil || *verdict.Success)
}
