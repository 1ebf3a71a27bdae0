// Waits for sessions with the JavaScript clients that reconnect by themselves, each as its own
// documentation uses it and without closing it when the token is there.
//
// One JSON object a line on standard input begins a wait: {session, client, events_url,
// websocket_url, token}. One a line on standard output says what the client saw: {session, saw,
// detail}, where `saw` is an event of the stream, `open`, `error` or `stopped`.
import { existsSync, readFileSync } from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';
import { dirname, extname, join } from 'node:path';
import readline from 'node:readline';
import { EventSource } from 'eventsource';
import { EventSource as LaunchDarklyEventSource } from 'launchdarkly-eventsource';
import { chromium } from 'playwright-core';
import ReconnectingWebSocket from 'reconnecting-websocket';
import WebSocket from 'ws';

const EVENTS = ['authenticated', 'failed', 'expired'];
const BROWSER = '/usr/bin/chromium';

const report = (session, saw, detail) => {
  process.stdout.write(`${JSON.stringify({ session, saw, detail: detail ?? null })}\n`);
};

/** What Chromium runs; `start` is called with a request. */
const PAGE = `<!doctype html><meta charset="utf-8"><script src="/polyfill.js"></script>
<script type="module">
import { fetchEventSource } from '/fetch-event-source/index.js';
const EVENTS = ${JSON.stringify(EVENTS)};
function listen(source, session) {
  source.onopen = () => report(session, 'open');
  for (const name of EVENTS) source.addEventListener(name, ({ data }) => report(session, name, data));
  // 2 is CLOSED: it does not come again.
  source.onerror = () => report(session, source.readyState === 2 ? 'stopped' : 'error');
}
const headers = (token) => (token ? { Authorization: 'Bearer ' + token } : {});
window.clients = {
  'EventSource'({ session, events_url }) {
    listen(new EventSource(events_url), session);
  },
  'event-source-polyfill'({ session, events_url, token }) {
    listen(new EventSourcePolyfill(events_url, { headers: headers(token) }), session);
  },
  // It takes the end of a response for the end; an add-in without a result asks again.
  async '@microsoft/fetch-event-source'({ session, events_url, token }) {
    let final = false;
    while (!final) {
      await fetchEventSource(events_url, {
        headers: headers(token),
        openWhenHidden: true,
        // Its own \`onopen\` stays.
        async fetch(...given) {
          const answer = await fetch(...given);
          if (answer.status === 200) report(session, 'open');
          return answer;
        },
        onmessage({ event, data }) {
          if (!EVENTS.includes(event)) return;
          final = true;
          report(session, event, data);
        },
        onerror: () => { report(session, 'error'); },
      });
    }
    report(session, 'stopped');
  },
};
window.ready = true;
</script>`;

const require = createRequire(import.meta.url);
const folder = (name) => dirname(require.resolve(`${name}/package.json`));
const FILES = {
  '/polyfill.js': join(folder('event-source-polyfill'), 'src/eventsource.js'),
};
for (const name of ['index', 'fetch', 'parse']) {
  // Its modules import one another without the suffix.
  const file = join(folder('@microsoft/fetch-event-source'), 'lib/esm', `${name}.js`);
  FILES[`/fetch-event-source/${name}.js`] = file;
  FILES[`/fetch-event-source/${name}`] = file;
}

/** The page of the add-in, at the port that the relay allows as an origin. */
async function openPage(port) {
  const site = http.createServer((request, response) => {
    const file = FILES[request.url];
    const type = file && extname(file) === '.js' ? 'text/javascript' : 'text/html';
    response.writeHead(file || request.url === '/' ? 200 : 404, { 'Content-Type': type });
    response.end(file ? readFileSync(file) : PAGE);
  });
  await new Promise((listening) => { site.listen(port, '127.0.0.1', listening); });
  site.unref();
  if (!existsSync(BROWSER)) throw new Error('Chromium is missing: apt-get install chromium');
  const browser = await chromium.launch({ executablePath: BROWSER, args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update'] });
  const page = await browser.newPage();
  await page.exposeFunction('report', report);
  await page.goto(`http://127.0.0.1:${port}/`);
  await page.waitForFunction(() => window.ready);
  return { page, browser };
}

function listen(source, session) {
  source.addEventListener('open', () => report(session, 'open'));
  for (const name of EVENTS) source.addEventListener(name, ({ data }) => report(session, name, data));
  source.addEventListener('error', () => report(session, source.readyState === 2 ? 'stopped' : 'error'));
  // LaunchDarkly's alone.
  source.addEventListener('closed', () => report(session, 'stopped'));
}

/** Reports a message; an authenticated one is acknowledged, as the protocol asks. */
function message(session, data, acknowledge) {
  const { type } = JSON.parse(data);
  if (type === 'authenticated') acknowledge('{"type":"ack"}');
  report(session, type, data);
}

const protocols = (token) => ['token-relay.v1', ...(token ? [`bearer.${token}`] : [])];

const CLIENTS = {
  'eventsource'({ session, events_url, token }) {
    const withToken = (url, init) => fetch(url, { ...init, headers: { ...init.headers, Authorization: `Bearer ${token}` } });
    listen(new EventSource(events_url, { fetch: withToken }), session);
  },
  'launchdarkly-eventsource'({ session, events_url, token }) {
    listen(new LaunchDarklyEventSource(events_url, { headers: { Authorization: `Bearer ${token}` } }), session);
  },
  // It does not reconnect: an add-in opens another one after any code that is not final.
  'ws'(request) {
    const { session, websocket_url, token } = request;
    const socket = new WebSocket(websocket_url, protocols(token));
    socket.on('open', () => report(session, 'open'));
    socket.on('message', (data) => message(session, String(data), (text) => socket.send(text)));
    socket.on('error', () => report(session, 'error'));
    socket.on('close', (code) => {
      if (code === 1000 || code >= 4400) return report(session, 'stopped', code);
      setTimeout(() => CLIENTS.ws(request), 500);
    });
  },
  // It comes again after every code until it is closed, so it is closed after a final message.
  'reconnecting-websocket'({ session, websocket_url, token }) {
    const socket = new ReconnectingWebSocket(websocket_url, protocols(token), { WebSocket });
    socket.addEventListener('open', () => report(session, 'open'));
    socket.addEventListener('message', ({ data }) => {
      message(session, data, (text) => socket.send(text));
      socket.close();
    });
    socket.addEventListener('error', () => report(session, 'error'));
    socket.addEventListener('close', ({ code }) => {
      if (code === 1000) report(session, 'stopped', code);
    });
  },
};

const { page, browser } = await openPage(Number(process.argv[2]));
process.stdout.write('ready\n');
for await (const line of readline.createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  if (CLIENTS[request.client]) CLIENTS[request.client](request);
  else await page.evaluate((given) => { window.clients[given.client](given); }, request);
}
await browser.close();
process.exit(0);
