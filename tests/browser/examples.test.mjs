// The examples, built and run as their readers would: the React hook with esbuild in Chromium, the
// shell script with curl.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { launch, logIn, openPage, overflow, SCREENSHOTS, serveFolder, startDemo, STATIC, until, violations } from './support.mjs';

const MODULES = new URL('./node_modules/', import.meta.url).pathname;
const SCRIPT = `${STATIC}examples/terminal/sign-in.sh`;

let browser;
let demo;
let automatic;
let site;
let project;

before(async () => {
  // The example as it is checked out alone, with its dependencies beside it.
  project = mkdtempSync(join(tmpdir(), 'token-relay-react-'));
  cpSync(`${STATIC}examples/react/`, project, { recursive: true });
  mkdirSync(join(project, 'node_modules'));
  for (const name of ['react', 'react-dom', 'scheduler', '@types', 'csstype']) symlinkSync(join(MODULES, name), join(project, 'node_modules', name));
  symlinkSync(`${STATIC}client`, join(project, 'node_modules', 'token-relay'));
  site = await serveFolder(project);
  demo = await startDemo({ TOKEN_RELAY_ALLOWED_ORIGINS: site.address });
  automatic = await startDemo({ TOKEN_RELAY_DEMO_AUTO_LOGIN: '1' });
  browser = await launch();
});

after(async () => {
  await browser?.close();
  demo?.stop();
  automatic?.stop();
  site?.stop();
  if (project) rmSync(project, { recursive: true });
});

test('React: the example compiles by its types and is built by the command in its package.json', () => {
  const { scripts, dependencies, devDependencies } = JSON.parse(readFileSync(join(project, 'package.json'), 'utf8'));
  // What is tested here is what the example asks for.
  const own = JSON.parse(readFileSync(new URL('./package.json', import.meta.url), 'utf8')).devDependencies;
  for (const [name, wanted] of Object.entries({ ...dependencies, ...devDependencies })) {
    if (name !== 'token-relay') assert.equal(own[name].split('.')[0], wanted.split('.')[0], name);
  }
  const compile = () => execFileSync(process.execPath, [join(MODULES, 'typescript/bin/tsc'), '--noEmit', '--strict', '--noUncheckedIndexedAccess', '--target', 'es2022', '--lib', 'es2022,dom',
    '--module', 'esnext', '--moduleResolution', 'bundler', '--jsx', 'react-jsx', 'main.tsx'], { cwd: project, encoding: 'utf8' });
  assert.equal(compile(), '');
  const [command, ...options] = scripts.build.split(' ');
  assert.equal(command, 'esbuild');
  execFileSync(join(MODULES, '.bin/esbuild'), options, { cwd: project, stdio: 'pipe' });
});

const openExample = (options) => openPage(browser, `${site.address}/?relay=${demo.address}`, options);

test('React: signs in, shows who it is, signs out', async () => {
  const { context, page, troubles } = await openExample({ viewport: { width: 320, height: 640 } });
  const popup = page.waitForEvent('popup');
  await page.click('text="Sign in"');
  const dialog = await popup;
  const code = await page.textContent('#user-code');
  await dialog.waitForSelector('button[value=continue]');
  assert.match(await dialog.textContent('body'), new RegExp(code));
  assert.equal(await overflow(page), 0);
  await page.screenshot({ path: `${SCREENSHOTS}react-waiting.png` });
  await dialog.click('button[value=continue]');
  await logIn(dialog, 'alice');
  await page.waitForSelector('#account');
  assert.equal(await page.textContent('[role=status]'), 'Signed in as Alice Liddell, alice@example.com.');
  assert.equal(await overflow(page), 0);
  await page.screenshot({ path: `${SCREENSHOTS}react-signed-in.png` });
  await page.click('text="Sign out"');
  assert.equal(await page.textContent('[role=status]'), 'Not signed in.');
  assert.deepEqual(troubles, []);
  await context.close();
});

test('React: refused, closed, cancelled', async () => {
  const { context, page, requests } = await openExample();
  const open = async () => {
    const popup = page.waitForEvent('popup');
    await page.click('text="Sign in"');
    return popup;
  };
  let dialog = await open();
  await dialog.click('button[value=deny]');
  await page.getByText('Not signed in: ').waitFor();
  dialog = await open();
  await dialog.waitForSelector('button[value=continue]');
  await dialog.close();
  await page.getByText('The window was closed.').waitFor();
  await page.click('text="Cancel"');
  await page.getByText('Not signed in.').waitFor();
  const ended = () => requests.filter((request) => request.startsWith('DELETE')).length;
  await until('the cancelled session is ended', () => ended() === 1);
  await context.close();
});

test('React: the page is accessible in light and dark', async () => {
  for (const colorScheme of ['light', 'dark']) {
    const { context, page } = await openExample({ colorScheme });
    await page.waitForSelector('text="Sign in"');
    assert.deepEqual(await violations(page), [], `signed out, ${colorScheme}`);
    const popup = page.waitForEvent('popup');
    await page.click('text="Sign in"');
    await popup;
    await page.waitForSelector('#user-code');
    assert.deepEqual(await violations(page), [], `signing in, ${colorScheme}`);
    await page.setViewportSize({ width: 1280, height: 600 });
    await page.screenshot({ path: `${SCREENSHOTS}react-${colorScheme}.png` });
    await context.close();
  }
});

/** Runs the script; `said` is what it has printed for the person so far. */
function runScript(...args) {
  const child = spawn('sh', [SCRIPT, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  const run = { child, said: '', token: '' };
  child.stdout.on('data', (bytes) => { run.token += bytes; });
  child.stderr.on('data', (bytes) => { run.said += bytes; });
  run.ended = new Promise((resolve) => { child.on('close', resolve); });
  run.announced = async () => {
    await until('the address is printed', () => /code [A-Z]{4}-[A-Z]{4}/.test(run.said) || child.exitCode !== null);
    return { address: /http\S+/.exec(run.said)[0], code: /code ([A-Z]{4}-[A-Z]{4})/.exec(run.said)[1] };
  };
  return run;
}

/** Command lines of the processes that `pid` has started. */
function childrenOf(pid) {
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name)).flatMap((name) => {
    try {
      const [, parent] = /\) \S (\d+)/.exec(readFileSync(`/proc/${name}/stat`, 'utf8'));
      return Number(parent) === pid ? [readFileSync(`/proc/${name}/cmdline`, 'utf8')] : [];
    } catch {
      return []; // it has ended
    }
  });
}

test('terminal: the script prints the token, and only that', async () => {
  const run = runScript(automatic.address, 'Build server');
  const { address, code } = await run.announced();
  let curl;
  await until('curl waits on the stream', () => {
    curl = childrenOf(run.child.pid).find((line) => line.includes('/events'));
    return curl;
  });
  assert.doesNotMatch(curl, /Bearer/, 'no secret in what every user of the machine sees');
  const { context, page } = await openPage(browser, address);
  assert.match(await page.textContent('body'), new RegExp(`${code}[\\s\\S]*Build server|Build server[\\s\\S]*${code}`));
  await page.click('button[value=continue]');
  await page.waitForURL(/addons\/success/);
  assert.equal(await run.ended, 0, run.said);
  assert.match(run.token, /^[\w-]+\.[\w-]+\.[\w-]+\n$/);
  assert.match(run.said, /Signed in\./);
  const me = await fetch(`${automatic.address}/addons/me`, { headers: { authorization: `Bearer ${run.token.trim()}` } });
  assert.equal((await me.json()).sub, 'alice');
  await context.close();
});

test('terminal: refused, interrupted, no relay, wrong usage', async () => {
  const refused = runScript(automatic.address);
  const { context, page } = await openPage(browser, (await refused.announced()).address);
  await page.click('button[value=deny]');
  assert.equal(await refused.ended, 1);
  assert.match(refused.said, /Not signed in: access_denied/);

  const interrupted = runScript(automatic.address);
  const { address } = await interrupted.announced();
  interrupted.child.kill('SIGINT');
  assert.equal(await interrupted.ended, 1);
  assert.ok([404, 410].includes((await page.goto(address)).status()), 'the session is over at the relay');
  await context.close();

  assert.equal(await runScript('http://127.0.0.1:9').ended, 3);
  assert.equal(await runScript().ended, 2);
  assert.equal(await runScript(automatic.address, 'a"b').ended, 2);
  for (const { token } of [refused, interrupted]) assert.equal(token, '');
});

test('terminal: nothing of a hostile relay reaches the terminal but printable text', async (t) => {
  let answer;
  const server = http.createServer((request, response) => response.end(JSON.stringify(answer)));
  await new Promise((listening) => { server.listen(0, '127.0.0.1', listening); });
  t.after(() => server.close());
  const relay = `http://127.0.0.1:${server.address().port}`;
  const honest = {
    session_token: 'T', user_code: 'BCDF-GHJK', transit_url: `${relay}/transit`, events_url: `${relay}/events`, poll_url: `${relay}/poll`,
  };
  for (const hostile of [
    { transit_url: 'file:///etc/passwd' }, { transit_url: `${relay}/\u001b[2J` }, { transit_url: `${relay}.evil.example/` },
    { events_url: 'http://evil.example/' }, { poll_url: '-o/tmp/x' }, { session_token: 'a b' }, { user_code: '\u001b[2J' }, { user_code: '$(id)' },
  ]) {
    answer = { ...honest, ...hostile };
    const run = runScript(relay);
    assert.equal(await run.ended, 3, JSON.stringify(hostile));
    assert.match(run.said, /^[\x20-\x7e\n]*$/);
    assert.equal(run.token, '');
  }
});
