package store

import "github.com/jackc/pgx/v5/pgxpool"

// WaitingWrites counts the writes that wait for a transaction to join.
func (s *Store) WaitingWrites() int { return s.writes.Waiting() }

// PrepareConnections gives the connections of a pool their settings.
func PrepareConnections(cfg *pgxpool.Config) { prepareSessions(cfg) }

// InOrder is what lists set before they read.
const InOrder = inOrder
