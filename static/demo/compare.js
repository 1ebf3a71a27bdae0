// Counts the requests by which the client module waits, and polls the same session once a second beside it, as
// an add-in without push would. Nothing is simulated: the module's `fetch` and `WebSocket` are the page's.
let current; // the comparison under way

const ask = globalThis.fetch.bind(globalThis);
const isSession = (input) => new URL(input, location.href).pathname.startsWith('/addons/sessions');

globalThis.fetch = async (input, init = {}) => {
  const comparison = isSession(input) ? current : undefined;
  const { method = 'GET' } = init;
  if (method === 'GET') comparison?.asked('push');
  // The acknowledgement deletes the token: the poll gets it before.
  if (method === 'DELETE') await comparison?.polled;
  const response = await ask(input, init);
  if (method === 'POST' && response.ok) comparison?.poll(await response.clone().json());
  return response;
};

globalThis.WebSocket = class extends WebSocket {
  #comparison = current;

  constructor(...settings) {
    super(...settings);
    current?.asked('push');
  }

  send(text) {
    this.#after(() => super.send(text));
  }

  close(...reason) {
    this.#after(() => super.close(...reason));
  }

  #after(act) {
    if (this.#comparison) this.#comparison.polled.then(act);
    else act();
  }
};

/** Begins a comparison. `tick(way, kind, requests)` and `late(way, text)` show what is measured. */
export function compare(signal, tick, late) {
  const requests = { push: 0, poll: 0 };
  const arrivals = { push: undefined, poll: undefined };
  let loggedIn; // milliseconds since the Unix epoch
  let done;
  const polled = new Promise((resolve) => { done = resolve; });
  const show = (way) => {
    if (arrivals[way] !== undefined && loggedIn !== undefined) late(way, `${Math.max(0, arrivals[way] - loggedIn)} ms`);
  };
  const asked = (way) => {
    requests[way] += 1;
    tick(way, 'asked', requests[way]);
  };
  signal.addEventListener('abort', done);
  const comparison = {
    polled,
    asked,
    /** The sign-in is over; with a token, at these times. */
    pushed(at, authenticatedAt) {
      if (authenticatedAt === undefined) return done();
      arrivals.push = at;
      loggedIn = authenticatedAt;
      tick('push', 'arrived', requests.push);
      show('push');
      show('poll');
    },
    async poll({ poll_url: url, session_token: token }) {
      const headers = { Authorization: `Bearer ${token}` };
      while (!signal.aborted && current === comparison) {
        const next = new Promise((second) => { setTimeout(second, 1000); });
        asked('poll');
        const response = await ask(url, { headers, cache: 'no-store', signal }).catch(() => undefined);
        const { state } = await response?.json().catch(() => ({})) ?? {};
        if (state !== 'pending') {
          if (state === 'authenticated') arrivals.poll = Date.now();
          if (arrivals.poll) tick('poll', 'arrived', requests.poll);
          show('poll');
          break;
        }
        await next;
        if (arrivals.push === undefined && !signal.aborted) tick('push', 'quiet', requests.push);
      }
      done();
    },
  };
  current = comparison;
  return comparison;
}
