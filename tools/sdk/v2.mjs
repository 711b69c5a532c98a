// The official x402 v2 stack as a shop: @x402/express in front, the official
// HTTPFacilitatorClient behind it, and @x402/fetch as the customer.

import express from 'express';
import { decodePaymentRequiredHeader, decodePaymentResponseHeader, decodePaymentSignatureHeader } from '@x402/core/http';
import { HTTPFacilitatorClient } from '@x402/core/server';
import { ExactEvmScheme as ExactClient } from '@x402/evm/exact/client';
import { ExactEvmScheme as ExactServer } from '@x402/evm/exact/server';
import { paymentMiddleware, x402ResourceServer } from '@x402/express';
import { wrapFetchWithPayment, x402Client } from '@x402/fetch';
import { Recorder, listen, parsed, recordingFetch, weather } from './lib.mjs';

/**
 * The official client that the ready file asks for: without a key, with one of
 * ours ("api_key"), or one of the hosted facilitator's clients ("cdp") of which
 * nothing but the URL is changed.
 */
async function facilitatorClient({ facilitator_url: url, api_key: key, cdp }) {
  if (cdp?.client === '@coinbase/cdp-sdk') {
    const { createCdpFacilitatorClient } = await import('@coinbase/cdp-sdk/x402');
    return createCdpFacilitatorClient({ apiKeyId: cdp.key_id, apiKeySecret: cdp.key_secret, baseUrl: `${url}/platform/v2/x402` });
  }
  if (cdp?.client === '@coinbase/x402') {
    const { createFacilitatorConfig } = await import('@coinbase/x402');
    return new HTTPFacilitatorClient({ ...createFacilitatorConfig(cdp.key_id, cdp.key_secret), url: `${url}/platform/v2/x402` });
  }
  if (key) {
    const headers = { Authorization: `Bearer ${key}` };
    return new HTTPFacilitatorClient({ url, createAuthHeaders: async () => ({ verify: headers, settle: headers, supported: headers }) });
  }
  return new HTTPFacilitatorClient({ url });
}

/** Notes each answer of a client, which it does not change. */
function recorded(client) {
  const recorder = new Recorder();
  for (const call of ['verify', 'settle']) {
    const original = client[call].bind(client);
    client[call] = async (payload, requirements) => {
      try {
        const answer = await original(payload, requirements);
        recorder.record(payload, call, answer);
        return answer;
      } catch (error) {
        recorder.record(payload, call, { error: error.message });
        throw error;
      }
    };
  }
  return { client, recorder };
}

/** The client side: signs for `account`, spends at most `limit` atomic units per payment. */
export function v2Client(ready, account, limit) {
  return new x402Client()
    .register(ready.network, new ExactClient(account))
    // By default the client only pays in tokens of its built-in list, which a
    // token deployed for a test is not on.
    .setSpendControls({
      allowedAssets: [{ network: ready.network, asset: ready.asset, maxAmountPerPayment: limit.toString() }],
    });
}

/**
 * Opens a resource server with one route. `flow` is a payment flow of the
 * protocol: "authorization" (verify, serve, settle) or "upfront" (settle, serve).
 */
export async function openV2Shop({ ready, token, price }, flow = 'authorization') {
  const { client, recorder } = recorded(await facilitatorClient(ready));
  const accepts = {
    scheme: 'exact',
    network: ready.network,
    payTo: ready.pay_to,
    price: { amount: price.toString(), asset: ready.asset, extra: { name: token.name, version: token.version } },
    // "authorization" is the default, and the default is never written out.
    ...(flow !== 'authorization' && { extra: { paymentFlow: flow } }),
  };
  const routes = { 'GET /weather': { accepts, description: 'Weather report', mimeType: 'application/json' } };

  const app = express();
  app.use(paymentMiddleware(routes, new x402ResourceServer(client).register(ready.network, new ExactServer())));
  app.get('/weather', weather);
  const server = await listen(app);

  async function buy(account) {
    const exchanges = [];
    const payingFetch = wrapFetchWithPayment(recordingFetch(exchanges), v2Client(ready, account, price));
    let error;
    let response;
    try {
      response = await payingFetch(`${server.url}/weather`);
    } catch (caught) {
      error = caught.message;
    }
    const [unpaid, paid] = exchanges;
    const decoded = (headers, name, decode) => (headers?.get(name) ? decode(headers.get(name)) : undefined);
    const payload = decoded(paid?.request.headers, 'PAYMENT-SIGNATURE', decodePaymentSignatureHeader);
    return {
      unpaidStatus: unpaid?.response.status,
      challenge: decoded(unpaid?.response.headers, 'PAYMENT-REQUIRED', decodePaymentRequiredHeader),
      payload,
      calls: recorder.callsOf(payload),
      paidStatus: paid?.response.status,
      response: decoded(paid?.response.headers, 'PAYMENT-RESPONSE', decodePaymentResponseHeader),
      body: parsed(await response?.text()),
      error,
    };
  }

  const expectedCalls = flow === 'upfront' ? ['settle'] : ['verify', 'settle'];
  return { network: ready.network, expectedCalls, buy, close: server.close };
}
