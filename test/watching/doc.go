// Package watching holds what is deployed to watch the service against the
// service: rules, alerts and dashboards, asked of a real Prometheus.
package watching
