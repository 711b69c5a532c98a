package relayer

import "github.com/prometheus/client_golang/prometheus"

// Metrics of all chains.
type Metrics struct {
	queued, head, spent, skew                                  *prometheus.GaugeVec
	balance, runway, inFlight, leased, parked                  *prometheus.GaugeVec
	sends, outcomes, reorgs, gas                               *prometheus.CounterVec
	bumps, cancels, foreign, filled, topUps, frozen, takenBack *prometheus.CounterVec
	batch                                                      *prometheus.HistogramVec
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
	batch := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "facilitator", Name: "transaction_payments", Help: "Payments that a signed transaction carries.",
		Buckets: []float64{1, 2, 5, 10, 15, 20, 25, 35, 50},
	}, []string{"network"})
	r.MustRegister(batch)
	return &Metrics{
		queued: gauge("payments_queued", "Payments claimed for which nothing is signed yet.", "network"),
		head:   gauge("chain_head_block", "Number of the latest block seen.", "network"),
		skew:   gauge("chain_clock_skew_seconds", "How far our clock was ahead of the newest block's when it was first seen.", "network"),
		spent:  gauge("gas_spent_today_gwei", "What gas has cost since midnight UTC, in gwei.", "network"),

		balance:  gauge("lane_balance_gwei", "Gas balance of a wallet in gwei.", "network", "lane"),
		runway:   gauge("lane_runway_settlements", "Settlements that a relayer wallet's balance still pays for at today's fees.", "network", "lane"),
		inFlight: gauge("lane_transactions_in_flight", "Transactions signed and not known to be mined.", "network", "lane"),
		leased:   gauge("lane_leased", "1 where this replica holds the lane's lease.", "network", "lane"),
		parked:   gauge("lane_parked", "1 where the lane has too little gas money for its next transaction.", "network", "lane"),

		sends:    counter("transaction_sends_total", "Raw transactions handed to nodes, by what they said.", "network", "outcome"),
		outcomes: counter("payment_outcomes_total", "Payments by the state they moved to and the reason.", "network", "state", "reason"),
		reorgs:   counter("reorganised_blocks_total", "Blocks that held our payments and are no longer canonical.", "network"),
		gas:      counter("gas_used_total", "Gas used by mined transactions.", "network"),

		bumps:     counter("transaction_bumps_total", "Transactions signed again with higher fees.", "network", "lane"),
		cancels:   counter("transaction_cancels_total", "Transactions that could do nothing any more, replaced by an empty one.", "network", "lane"),
		foreign:   counter("lane_foreign_transactions_total", "Wallet nonces consumed by somebody else.", "network", "lane"),
		filled:    counter("lane_filled_nonces_total", "Wallet nonces that somebody else had used and a reorganisation freed, filled by an empty transaction.", "network", "lane"),
		topUps:    counter("lane_top_ups_total", "Transactions that sent gas money to a lane.", "network", "lane"),
		frozen:    counter("transaction_bumps_frozen_total", "Times a fee was not raised because the chain includes nothing, whatever it pays.", "network", "lane"),
		takenBack: counter("payments_taken_back_total", "Payments never signed and given up.", "network"),
		batch:     batch,
	}
}
