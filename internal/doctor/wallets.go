package doctor

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/payment"
)

// examineWallets asks the chain first and the record after: what we have signed
// is in the record before a node hears of it (I3), so that a wallet nonce that the
// chain has and the record has not is somebody else's.
func (e *examination) examineWallets(ctx context.Context) {
	fee := e.examineFees(ctx)
	var known []Key
	var wallets []chain.Address
	for _, k := range e.Keys {
		if !k.Address.IsZero() && !slices.Contains(wallets, k.Address) {
			known, wallets = append(known, k), append(wallets, k.Address)
		}
	}
	if len(wallets) == 0 {
		return
	}
	accounts, err := e.node.Accounts(ctx, wallets)
	if err != nil {
		e.add("lane", "", Fail, "balances: %s", nodeProblem(err))
		return
	}
	var recorded map[chain.Address]payment.Wallet
	if e.record != nil {
		if recorded, err = e.record.Wallets(ctx, e.Name); err != nil {
			e.add("lane", "", Fail, "the record can't be read, so wallet nonces are not compared")
			recorded = nil
		}
	}
	for i, a := range wallets {
		area, purse := "lane", e.lanePurse(accounts[i].Balance, fee)
		if known[i].Treasury {
			area, purse = "treasury", e.treasuryPurse(accounts[i].Balance)
		}
		purse.Area, purse.Network, purse.Subject = area, string(e.Name), a.String()
		e.report.Add(purse)
		if w, ok := recorded[a]; ok {
			e.compareNonces(area, a, accounts[i], w)
		}
	}
}

// examineSigners asks nobody: what each has signed can never be mined, and is not
// sent.
func (e *examination) examineSigners() {
	for i := range e.Keys {
		k := &e.Keys[i]
		subject := k.Name
		if !k.Address.IsZero() {
			subject += " " + k.Address.String()
		}
		switch {
		case errors.Is(k.Err, context.DeadlineExceeded):
			e.add("signer", subject, Fail, "no answer in time")
		case k.Err != nil:
			e.add("signer", subject, Fail, "%v", k.Err)
		default:
			e.add("signer", subject, OK, "it signs, in %s", k.Took.Round(100*time.Microsecond))
		}
	}
}

// examineFees returns what a unit of gas is offered at most today, as the relayer
// computes it: twice the base fee and the tip, within the caps.
func (e *examination) examineFees(ctx context.Context) uint64 {
	tip, err := e.node.SuggestTip(ctx)
	if err != nil {
		tip = e.MaxTip // not every node suggests one
	}
	tip = min(tip, e.MaxTip, e.MaxFeePerGas)
	fee := min(2*e.head.BaseFee+tip, e.MaxFeePerGas)
	detail := fmt.Sprintf("base fee %d, tip %d, cap %d wei per gas", e.head.BaseFee, tip, e.MaxFeePerGas)
	switch {
	case e.head.BaseFee > e.MaxFeePerGas:
		e.add("fees", "", Fail, "%s: nothing is mined below the base fee, raise fees.max_fee_per_gas", detail)
	case 2*e.head.BaseFee+tip > e.MaxFeePerGas:
		e.add("fees", "", Warn, "%s: little room for the base fee to rise", detail)
	default:
		e.add("fees", "", OK, "%s", detail)
	}
	return fee
}

// lanePurse judges a lane's balance by what the dearest payment may take of it.
func (e *examination) lanePurse(balance *big.Int, fee uint64) Check {
	const few = 100
	most := new(big.Int).Mul(new(big.Int).SetUint64(e.MaxGas), new(big.Int).SetUint64(max(fee, 1)))
	lasts := new(big.Int).Div(balance, most)
	c := Check{Status: OK, Detail: fmt.Sprintf("%s wei, enough for %s payments of gas.max_per_payment", balance, lasts)}
	switch {
	case lasts.Sign() == 0:
		c.Status, c.Detail = Fail, fmt.Sprintf("%s wei, one payment may take %s: send it gas money", balance, most)
	case lasts.Cmp(big.NewInt(few)) < 0:
		c.Status = Warn
	}
	return c
}

func (e *examination) treasuryPurse(balance *big.Int) Check {
	c := Check{Status: OK, Detail: balance.String() + " wei"}
	if balance.Cmp(new(big.Int).SetUint64(e.TopUpTo)) < 0 {
		c.Status, c.Detail = Warn, fmt.Sprintf("%s wei, less than one top-up of %d", balance, e.TopUpTo)
	}
	return c
}

// compareNonces says whether nobody else uses a wallet of ours.
func (e *examination) compareNonces(area string, a chain.Address, on evm.Account, w payment.Wallet) {
	detail := fmt.Sprintf("wallet nonce %d mined, %d with pending; the record's next is %d, %d open", on.Nonce, on.Pending, w.Next, w.Open)
	subject := a.String() + " nonce"
	switch {
	case on.Nonce > w.Next:
		e.add(area, subject, Fail, "%s: somebody else sends from this wallet", detail)
	case on.Pending > w.Next:
		e.add(area, subject, Fail, "%s: somebody else's transaction of this wallet is pending", detail)
	case w.Parked != "":
		e.add(area, subject, Warn, "%s; it takes no work: %s", detail, w.Parked)
	case on.Nonce < w.Next && w.Open == 0:
		e.add(area, subject, Warn, "%s: the node lags, or its chain was rolled back", detail)
	default:
		e.add(area, subject, OK, "%s", detail)
	}
}
