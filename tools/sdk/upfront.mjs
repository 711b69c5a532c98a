// Buys a resource whose server settles before it serves (payment flow
// "upfront"). The facilitator sees /settle and never /verify, so its settle
// must do every check itself.

import { run, runShop, shopOptions, shopUsage } from './lib.mjs';
import { openV2Shop } from './v2.mjs';

await run('upfront', { usage: shopUsage, options: shopOptions }, (ctx) =>
  runShop(ctx, 'x402 v2 purchase, paid upfront', () => openV2Shop(ctx, 'upfront')),
);
