// Buys a resource with the legacy x402 v1 packages, still common in servers
// and clients that were never upgraded.

import express from 'express';
import { exact } from 'x402/schemes';
import { paymentMiddleware } from 'x402-express';
import { decodeXPaymentResponse, wrapFetchWithPayment } from 'x402-fetch';
import { Recorder, listen, parsed, recordingFetch, run, runShop, shopOptions, shopUsage, weather } from './lib.mjs';

// The v1 middleware builds its facilitator client itself, out of the global
// fetch, so that is the only place to overhear the answers.
function recordFacilitator(facilitatorUrl) {
  const recorder = new Recorder();
  const originalFetch = globalThis.fetch;
  globalThis.fetch = async (input, init) => {
    const call = ['verify', 'settle'].find((name) => input === `${facilitatorUrl}/${name}`);
    if (!call) return originalFetch(input, init);
    const { paymentPayload } = JSON.parse(init.body);
    try {
      const response = await originalFetch(input, init);
      recorder.record(paymentPayload, call, parsed(await response.clone().text()));
      return response;
    } catch (error) {
      recorder.record(paymentPayload, call, { error: error.message });
      throw error;
    }
  };
  return recorder;
}

async function openV1Shop({ ready, token, price }) {
  const recorder = recordFacilitator(ready.facilitator_url);
  const eip712 = { name: token.name, version: token.version };
  const routes = {
    'GET /weather': {
      // Spelled out: a price in dollars would take the token from a built-in table.
      price: { amount: price.toString(), asset: { address: ready.asset, decimals: token.decimals, eip712 } },
      network: ready.v1_network,
      config: { description: 'Weather report', mimeType: 'application/json' },
    },
  };

  const app = express();
  app.use(paymentMiddleware(ready.pay_to, routes, { url: ready.facilitator_url }));
  app.get('/weather', weather);
  const server = await listen(app);

  async function buy(account) {
    const exchanges = [];
    const payingFetch = wrapFetchWithPayment(recordingFetch(exchanges), account, price);
    let error;
    let response;
    try {
      response = await payingFetch(`${server.url}/weather`);
    } catch (caught) {
      error = caught.message;
    }
    const [unpaid, paid] = exchanges;
    const payment = paid?.request.headers.get('X-PAYMENT');
    const payload = payment ? exact.evm.decodePayment(payment) : undefined;
    const result = paid?.response.headers.get('X-PAYMENT-RESPONSE');
    return {
      unpaidStatus: unpaid?.response.status,
      challenge: parsed(await unpaid?.response.text()),
      payload,
      calls: recorder.callsOf(payload),
      paidStatus: paid?.response.status,
      response: result ? decodeXPaymentResponse(result) : undefined,
      body: parsed(await response?.text()),
      error,
    };
  }

  return { network: ready.v1_network, expectedCalls: ['verify', 'settle'], buy, close: server.close };
}

await run('buy-v1', { usage: shopUsage, options: shopOptions }, (ctx) => runShop(ctx, 'x402 v1 purchase', openV1Shop));
