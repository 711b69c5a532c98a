// Package devnet runs what the facilitator needs around it on one machine: a
// Base-like chain with the real USDC contract, and a Postgres. The tests and
// the dev command use it; the service never does.
//
// Whatever it starts
//   - listens on 127.0.0.1 only, on a port of its own,
//   - keeps its files in one scratch directory that Close removes, and
//   - dies with the process that started it, even if that one is killed. A
//     directory left behind by a killed process is removed by the next start.
//
// A context given to a Start function bounds the start, not the life of what
// was started: that ends with Close.
package devnet
