package store

// WaitingWrites counts the writes that wait for a transaction to join.
func (s *Store) WaitingWrites() int { return s.writes.Waiting() }
