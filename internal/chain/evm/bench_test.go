package evm

import "testing"

func BenchmarkDigest(b *testing.B) {
	a, domain := vector(b), vectorDomain(b)
	for b.Loop() {
		a.Digest(domain)
	}
}

func BenchmarkRecover(b *testing.B) {
	digest, signature := hash(b, vectorDigest), vectorBytes(b)
	for b.Loop() {
		if _, ok := Recover(digest, signature); !ok {
			b.Fatal("not recovered")
		}
	}
}

func BenchmarkTransferData(b *testing.B) {
	a, signature := vector(b), vectorBytes(b)
	for b.Loop() {
		TransferData(a, signature, BothOverloads)
	}
}
