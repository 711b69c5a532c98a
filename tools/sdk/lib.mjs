// What the scripts in this folder share: arguments, the ready file, chain
// reads, the checks every purchase must pass, and the two kinds of report.
//
// A script describes how to open a "shop" (an official resource server in
// front of the facilitator, plus an official client to buy with) and hands it
// to runShop. A shop is
//
//   { network, expectedCalls, buy(account), close() }
//
// where `network` is the name the facilitator must echo, `expectedCalls` lists
// the facilitator calls of one purchase in order, and buy() resolves to
//
//   { unpaidStatus, challenge, payload, calls, paidStatus, response, body, error }

import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { createPublicClient, formatUnits, getAddress, http, parseAbi, parseEventLogs } from 'viem';
import { privateKeyToAccount } from 'viem/accounts';

const tokenAbi = parseAbi([
  'function name() view returns (string)',
  'function version() view returns (string)',
  'function symbol() view returns (string)',
  'function decimals() view returns (uint8)',
  'function balanceOf(address) view returns (uint256)',
  'event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce)',
]);

// The only two networks a ready file may name, with their names in x402 v1.
const v1Names = { 'eip155:8453': 'base', 'eip155:84532': 'base-sepolia' };

/** An expected failure: reported as one line, without a stack. */
export class Failure extends Error {}

export function ensure(condition, message) {
  if (!condition) throw new Failure(message);
}

// ---------------------------------------------------------------- arguments

const commonOptions = {
  payer: { type: 'string', default: '0' },
  json: { type: 'boolean', default: false },
  timeout: { type: 'string', default: '60' },
  verbose: { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
};

export function positive(text, name) {
  ensure(/^\d+$/.test(text) && BigInt(text) > 0n, `--${name} must be a positive whole number, got "${text}"`);
  return text;
}

function loadReadyFile(path) {
  ensure(path, 'no ready file: give its path as the argument or in READY_FILE');
  let ready;
  try {
    ready = JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    throw new Failure(`cannot read the ready file ${path}: ${error.message}`);
  }
  for (const key of ['rpc_url', 'network', 'asset', 'pay_to']) {
    ensure(typeof ready[key] === 'string' && ready[key], `the ready file has no "${key}"`);
  }
  ensure(ready.payers?.length > 0, 'the ready file has no "payers"');
  ensure(v1Names[ready.network], `the ready file names an unknown network "${ready.network}"`);
  return {
    ...ready,
    // The legacy v1 client does not strip it and would ask for "//verify".
    facilitator_url: ready.facilitator_url?.replace(/\/+$/, ''),
    asset: getAddress(ready.asset),
    pay_to: getAddress(ready.pay_to),
    v1_network: v1Names[ready.network],
  };
}

function accountOf(payer, index) {
  ensure(typeof payer?.private_key === 'string', `payer ${index} of the ready file has no "private_key"`);
  try {
    return privateKeyToAccount(`0x${payer.private_key.replace(/^0x/, '')}`);
  } catch {
    // The original error may quote the key.
    throw new Failure(`payer ${index} of the ready file has an unusable "private_key"`);
  }
}

// ------------------------------------------------------------------ running

/**
 * Runs one script: parses its arguments, then calls main(ctx). Whatever
 * happens, the process ends with exit code 0 or with one line on stderr and
 * exit code 1. With --json exactly one object is printed on stdout: ctx.report
 * with `ok` and perhaps `error`, or ctx.output as it is.
 */
export async function run(name, { usage, options = {} }, main) {
  const ctx = { report: {}, step: 'starting', cleanups: [], sdkNoise: '' };
  let failure;
  let timer;
  try {
    const { values, positionals } = parse({ ...commonOptions, ...options });
    ctx.flags = values;
    if (values.help) {
      process.stdout.write(`usage: node ${name}.mjs [ready file] ${usage} [--payer N] [--json] [--timeout SECONDS] [--verbose]\n`);
      return;
    }
    quietConsole(ctx);
    ensure(positionals.length <= 1, 'expected one argument, the ready file');
    ctx.ready = loadReadyFile(positionals[0] ?? process.env.READY_FILE);
    ctx.accounts = ctx.ready.payers.map(accountOf);
    ctx.payerIndex = Number(values.payer);
    ensure(ctx.accounts[ctx.payerIndex], `--payer ${values.payer}: the ready file has ${ctx.accounts.length} payers`);
    ctx.account = ctx.accounts[ctx.payerIndex];
    ctx.chain = createPublicClient({ transport: http(ctx.ready.rpc_url, { batch: true }) });

    const seconds = Number(positive(values.timeout, 'timeout'));
    const timeout = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Failure(`timed out after ${seconds} s while ${ctx.step}`)), seconds * 1000);
    });
    await Promise.race([main(ctx), timeout]);
  } catch (error) {
    failure = error instanceof Failure ? error : new Error(`${oneLine(error)} while ${ctx.step}`);
  }
  clearTimeout(timer);
  for (const cleanup of ctx.cleanups) cleanup();

  if (ctx.flags?.json ?? process.argv.includes('--json')) {
    const report = { ok: !failure, error: failure && oneLine(failure), ...ctx.report };
    process.stdout.write(`${toJson(failure ? report : (ctx.output ?? report))}\n`);
  }
  if (failure) process.stderr.write(`${name}: FAILED: ${oneLine(failure)}\n`);
  // Not exitCode: kept-alive sockets, or whatever hung, would hold the process.
  await Promise.all([flushed(process.stdout), flushed(process.stderr)]);
  process.exit(failure ? 1 : 0);
}

function parse(options) {
  try {
    return parseArgs({ options, allowPositionals: true });
  } catch (error) {
    throw new Failure(error.message);
  }
}

// The SDKs log to the console. Left alone that would end up between our own
// output, so only the last message is kept, to explain a failure.
function quietConsole(ctx) {
  for (const level of ['log', 'info', 'warn', 'error']) {
    console[level] = (...args) => {
      const text = args.map((arg) => (arg instanceof Error ? arg.stack : String(arg))).join(' ');
      ctx.sdkNoise = oneLine(args[0] instanceof Error ? args[0] : text);
      if (ctx.flags.verbose) process.stderr.write(`${text}\n`);
    };
  }
}

function oneLine(error) {
  const text = error?.shortMessage ?? error?.message ?? String(error);
  // fetch() and viem hide the interesting part ("ECONNREFUSED") in the innermost cause.
  let cause = error;
  while (cause?.cause) cause = cause.cause;
  const detail = cause?.code ?? cause?.message ?? '';
  return (text.includes(detail) ? text : `${text} (${detail})`).replace(/\s+/g, ' ').trim().slice(0, 300);
}

export function toJson(value, indent) {
  return JSON.stringify(value, (_, item) => (typeof item === 'bigint' ? item.toString() : item), indent);
}

// Writes to a pipe may be asynchronous: exiting before they are done cuts them short.
function flushed(stream) {
  return new Promise((resolve) => stream.write('', resolve));
}

/** Prints a line for people: on stderr when stdout belongs to --json. */
export function say(ctx, text = '') {
  (ctx.flags.json ? process.stderr : process.stdout).write(`${text}\n`);
}

// -------------------------------------------------------------------- chain

/** The token's EIP-712 domain and how to print its amounts, from the chain. */
export async function readToken(ctx) {
  ctx.step = 'reading the token from the chain';
  const [name, version, symbol, decimals] = await Promise.all(
    ['name', 'version', 'symbol', 'decimals'].map((functionName) =>
      ctx.chain.readContract({ address: ctx.ready.asset, abi: tokenAbi, functionName }),
    ),
  );
  return { name, version, symbol, decimals };
}

async function readBalances(ctx, addresses) {
  const values = await Promise.all(
    addresses.map((address) =>
      ctx.chain.readContract({ address: ctx.ready.asset, abi: tokenAbi, functionName: 'balanceOf', args: [address] }),
    ),
  );
  return Object.fromEntries(addresses.map((address, i) => [address, values[i]]));
}

// Right after a block a node may still answer from the one before it, so a
// wrong balance is only believed when it stays wrong.
async function awaitBalances(ctx, expected) {
  const addresses = Object.keys(expected);
  for (let attempt = 0; ; attempt++) {
    const after = await readBalances(ctx, addresses);
    const wrong = addresses.find((address) => after[address] !== expected[address]);
    if (!wrong) return { after };
    if (attempt === 20) {
      return { after, problem: `the balance of ${wrong} is ${after[wrong]}, expected ${expected[wrong]}` };
    }
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
}

function balancesAfter(before, payTo, price, payersOfSuccesses) {
  const expected = { ...before };
  for (const payer of payersOfSuccesses) {
    expected[payer] -= price;
    expected[payTo] += price;
  }
  return expected;
}

// ------------------------------------------------- watching the conversation

/**
 * Collects what the facilitator answered, per payment. A payment is known by
 * its authorization nonce: with purchases in flight together, order says nothing.
 */
export class Recorder {
  #calls = new Map();

  record(paymentPayload, call, answer) {
    const nonce = paymentPayload.payload.authorization.nonce;
    this.#calls.set(nonce, [...this.callsOf(paymentPayload), { call, answer }]);
  }

  callsOf(paymentPayload) {
    return this.#calls.get(paymentPayload?.payload?.authorization?.nonce) ?? [];
  }
}

/** A fetch that also keeps each request and a copy of its response. */
export function recordingFetch(exchanges) {
  return async (input, init) => {
    const request = new Request(input, init);
    const response = await fetch(request);
    exchanges.push({ request, response: response.clone() });
    return response;
  };
}

/** Serves an express app on a free port of 127.0.0.1. */
export async function listen(app) {
  const server = await new Promise((resolve, reject) => {
    const started = app.listen(0, '127.0.0.1', (error) => (error ? reject(error) : resolve(started)));
  });
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    close: () => {
      server.close();
      server.closeAllConnections();
    },
  };
}

/** JSON if it is JSON: a failing server may answer anything. */
export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

export function weather(_request, response) {
  response.json({ report: { weather: 'sunny', temperature: 22 } });
}

// ------------------------------------------------------------------- checks

/** What every purchase must show, whatever the protocol version. */
async function checkPurchase(ctx, shop, purchase) {
  const last = (call) => purchase.calls.findLast((entry) => entry.call === call)?.answer;
  const why = purchase.error ?? (ctx.sdkNoise && `the SDK logged: ${ctx.sdkNoise}`);
  const because = why ? ` (${why})` : '';

  ensure(purchase.unpaidStatus === 402, `the unpaid request was answered ${purchase.unpaidStatus ?? 'not at all'}, expected 402${because}`);
  ensure(purchase.payload, `the client did not sign a payment${because}`);
  const verify = last('verify');
  if (shop.expectedCalls.includes('verify')) {
    ensure(verify?.isValid === true, `verify did not say isValid: ${reasonIn(verify)}${because}`);
  }
  const settle = last('settle');
  ensure(settle?.success === true, `settle did not say success: ${reasonIn(settle)}${because}`);
  ensure(/^0x[0-9a-f]{64}$/i.test(settle.transaction), `settle named no transaction hash: ${toJson(settle)}`);
  ensure(settle.network === shop.network, `settle named network "${settle.network}", expected "${shop.network}"`);
  // A pending settlement is asked for once more by the v2 server: not a second one.
  const final = purchase.calls.filter((entry) => entry.answer?.errorReason !== 'settlement_pending');
  const calls = final.map((entry) => entry.call).join(', ');
  ensure(calls === shop.expectedCalls.join(', '), `the facilitator was called for ${calls}, expected ${shop.expectedCalls.join(', ')}`);
  ensure(purchase.paidStatus === 200, `the paid request was answered ${purchase.paidStatus}, expected 200${because}`);
  ensure(purchase.response?.success === true, `the resource server did not report a success: ${reasonIn(purchase.response)}`);
  ensure(purchase.response.transaction === settle.transaction, 'the resource server reported another transaction than the facilitator');

  const hash = settle.transaction;
  const receipt = await ctx.chain.waitForTransactionReceipt({ hash, timeout: 5_000, pollingInterval: 250 }).catch(() => null);
  ensure(receipt, `there is no receipt of ${hash}`);
  ensure(receipt.status === 'success', `the transaction ${hash} was reverted`);
  // A hash of someone else's payment of the same price would pass all of the above.
  const { from, nonce } = purchase.payload.payload.authorization;
  const used = parseEventLogs({ abi: tokenAbi, eventName: 'AuthorizationUsed', logs: receipt.logs }).some(
    (log) => getAddress(log.address) === ctx.ready.asset && log.args.authorizer === getAddress(from) && log.args.nonce === nonce,
  );
  ensure(used, `the transaction ${hash} did not use this payment's authorization`);
  return hash;
}

// Why an answer is not the expected one. A broken facilitator may answer anything.
function reasonIn(answer) {
  return answer?.invalidReason ?? answer?.errorReason ?? answer?.error ?? toJson(answer) ?? 'no answer';
}

// A short text to count failures by, without amounts or hashes in it.
function reasonOf(purchase, error) {
  const settle = purchase?.calls.findLast((entry) => entry.call === 'settle')?.answer;
  const verify = purchase?.calls.findLast((entry) => entry.call === 'verify')?.answer;
  if (settle && !settle.success) return `settle: ${reasonIn(settle)}`;
  if (verify && !verify.isValid) return `verify: ${reasonIn(verify)}`;
  return oneLine(error).replace(/0x[0-9a-f]{40,}/gi, '0x…');
}

// ------------------------------------------------------------------ reports

export const shopOptions = {
  price: { type: 'string', default: '10000' },
  concurrency: { type: 'string' },
  count: { type: 'string' },
};

export const shopUsage = '[--price ATOMIC] [--concurrency C --count N]';

/** The main() of the buying scripts. */
export async function runShop(ctx, title, openShop) {
  ensure(ctx.ready.facilitator_url, 'the ready file has no "facilitator_url"');
  ctx.price = BigInt(positive(ctx.flags.price, 'price'));
  ctx.token = await readToken(ctx);
  ctx.step = 'starting the resource server';
  const shop = await openShop(ctx);
  ctx.cleanups.push(shop.close);
  if (ctx.flags.concurrency || ctx.flags.count) await buyMany(ctx, shop, title);
  else await buyOne(ctx, shop, title);
}

function money(ctx, amount) {
  return `${formatUnits(amount, ctx.token.decimals)} ${ctx.token.symbol}`;
}

function section(ctx, heading, value) {
  say(ctx, `\n── ${heading}`);
  say(ctx, typeof value === 'string' ? value : (toJson(value, 2) ?? '(none)'));
}

function balanceLines(ctx, payer, { before, after }) {
  const line = (label, address) =>
    `${label} ${address}  ${money(ctx, before[address])} → ${after ? money(ctx, after[address]) : '?'}`;
  return `${line('payer ', payer)}\n${line('pay to', ctx.ready.pay_to)}`;
}

async function buyOne(ctx, shop, title) {
  const payer = ctx.account.address;
  const payTo = ctx.ready.pay_to;
  say(ctx, `${title}: GET /weather for ${money(ctx, ctx.price)} on ${shop.network}, facilitator ${ctx.ready.facilitator_url}`);

  ctx.step = 'reading balances';
  const before = await readBalances(ctx, [payer, payTo]);
  ctx.step = 'buying';
  const purchase = await shop.buy(ctx.account);
  const answer = (call) => purchase.calls.findLast((entry) => entry.call === call)?.answer;

  section(ctx, `1. the challenge: HTTP ${purchase.unpaidStatus}`, purchase.challenge);
  section(ctx, '2. the payment the client signed', purchase.payload);
  if (shop.expectedCalls.includes('verify')) section(ctx, '3. the facilitator answered /verify', answer('verify'));
  else section(ctx, '3. no /verify in this payment flow', `calls: ${purchase.calls.map((entry) => entry.call).join(', ')}`);
  section(ctx, '4. the facilitator answered /settle', answer('settle'));
  section(ctx, '5. the payment response the client received', purchase.response);
  section(ctx, `6. the resource: HTTP ${purchase.paidStatus}`, purchase.body);

  const report = { challenge: purchase.challenge, payload: purchase.payload, verify: answer('verify') ?? null };
  Object.assign(ctx.report, report, { settle: answer('settle'), response: purchase.response, body: purchase.body });
  ctx.report.calls = purchase.calls.map((entry) => entry.call);
  ctx.report.balances = { before: { payer: before[payer], pay_to: before[payTo] } };

  ctx.step = 'checking the purchase on the chain';
  const transaction = await checkPurchase(ctx, shop, purchase);
  const { after, problem } = await awaitBalances(ctx, balancesAfter(before, payTo, ctx.price, [payer]));
  ctx.report.balances.after = { payer: after[payer], pay_to: after[payTo] };
  ctx.report.transaction = transaction;
  section(ctx, '7. balances', balanceLines(ctx, payer, { before, after }));
  ensure(!problem, `balances did not move by exactly the price: ${problem}`);
  say(ctx, `\nOK: paid ${money(ctx, ctx.price)} in transaction ${transaction}`);
}

async function buyMany(ctx, shop, title) {
  const count = Number(positive(ctx.flags.count ?? ctx.flags.concurrency, 'count'));
  const concurrency = Math.min(count, Number(positive(ctx.flags.concurrency ?? '1', 'concurrency')));
  const payTo = ctx.ready.pay_to;
  say(ctx, `${title}: ${count} purchases, ${concurrency} in flight, ${ctx.accounts.length} payers in turn from payer ${ctx.payerIndex}`);

  ctx.step = 'reading balances';
  const before = await readBalances(ctx, [...new Set([payTo, ...ctx.accounts.map((account) => account.address)])]);

  const results = [];
  const report = Object.assign(ctx.report, { count, concurrency, succeeded: 0, failed: 0, reasons: {} });
  const fail = (reason) => {
    report.failed += 1;
    report.reasons[reason] = (report.reasons[reason] ?? 0) + 1;
  };
  let next = 0;
  const buyer = async () => {
    while (next < count) {
      const account = ctx.accounts[(ctx.payerIndex + next++) % ctx.accounts.length];
      const started = performance.now();
      let purchase;
      try {
        purchase = await shop.buy(account);
        results.push({ account, purchase, milliseconds: performance.now() - started });
      } catch (error) {
        fail(reasonOf(purchase, error));
      }
      ctx.step = `buying (${results.length + report.failed} of ${count} answered)`;
    }
  };
  const started = performance.now();
  await Promise.all(Array.from({ length: concurrency }, buyer));
  report.seconds = Number(((performance.now() - started) / 1000).toFixed(3));

  // Only now, so that the reads do not slow the purchases down.
  ctx.step = 'checking the purchases on the chain';
  const paid = [];
  const transactions = new Set();
  await Promise.all(
    results.map(async ({ account, purchase, milliseconds }) => {
      try {
        transactions.add(await checkPurchase(ctx, shop, purchase));
        paid.push({ account, milliseconds });
      } catch (error) {
        fail(reasonOf(purchase, error));
      }
    }),
  );
  report.succeeded = paid.length;
  report.transactions = [...transactions];
  const sorted = paid.map((entry) => entry.milliseconds).sort((a, b) => a - b);
  const quantile = (q) => Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? 0);
  report.milliseconds = { p50: quantile(0.5), p95: quantile(0.95), max: quantile(1) };

  const expected = balancesAfter(before, payTo, ctx.price, paid.map((entry) => entry.account.address));
  const { after, problem } = await awaitBalances(ctx, expected);
  report.balances = { before, after };

  say(ctx, `\n${report.succeeded} succeeded, ${report.failed} failed in ${report.seconds} s`);
  if (paid.length > 0) say(ctx, `per purchase: p50 ${report.milliseconds.p50} ms, p95 ${report.milliseconds.p95} ms, max ${report.milliseconds.max} ms`);
  for (const [reason, times] of Object.entries(report.reasons)) say(ctx, `${String(times).padStart(6)} × ${reason}`);
  say(ctx, `pay to ${payTo}  ${money(ctx, before[payTo])} → ${money(ctx, after[payTo])}`);
  ensure(!problem, `balances did not move by exactly the price of the ${paid.length} successes: ${problem}`);
  ensure(report.failed === 0, `${report.failed} of ${count} purchases failed`);
}
