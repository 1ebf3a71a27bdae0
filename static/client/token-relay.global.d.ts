// The script-tag build defines one global.
import type * as client from './token-relay.js';

declare global {
  const tokenRelay: Readonly<typeof client>;
}
