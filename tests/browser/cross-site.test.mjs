// The meet-compatible surface as Outlook on the web uses it: the pane sits in a frame of another
// site, over HTTPS, in a browser that lets third parties keep partitioned cookies only.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';

const BROWSER = '/usr/bin/chromium';
const BINARY = process.env.RELAY_BINARY ?? new URL('../../target/release/token-relay', import.meta.url).pathname;
const PROVIDER = new URL('../support/provider/', import.meta.url).pathname;
const SECRET = 'a secret of the tests of 32 characters or more';

const started = [];
let folder;
let front;
let browser;
let outlook;
let relay;

/** Starts a program and gives its first line of output. */
async function start(command, args, options) {
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'ignore'], ...options });
  started.push(child);
  const lines = createInterface({ input: child.stdout });
  return new Promise((resolve, reject) => {
    lines.once('line', resolve);
    child.once('exit', () => reject(new Error(`${command} ended`)));
  });
}

const page = (body) => `<!doctype html><html lang="en"><meta charset="utf-8"><title>Test</title>${body}`;

/** The pane: `init`, the dialog, then push or, as the old add-in does, polling. */
const pane = page(`<button id="push">Push</button><button id="poll">Poll</button><p id="result"></p>
<script type="module">
import { waitForToken } from '/addons/static/token-relay.js';
const api = '/api/v1.0/addons/sessions/';
const show = (text) => { document.getElementById('result').textContent = text; };
async function startPolling(csrf) {
  for (;;) {
    const answer = await fetch(api + 'poll/', { method: 'POST', credentials: 'include', headers: { 'X-CSRFToken': csrf } });
    if (answer.status === 200) return answer.json();
    if (answer.status !== 202) throw new Error('poll ' + answer.status);
    await new Promise((done) => setTimeout(done, 200));
  }
}
for (const way of ['push', 'poll']) {
  document.getElementById(way).onclick = async () => {
    const dialog = window.open('about:blank', '_blank', 'popup,width=500,height=600');
    const { transit_token, csrf_token } = await (await fetch(api + 'init/', { method: 'POST', credentials: 'include' })).json();
    dialog.location = '/addin/dialog.html#' + transit_token;
    try {
      const token = way === 'push' ? await waitForToken({ baseUrl: location.origin, csrfToken: csrf_token }) : await startPolling(csrf_token);
      show(token.state + ' ' + token.scope);
    } catch (error) { show('error ' + error.message); }
  };
}
</script>`);

/** Keeps the transit token and sends the person to the login. */
const dialog = page(`<script>
sessionStorage.setItem('transit', location.hash.slice(1));
location.replace('/api/v1.0/authenticate/?returnTo=' + encodeURIComponent(location.origin + '/addin/done.html'));
</script>`);

/** Back from the login: exchanges the transit token. */
const done = page(`<p id="exchanged"></p><script>
const csrf = document.cookie.match(/csrftoken=([^;]+)/)[1];
fetch('/api/v1.0/addons/sessions/exchange/', {
  method: 'POST', credentials: 'include', headers: { 'Content-Type': 'application/json', 'X-CSRFToken': csrf },
  body: JSON.stringify({ transit_token: sessionStorage.getItem('transit') }),
}).then((answer) => { document.getElementById('exchanged').textContent = 'exchange ' + answer.status; });
</script>`);

before(async () => {
  assert.ok(existsSync(BROWSER), 'Chromium is missing: apt-get install chromium');
  assert.ok(existsSync(BINARY), `${BINARY} is missing: cargo build`);
  assert.ok(existsSync(join(PROVIDER, 'node_modules')), 'run `npm ci` in tests/support/provider');
  folder = mkdtempSync(join(tmpdir(), 'token-relay-'));
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
    '-subj', '/CN=relay.example', '-addext', 'subjectAltName=DNS:relay.example,DNS:outlook.example',
    '-keyout', join(folder, 'key.pem'), '-out', join(folder, 'cert.pem')], { stdio: 'ignore' });

  // One HTTPS server for both names, as a proxy in front of the relay and a host of static pages.
  let relayPort;
  front = https.createServer({ key: readFileSync(join(folder, 'key.pem')), cert: readFileSync(join(folder, 'cert.pem')) }, (request, response) => {
    const pages = { '/addin/pane.html': pane, '/addin/dialog.html': dialog, '/addin/done.html': done };
    const own = request.headers.host.startsWith('outlook') ? page(`<h1>Outlook</h1><iframe src="${relay}/addin/pane.html" width="400" height="300"></iframe>`) : pages[request.url];
    if (own) {
      response.setHeader('content-type', 'text/html; charset=utf-8');
      return response.end(own);
    }
    const onward = http.request({ port: relayPort, host: '127.0.0.1', method: request.method, path: request.url, headers: request.headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    onward.on('error', () => response.destroy());
    response.on('close', () => onward.destroy());
    request.pipe(onward);
  });
  await new Promise((listening) => { front.listen(0, '127.0.0.1', listening); });
  const { port } = front.address();
  relay = `https://relay.example:${port}`;
  outlook = `https://outlook.example:${port}`;

  const { issuer } = JSON.parse(await start('node', ['--no-warnings', 'server.mjs'], { cwd: PROVIDER }));
  await fetch(`${issuer}/test/redirect-uri`, { method: 'POST', body: `${relay}/api/v1.0/callback/` });
  const line = await start(BINARY, ['serve'], {
    env: {
      TOKEN_RELAY_LISTEN: '127.0.0.1:0',
      TOKEN_RELAY_PUBLIC_URL: relay,
      TOKEN_RELAY_OIDC_ISSUER: issuer,
      TOKEN_RELAY_OIDC_CLIENT_ID: 'token-relay',
      TOKEN_RELAY_OIDC_CLIENT_SECRET: 'a secret of the tests alone',
      ADDONS_ENABLED: 'true',
      ADDONS_CSRF_SECRET: SECRET,
      ADDONS_TOKEN_SECRET_KEY: SECRET,
      TOKEN_RELAY_MEET_RETURN_TO: `${relay}/addin`,
    },
  });
  relayPort = Number(line.match(/:(\d+)$/)[1]);
  browser = await chromium.launch({
    executablePath: BROWSER,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
      '--host-resolver-rules=MAP *.example 127.0.0.1', '--test-third-party-cookie-phaseout'],
  });
});

after(async () => {
  await browser?.close();
  front?.closeAllConnections();
  front?.close();
  for (const child of started) child.kill();
  if (folder) rmSync(folder, { recursive: true });
});

for (const way of ['push', 'poll']) {
  test(`the pane in a foreign frame signs in by ${way}`, async () => {
    const context = await browser.newContext({ ignoreHTTPSErrors: true });
    const top = await context.newPage();
    await top.goto(outlook);
    const frame = top.frameLocator('iframe');
    const opened = context.waitForEvent('page');
    await frame.locator(`#${way}`).click();
    const popup = await opened;
    await popup.waitForSelector('input[name=username]');
    await popup.fill('input[name=username]', 'alice');
    await popup.fill('input[name=password]', 'alice');
    await popup.click('button[value=sign-in]');
    await popup.getByText('exchange 200').waitFor();
    await frame.getByText('authenticated rooms:create').waitFor();
    const cookies = await context.cookies(relay);
    const partitioned = cookies.filter((cookie) => cookie.partitionKey?.includes('outlook.example'));
    if (way === 'push') {
      assert.deepEqual(partitioned.map((cookie) => cookie.name), ['addonsSid'], JSON.stringify(cookies));
      assert.ok(partitioned[0].secure && partitioned[0].httpOnly && partitioned[0].sameSite === 'None');
    } else {
      assert.deepEqual(partitioned, [], 'the poll cleared it');
    }
    await context.close();
  });
}
