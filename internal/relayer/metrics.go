package relayer

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"facilitator/internal/chain/evm"
	"facilitator/internal/metrics"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

// Metrics of all chains.
type Metrics struct {
	queued, head, spent, limit, skew                           *prometheus.GaugeVec
	balance, runway, inFlight, leased, parked                  *prometheus.GaugeVec
	sends, outcomes, reorgs, gas                               *prometheus.CounterVec
	bumps, cancels, foreign, filled, topUps, frozen, takenBack *prometheus.CounterVec
	drops                                                      *prometheus.CounterVec
	signFailures                                               *prometheus.CounterVec
	batch, phases, gasEach, signing                            *prometheus.HistogramVec

	mu     sync.Mutex
	chains []*Chain
}

// Phases of a payment between its claim and its block.
const (
	phaseQueue     = "queue"
	phaseSign      = "sign"
	phaseBroadcast = "broadcast"
	phaseInclude   = "include"
)

// NewMetrics registers the relayer's metrics.
func NewMetrics(r *metrics.Registry) *Metrics {
	network, lane := metrics.Network(), metrics.Configured("lane", "address of a relayer wallet, or of the treasury")
	m := &Metrics{}
	gauge := func(name, unit, help string, labels ...metrics.Label) *prometheus.GaugeVec {
		return r.Gauge(metrics.About{Name: name, Unit: unit, Help: help, Labels: labels})
	}
	counter := func(name, unit, help string, labels ...metrics.Label) *prometheus.CounterVec {
		return r.Counter(metrics.About{Name: name, Unit: unit, Help: help, Labels: labels})
	}
	m.queued = gauge("payments_queued", "payments", "Payments claimed for which nothing is signed yet.", network)
	m.head = gauge("chain_head_block", "block number", "Number of the latest block seen.", network)
	m.skew = gauge("chain_clock_skew_seconds", "seconds", "How far our clock was ahead of the newest block's when it was first seen.", network)
	m.spent = gauge("gas_spent_today_gwei", "gwei", "What gas has cost since midnight UTC.", network)
	m.limit = gauge("gas_spend_limit_gwei", "gwei", "What gas may cost on a day, gas.max_spend_per_day; 0 is no limit.", network)

	m.balance = gauge("lane_balance_gwei", "gwei", "Gas balance of a wallet.", network, lane)
	m.runway = gauge("lane_runway_settlements", "settlements", "Settlements that a relayer wallet's balance still pays for at today's fees.", network, lane)
	m.inFlight = gauge("lane_transactions_in_flight", "transactions", "Transactions signed and not known to be mined.", network, lane)
	m.leased = gauge("lane_leased", "", "1 where this replica holds the lane's lease.", network, lane)
	m.parked = gauge("lane_parked", "", "1 where the lane takes no work: it has too little gas money for its next transaction, or its signer fails.", network, lane)

	m.sends = counter("transaction_sends_total", "transactions", "Raw transactions handed to nodes, by what they said.", network,
		metrics.One("outcome", evm.SendOutcomes()...))
	m.outcomes = counter("payment_outcomes_total", "payments", "Payments by the state they moved to and the reason, which is empty where they did not fail.", network,
		metrics.One("state", payment.StateIncluded, payment.StateFailed, payment.StateQueued), metrics.One("reason", append([]x402.Reason{""}, x402.Reasons()...)...))
	m.reorgs = counter("reorganised_blocks_total", "blocks", "Blocks that held our payments and are no longer canonical.", network)
	m.gas = counter("gas_used_total", "gas", "Gas used by mined transactions.", network)

	m.bumps = counter("transaction_bumps_total", "transactions", "Transactions signed again with higher fees.", network, lane)
	m.cancels = counter("transaction_cancels_total", "transactions", "Transactions that could do nothing any more, replaced by an empty one.", network, lane)
	m.drops = counter("transaction_drops_total", "transactions", "Transactions that were sent before and that all nodes had forgotten, taken by one again.", network, lane)
	m.foreign = counter("lane_foreign_transactions_total", "transactions", "Wallet nonces consumed by somebody else.", network, lane)
	m.filled = counter("lane_filled_nonces_total", "transactions",
		"Wallet nonces that somebody else had used and a reorganisation freed, filled by an empty transaction.", network, lane)
	m.topUps = counter("lane_top_ups_total", "transactions", "Transactions that sent gas money to a lane.", network, lane)
	m.frozen = counter("transaction_bumps_frozen_total", "times", "Times a fee was not raised because the chain includes nothing, whatever it pays.", network, lane)
	m.takenBack = counter("payments_taken_back_total", "payments", "Payments never signed and given up.", network)
	m.signFailures = counter("sign_failures_total", "signatures", "Signatures that a signer did not give: it failed, was late, or gave a wrong one.",
		network, signerKind(), metrics.One("failure", signFailed, signLate, signWrong))
	m.histograms(r, network)
	m.ages(r, network, lane)
	return m
}

// signerKind is where a key is.
func signerKind() metrics.Label { return metrics.One("kind", "local", "remote", "aws_kms", "gcp_kms") }

func (m *Metrics) histograms(r *metrics.Registry, network metrics.Label) {
	m.batch = r.Histogram(metrics.About{
		Name: "transaction_payments", Unit: "payments", Help: "Payments that a signed transaction carries.",
		Labels: []metrics.Label{network}, Buckets: []float64{1, 2, 5, 10, 15, 20, 25, 35, 50},
	})
	m.signing = r.Histogram(metrics.About{
		Name: "sign_seconds", Unit: "seconds", Help: "Time that a signer took for one signature, or to fail, by where the key is.",
		Labels: []metrics.Label{network, signerKind()}, Buckets: []float64{.0001, .001, .005, .01, .025, .05, .1, .25, .5, 1, 2, 5},
	})
	m.gasEach = r.Histogram(metrics.About{
		Name: "payment_gas", Unit: "gas", Help: "Gas that a mined transaction used for each payment it carried.",
		Labels: []metrics.Label{network}, Buckets: []float64{40_000, 50_000, 60_000, 70_000, 85_000, 100_000, 125_000, 150_000, 200_000, 300_000, 500_000},
	})
	m.phases = r.Histogram(metrics.About{
		Name: "lane_phase_seconds", Unit: "seconds",
		Help: "Time that settlements spend with the lanes, in each phase: queue (from a payment's claim until a lane takes it), sign (prepare, sign and commit), " +
			"broadcast (until a node has it), include (from then until its receipt is seen).",
		Labels:  []metrics.Label{network, metrics.One("phase", phaseQueue, phaseSign, phaseBroadcast, phaseInclude)},
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 60, 300},
	})
}

// ages are told when they are asked for: they grow while all loops stand still.
func (m *Metrics) ages(r *metrics.Registry, network, lane metrics.Label) {
	r.GaugeFunc(metrics.About{
		Name: "chain_head_age_seconds", Unit: "seconds", Help: "How long ago a new block was last seen. A chain that makes blocks only for transactions rests.",
		Labels: []metrics.Label{network},
	}, m.each(func(c *Chain, tell metrics.Told) {
		c.mu.Lock()
		moved := c.view.moved
		c.mu.Unlock()
		if !moved.IsZero() {
			tell(c.Now().Sub(moved).Seconds(), string(c.Config.Network))
		}
	}))
	r.GaugeFunc(metrics.About{
		Name: "network_ready", Help: "1 while this replica can settle on the network; /readyz tells why where it can't.",
		Labels: []metrics.Label{network},
	}, m.each(func(c *Chain, tell metrics.Told) {
		ready := 1.0
		if c.Ready() != nil {
			ready = 0
		}
		tell(ready, string(c.Config.Network))
	}))
	r.GaugeFunc(metrics.About{
		Name: "lane_oldest_transaction_seconds", Unit: "seconds",
		Help:   "How long the lowest open transaction of a lane has been open, its earlier attempts counted, as far as this process knows; 0 without one. Told by the replica that holds the lease.",
		Labels: []metrics.Label{network, lane},
	}, m.each(func(c *Chain, tell metrics.Told) {
		for _, l := range c.wallets() {
			if age, held := l.lowestAge(); held {
				tell(age.Seconds(), l.labels()...)
			}
		}
	}))
}

// each asks every chain.
func (m *Metrics) each(ask func(*Chain, metrics.Told)) func(metrics.Told) {
	return func(tell metrics.Told) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, c := range m.chains {
			ask(c, tell)
		}
	}
}

// watch has a chain tell of itself. Its counters begin at 0 rather than with the
// first event: what a rate is of must have been there before.
func (m *Metrics) watch(c *Chain) {
	network := string(c.Config.Network)
	for _, l := range c.wallets() {
		for _, counter := range []*prometheus.CounterVec{m.bumps, m.cancels, m.drops, m.foreign, m.filled, m.topUps, m.frozen} {
			counter.WithLabelValues(l.labels()...)
		}
	}
	for _, counter := range []*prometheus.CounterVec{m.reorgs, m.gas, m.takenBack} {
		counter.WithLabelValues(network)
	}
	for _, outcome := range evm.SendOutcomes() {
		m.sends.WithLabelValues(network, string(outcome))
	}
	m.outcomes.WithLabelValues(network, string(payment.StateIncluded), "")
	m.outcomes.WithLabelValues(network, string(payment.StateQueued), "")
	for _, reason := range x402.Reasons() {
		m.outcomes.WithLabelValues(network, string(payment.StateFailed), string(reason))
	}
	m.limit.WithLabelValues(network).Set(gwei(wei(c.Config.MaxSpendPerDay)))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.chains = append(m.chains, c)
}
