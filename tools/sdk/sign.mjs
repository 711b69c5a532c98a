// Prints a signed request body for /verify or /settle, for curl and for tests:
//
//   node sign.mjs ready.json --json | curl -d @- -H 'Content-Type: application/json' $URL/verify

import { createPaymentHeader } from 'x402/client';
import { exact } from 'x402/schemes';
import { ensure, positive, readToken, run, say, toJson } from './lib.mjs';
import { v2Client } from './v2.mjs';

const resource = { url: 'https://api.example.com/weather', description: 'Weather report', mimeType: 'application/json' };

async function signV2({ ready, account }, { amount, seconds, extra }) {
  const requirements = {
    scheme: 'exact',
    network: ready.network,
    amount,
    asset: ready.asset,
    payTo: ready.pay_to,
    maxTimeoutSeconds: seconds,
    extra,
  };
  const challenge = { x402Version: 2, resource, accepts: [requirements] };
  const paymentPayload = await v2Client(ready, account, amount).createPaymentPayload(challenge);
  return { x402Version: 2, paymentPayload, paymentRequirements: requirements };
}

async function signV1({ ready, account }, { amount, seconds, extra }) {
  const requirements = {
    scheme: 'exact',
    network: ready.v1_network,
    maxAmountRequired: amount,
    resource: resource.url,
    description: resource.description,
    mimeType: resource.mimeType,
    payTo: ready.pay_to,
    maxTimeoutSeconds: seconds,
    asset: ready.asset,
    extra,
  };
  const paymentPayload = exact.evm.decodePayment(await createPaymentHeader(account, 1, requirements));
  return { x402Version: 1, paymentPayload, paymentRequirements: requirements };
}

// The shape printed in the public documentation leaves out what the signature
// needs (the token's domain) and how long it is good for. Whoever follows it
// still signs with the token's real domain, so only the outside changes.
function asDocumented({ x402Version, paymentPayload, paymentRequirements }) {
  const { maxTimeoutSeconds: _timeout, extra: _extra, ...rest } = paymentRequirements;
  const { resource, payload } = paymentPayload;
  return {
    x402Version,
    paymentPayload: { x402Version, resource, accepted: rest, payload },
    paymentRequirements: rest,
  };
}

const usage = '[--version 1|2] [--amount ATOMIC] [--shape full|documented] [--valid-for SECONDS]';
const options = {
  version: { type: 'string', default: '2' },
  amount: { type: 'string', default: '10000' },
  shape: { type: 'string', default: 'full' },
  'valid-for': { type: 'string', default: '300' },
};

await run('sign', { usage, options }, async (ctx) => {
  const { version, amount, shape } = ctx.flags;
  ensure(['1', '2'].includes(version), `--version must be 1 or 2, got "${version}"`);
  ensure(['full', 'documented'].includes(shape), `--shape must be full or documented, got "${shape}"`);
  ensure(shape === 'full' || version === '2', '--shape documented exists in version 2 only');

  const token = await readToken(ctx);
  const terms = {
    amount: positive(amount, 'amount'),
    seconds: Number(positive(ctx.flags['valid-for'], 'valid-for')),
    extra: { name: token.name, version: token.version },
  };
  const signed = await (version === '1' ? signV1 : signV2)(ctx, terms);
  ctx.output = shape === 'documented' ? asDocumented(signed) : signed;
  if (!ctx.flags.json) say(ctx, toJson(ctx.output, 2));
});
