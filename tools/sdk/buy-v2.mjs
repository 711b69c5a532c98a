// Buys a resource with the official x402 v2 packages: see lib.mjs for the
// checks and v2.mjs for the server and the client.

import { run, runShop, shopOptions, shopUsage } from './lib.mjs';
import { openV2Shop } from './v2.mjs';

await run('buy-v2', { usage: shopUsage, options: shopOptions }, (ctx) => runShop(ctx, 'x402 v2 purchase', openV2Shop));
