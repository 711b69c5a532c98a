package client

import "time"

// Check is what a caller failed.
type Check string

// Checks, in their order.
const (
	CheckNoKey    Check = "no_key"
	CheckKey      Check = "unknown_key"
	CheckExpired  Check = "expired_key"
	CheckDisabled Check = "client_disabled"
	CheckScope    Check = "scope"
	CheckNetwork  Check = "network"
	CheckAsset    Check = "asset"
	CheckPayee    Check = "payee"
	CheckRate     Check = "rate"
	CheckGas      Check = "gas_per_day"
)

// Checks are all of them.
func Checks() []Check {
	return []Check{
		CheckNoKey, CheckKey, CheckExpired, CheckDisabled, CheckScope, CheckNetwork, CheckAsset, CheckPayee, CheckRate, CheckGas,
	}
}

// Denial says that a call is not made, and why. It judges no payment. The text is
// safe to show.
type Denial struct {
	Check Check
	Text  string
	// After is when it may be tried again; 0 where nothing is known of that.
	After time.Duration
}

func (d *Denial) Error() string { return d.Text }
