// `polling.js` as docs/meet.md prints it: built by webpack 5 from CommonJS, with the npm package as it is
// published, in an add-in on the origin of the platform, as La Suite Meet serves its own.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import webpack from 'webpack';
import { freePort, launch, logIn, openPage, startDemo, STATIC, until } from './support.mjs';

const SESSIONS = '/api/v1.0/addons/sessions/';
const SECRET = 'a secret of the tests of 32 characters or more';

const html = (body) => `<!doctype html><html lang="en"><meta charset="utf-8"><title>Add-in</title><link rel="icon" href="data:,"><body>${body}`;
const FILES = {
  'package.json': '{"name":"add-in","private":true}',
  'src/common/index.js': 'module.exports = { BASE_URL: window.location.origin };\n',
  'src/taskpane.js': `
const { startPolling } = require('./common/polling');
window.said = [];
window.connect = async () => {
  const answer = await fetch('${SESSIONS}init/', { method: 'POST' });
  const { csrf_token, transit_token } = await answer.json();
  const say = (what) => (value) => window.said.push([what, value?.access_token ?? value?.code ?? value?.message]);
  window.stopPolling = startPolling(csrf_token, { onSuccess: say('success'), onTimeout: say('timeout'), onError: say('error') });
  return transit_token;
};
`,
  'taskpane.html': html('<script src="dist/main.js"></script>'),
  'done.html': html('<p>Done</p>'),
};

let folder;
let platform;
let relay; // the instance that the platform's route leads to
const started = [];
let browser;

/** One origin for the add-in and the relay. Without `streams` it is as after a rollback: Django answers in the relay's place. */
async function startPlatform() {
  const state = { streams: true, asked: [] };
  const server = http.createServer((request, response) => {
    const { pathname } = new URL(request.url, 'http://platform');
    if (pathname.startsWith('/addin/')) {
      const file = join(folder, pathname.slice('/addin/'.length));
      if (!existsSync(file)) return response.writeHead(404).end();
      return response.writeHead(200, { 'content-type': file.endsWith('.js') ? 'text/javascript' : 'text/html' }).end(readFileSync(file));
    }
    if (pathname.startsWith(SESSIONS)) state.asked.push(pathname.slice(SESSIONS.length));
    if (!state.streams && /(events|ws)\/$/.test(pathname)) {
      return response.writeHead(404, { 'content-type': 'text/html; charset=utf-8' }).end('<!doctype html><h1>Not Found</h1>');
    }
    const onward = http.request(new URL(request.url, relay), { method: request.method, headers: request.headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    onward.on('error', () => response.destroy());
    response.on('close', () => onward.destroy());
    request.pipe(onward);
  });
  const sockets = new Set();
  server.on('connection', (socket) => sockets.add(socket.on('close', () => sockets.delete(socket))));
  server.on('upgrade', (request, socket) => {
    state.asked.push('ws/');
    const { hostname, port } = new URL(relay);
    const onward = net.connect(port, hostname, () => {
      const headers = request.rawHeaders.map((text, index) => (index % 2 ? `${text}\r\n` : `${text}: `)).join('');
      onward.write(`GET ${request.url} HTTP/1.1\r\n${headers}\r\n`);
      onward.pipe(socket).pipe(onward);
    });
    for (const each of [onward, socket]) each.on('error', () => { onward.destroy(); socket.destroy(); });
  });
  await new Promise((listening) => { server.listen(0, '127.0.0.1', listening); });
  return Object.assign(state, {
    address: `http://127.0.0.1:${server.address().port}`,
    stop() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  });
}

async function startRelay(environment = {}) {
  const listen = `127.0.0.1:${await freePort()}`;
  const demo = await startDemo({
    TOKEN_RELAY_PUBLIC_URL: platform.address,
    TOKEN_RELAY_MEET_COMPATIBLE: 'true',
    TOKEN_RELAY_MEET_RETURN_TO: `${platform.address}/addin`,
    ADDONS_CSRF_SECRET: SECRET,
    ADDONS_TOKEN_SECRET_KEY: SECRET,
    ...environment,
  }, listen, ['--allow-production']);
  started.push(demo);
  // It prints the address of the platform, which is its public one.
  relay = `http://${listen}`;
}

/** The one program of a section of docs/meet.md. */
function documented(heading) {
  const text = readFileSync(new URL('../../docs/meet.md', import.meta.url), 'utf8');
  const section = text.split(/^## /m).find((part) => part.startsWith(`${heading}\n`));
  const programs = [...section.matchAll(/^```js\n(.*?)^```$/gms)].map(([, program]) => program);
  assert.equal(programs.length, 1, heading);
  return programs[0];
}

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'token-relay-'));
  const packed = execFileSync('npm', ['pack', '--json', '--silent', '--pack-destination', folder], { cwd: `${STATIC}client`, encoding: 'utf8' });
  const tarball = join(folder, JSON.parse(packed.slice(packed.indexOf('[')))[0].filename);
  const modules = join(folder, 'node_modules');
  mkdirSync(modules);
  execFileSync('tar', ['xzf', tarball, '-C', modules]);
  execFileSync('mv', [join(modules, 'package'), join(modules, 'token-relay')]);
  for (const [name, text] of Object.entries({ ...FILES, 'src/common/polling.js': documented('From polling to push') })) {
    mkdirSync(join(folder, dirname(name)), { recursive: true });
    writeFileSync(join(folder, name), text);
  }
  const stats = await promisify(webpack)({
    context: folder, mode: 'production', entry: './src/taskpane.js', output: { path: join(folder, 'dist'), filename: 'main.js' },
  });
  assert.ok(!stats.hasErrors() && !stats.hasWarnings(), stats.toString());
  platform = await startPlatform();
  await startRelay();
  browser = await launch();
});

after(async () => {
  await browser?.close();
  for (const each of started) each.stop();
  platform?.stop();
  if (folder) rmSync(folder, { recursive: true });
});

/** A task pane, and what it has asked the relay for since. */
async function openPane() {
  platform.asked.length = 0;
  const pane = await openPage(browser, `${platform.address}/addin/taskpane.html`);
  return { ...pane, said: () => pane.page.evaluate(() => window.said) };
}

/** The person logs in in another window, whose page then calls `exchange`. */
async function exchange(context, transitToken) {
  const dialog = await context.newPage();
  const returnTo = encodeURIComponent(`${platform.address}/addin/done.html`);
  await dialog.goto(`${platform.address}/api/v1.0/authenticate/?returnTo=${returnTo}`);
  await logIn(dialog, 'alice');
  await dialog.waitForURL(/done\.html/);
  const status = await dialog.evaluate(async ([url, body]) => {
    const [, csrf] = document.cookie.match(/csrftoken=([^;]+)/);
    return (await fetch(url, { method: 'POST', headers: { 'Content-Type': 'application/json', 'X-CSRFToken': csrf }, body })).status;
  }, [`${SESSIONS}exchange/`, JSON.stringify({ transit_token: transitToken })]);
  assert.equal(status, 200);
}

/** The claims of the token that the pane was given. */
async function token({ said }) {
  await until('the pane has its answer', async () => (await said()).length > 0);
  const [[what, value], ...more] = await said();
  assert.deepEqual([what, more], ['success', []], value);
  return JSON.parse(Buffer.from(value.split('.')[1], 'base64url'));
}

test('the token arrives by push', async () => {
  const pane = await openPane();
  const transitToken = await pane.page.evaluate(() => window.connect());
  await until('the stream waits', () => platform.asked.includes('events/'));
  await exchange(pane.context, transitToken);
  assert.equal((await token(pane)).user_id, 'alice');
  assert.deepEqual(platform.asked, ['init/', 'events/', 'exchange/'], 'one stream, no poll');
  assert.deepEqual(pane.troubles, []);
  await pane.context.close();
});

test('after a rollback the same build polls', async () => {
  const pane = await openPane();
  platform.streams = false;
  try {
    const transitToken = await pane.page.evaluate(() => window.connect());
    await until('it polls', () => platform.asked.includes('poll/'));
    await exchange(pane.context, transitToken);
    assert.equal((await token(pane)).user_id, 'alice');
    assert.ok(platform.asked.filter((path) => path === 'events/').length === 1, platform.asked.join());
    assert.ok(!platform.asked.includes('ws/'), platform.asked.join());
  } finally {
    platform.streams = true;
  }
  await pane.context.close();
});

test('a wait that is cancelled says nothing, one that is too long says so', async () => {
  await startRelay({ ADDONS_SESSION_TTL: '2' });
  const cancelled = await openPane();
  await cancelled.page.evaluate(async () => {
    await window.connect();
    window.stopPolling();
  });
  const waiting = await openPane();
  await waiting.page.evaluate(() => window.connect());
  await until('its session has expired', async () => (await waiting.said()).length > 0, 30_000);
  assert.deepEqual(await waiting.said(), [['timeout', undefined]]);
  assert.deepEqual(await cancelled.said(), []);
  await Promise.all([cancelled, waiting].map(({ context }) => context.close()));
});
