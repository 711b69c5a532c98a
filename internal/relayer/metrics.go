package relayer

import "github.com/prometheus/client_golang/prometheus"

// Metrics of all chains.
type Metrics struct {
	queued, head, balance, inFlight *prometheus.GaugeVec
	sends, outcomes, reorgs, gas    *prometheus.CounterVec
}

// NewMetrics registers the relayer's metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "facilitator", Name: name, Help: help}, labels)
		r.MustRegister(g)
		return g
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "facilitator", Name: name, Help: help}, labels)
		r.MustRegister(c)
		return c
	}
	return &Metrics{
		queued:   gauge("payments_queued", "Payments claimed for which nothing is signed yet.", "network"),
		head:     gauge("chain_head_block", "Number of the latest block seen.", "network"),
		balance:  gauge("lane_balance_gwei", "Gas balance of a relayer wallet in gwei.", "network", "lane"),
		inFlight: gauge("lane_transactions_in_flight", "Transactions signed and not known to be mined.", "network", "lane"),
		sends:    counter("transaction_sends_total", "Raw transactions handed to a node, by what it said.", "network", "outcome"),
		outcomes: counter("payment_outcomes_total", "Payments by the state they moved to and the reason.", "network", "state", "reason"),
		reorgs:   counter("reorganised_blocks_total", "Blocks that held our payments and are no longer canonical.", "network"),
		gas:      counter("gas_used_total", "Gas used by mined transactions.", "network"),
	}
}
