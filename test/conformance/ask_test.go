package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"

	"github.com/ethereum/go-ethereum/common"
)

// facilitator is a running one, ours or the official one.
type facilitator struct {
	url     string
	wallets []common.Address // that send its transactions
	// oneAtATime holds settlements apart: the official one asks the node for its
	// wallet nonce, and two at once would get the same.
	oneAtATime *sync.Mutex
}

// The calls that a row makes.
const (
	callVerify = "verify"
	callSettle = "settle"
	// callSimulated is settle again, of the official one with simulateInSettle.
	callSimulated = "settle+"
)

// accepted is the answer isValid: true or success: true.
const accepted = "accepted"

// rawText is an official reason that is no code but the text of an error.
const rawText = "error text"

// answer is what a facilitator said, in one word: accepted, a reason, or a
// status that is not 200, with its reason if it has one.
func (f *facilitator) answer(ctx context.Context, call string, body any) (word, text string, err error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return "", "", err
	}
	path := "/verify"
	if call != callVerify {
		path = "/settle"
		if f.oneAtATime != nil {
			f.oneAtATime.Lock()
			defer f.oneAtATime.Unlock()
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url+path, strings.NewReader(string(encoded)))
	if err != nil {
		return "", "", err
	}
	req.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", "", err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		return "", "", err
	}
	var reply struct {
		IsValid, Success           bool
		InvalidReason, ErrorReason string
	}
	if err := json.Unmarshal(raw, &reply); err != nil {
		return "", string(raw), fmt.Errorf("%s answered %d, not a JSON object: %q", path, response.StatusCode, raw)
	}
	word = reply.InvalidReason + reply.ErrorReason
	switch isCode := regexp.MustCompile(`^[a-z0-9_]*$`).MatchString(word); {
	case word != "" && (reply.IsValid || reply.Success):
		return "", string(raw), fmt.Errorf("%s accepted with a reason: %q", path, raw)
	case reply.IsValid || reply.Success:
		word = accepted
	case word == "" && response.StatusCode == http.StatusOK:
		return "", string(raw), fmt.Errorf("%s refused without a reason: %q", path, raw)
	case !isCode:
		word = rawText
	}
	if response.StatusCode != http.StatusOK {
		word = strings.TrimSpace(fmt.Sprintf("%d %s", response.StatusCode, word))
	}
	return word, string(raw), nil
}
