// The official x402 facilitator, for the benchmark and the conformance suite to
// compare with: the packages' public API behind express, one viem wallet, no log.
// It serves version 2 on NETWORK and version 1 on every network that the packages
// know by name, all through RPC_URL; what it throws is a 500 with the text.
// Environment:
//
//   RPC_URL, NETWORK (CAIP-2), PRIVATE_KEY
//   POLLING_INTERVAL  milliseconds between looks for a new block (viem's default: half a block of the chain)
//   NONCE_MANAGER     "off" leaves wallet nonces to the node, as the basic example of the SDK does
//   FACTORIES         wallet factories that may be called (ERC-6492), separated by commas; none by default
//   SIMULATE_IN_SETTLE    "on" simulates at settle too (off by default, as in the SDK)
//   CONFIRMATION_TIMEOUT  milliseconds to wait for a receipt (180,000 by default, as in the SDK)
//
// Prints "serving http://127.0.0.1:PORT" once it does.

import express from 'express';
import { x402Facilitator } from '@x402/core/facilitator';
import { toFacilitatorEvmSigner } from '@x402/evm';
import { registerExactEvmScheme } from '@x402/evm/exact/facilitator';
import { createWalletClient, http, publicActions } from 'viem';
import { nonceManager, privateKeyToAccount } from 'viem/accounts';
import { base, baseSepolia } from 'viem/chains';

const { RPC_URL, NETWORK, PRIVATE_KEY, POLLING_INTERVAL, NONCE_MANAGER } = process.env;
const { FACTORIES, SIMULATE_IN_SETTLE, CONFIRMATION_TIMEOUT } = process.env;
const chain = [base, baseSepolia].find(({ id }) => NETWORK === `eip155:${id}`);
if (!chain || !RPC_URL || !PRIVATE_KEY) throw new Error('RPC_URL, PRIVATE_KEY and NETWORK (Base or Base Sepolia) are required');

const account = privateKeyToAccount(PRIVATE_KEY, NONCE_MANAGER === 'off' ? {} : { nonceManager });
const client = createWalletClient({
  account,
  chain,
  transport: http(RPC_URL),
  ...(POLLING_INTERVAL && { pollingInterval: Number(POLLING_INTERVAL) }),
}).extend(publicActions);

const signer = toFacilitatorEvmSigner({
  address: account.address,
  getCode: (args) => client.getCode(args),
  readContract: (args) => client.readContract({ ...args, args: args.args ?? [] }),
  verifyTypedData: (args) => client.verifyTypedData(args),
  writeContract: (args) => client.writeContract({ ...args, args: args.args ?? [] }),
  sendTransaction: (args) => client.sendTransaction(args),
  waitForTransactionReceipt: (args) => client.waitForTransactionReceipt(args),
}, CONFIRMATION_TIMEOUT ? { confirmationTimeoutMs: Number(CONFIRMATION_TIMEOUT) } : {});

const facilitator = new x402Facilitator();
registerExactEvmScheme(facilitator, {
  signer,
  networks: NETWORK,
  eip6492AllowedFactories: FACTORIES ? FACTORIES.split(',') : [],
  simulateInSettle: SIMULATE_IN_SETTLE === 'on',
});

const app = express();
app.use(express.json());
for (const call of ['verify', 'settle']) {
  app.post(`/${call}`, async ({ body }, response) => {
    try {
      response.json(await facilitator[call](body.paymentPayload, body.paymentRequirements));
    } catch (error) {
      response.status(500).json({ error: String(error?.message ?? error) });
    }
  });
}
app.get('/supported', (_, response) => response.json(facilitator.getSupported()));

const server = app.listen(0, '127.0.0.1', (error) => {
  if (error) throw error;
  process.stdout.write(`serving http://127.0.0.1:${server.address().port}\n`);
});
server.keepAliveTimeout = 120_000; // the load's connections are not to be closed between two calls
