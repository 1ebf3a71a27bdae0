// The examples, built and run as their readers would: add-ins in Chromium, each on a site of its own; shell
// and Python scripts.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { launch, logIn, openPage, overflow, SCREENSHOTS, serveFolder, startDemo, STATIC, until, violations } from './support.mjs';

const MODULES = new URL('./node_modules/', import.meta.url).pathname;
const EXAMPLES = `${STATIC}examples/`;
const SCRIPTS = {
  shell: ['sh', `${EXAMPLES}terminal/sign-in.sh`],
  Python: ['python3', `${EXAMPLES}python/sign_in.py`],
};
const OFFICE_JS = 'https://appsforoffice.microsoft.com/lib/1/hosted/office.js';

let browser;
let demo;
let automatic;
let project;
const sites = {};

before(async () => {
  // Each example as its reader has it: a folder alone, with its dependencies beside it.
  project = mkdtempSync(join(tmpdir(), 'token-relay-examples-'));
  for (const name of ['javascript', 'react', 'office']) cpSync(EXAMPLES + name, join(project, name), { recursive: true });
  mkdirSync(join(project, 'react/node_modules'));
  for (const name of readdirSync(MODULES).filter((each) => each !== '.package-lock.json')) symlinkSync(join(MODULES, name), join(project, 'react/node_modules', name));
  symlinkSync(`${STATIC}client`, join(project, 'react/node_modules/token-relay'));
  sites.javascript = await serveFolder(join(project, 'javascript'));
  sites.office = await serveFolder(join(project, 'office'));
  sites.react = await serveFolder(join(project, 'react/dist'));
  demo = await startDemo({ TOKEN_RELAY_ALLOWED_ORIGINS: Object.values(sites).map(({ address }) => address).join(',') });
  // What the READMEs say to change for another relay.
  for (const file of ['javascript/add-in.js', 'office/config.js']) {
    const source = readFileSync(join(project, file), 'utf8');
    const changed = source.replace("RELAY = 'http://127.0.0.1:8080'", `RELAY = '${demo.address}'`);
    assert.notEqual(changed, source);
    writeFileSync(join(project, file), changed);
  }
  automatic = await startDemo({ TOKEN_RELAY_DEMO_AUTO_LOGIN: '1' });
  browser = await launch();
});

after(async () => {
  await browser?.close();
  demo?.stop();
  automatic?.stop();
  for (const site of Object.values(sites)) site.stop();
  if (project) rmSync(project, { recursive: true });
});

const status = (page) => page.textContent('[role=status]');

test('React: the example is checked and built by the commands in its package.json', () => {
  const { scripts, dependencies, devDependencies } = JSON.parse(readFileSync(join(project, 'react/package.json'), 'utf8'));
  // What is tested here is what the example asks for.
  const own = JSON.parse(readFileSync(new URL('./package.json', import.meta.url), 'utf8')).devDependencies;
  for (const [name, wanted] of Object.entries({ ...dependencies, ...devDependencies })) {
    if (name !== 'token-relay') assert.equal(own[name], wanted, name);
  }
  assert.equal(scripts.build, 'tsc && vite build');
  execFileSync('npm', ['run', 'build'], { cwd: join(project, 'react'), stdio: 'pipe', env: { ...process.env, VITE_RELAY: demo.address } });
});

const openExample = (options) => openPage(browser, sites.react.address, options);

async function openDialog(page) {
  const popup = page.waitForEvent('popup');
  await page.click('text="Sign in"');
  return popup;
}

test('React: signs in, shows who it is, signs out', async () => {
  const { context, page, troubles } = await openExample({ viewport: { width: 320, height: 640 } });
  const dialog = await openDialog(page);
  await dialog.waitForSelector('input[name=username]');
  assert.equal(await overflow(page), 0);
  await page.screenshot({ path: `${SCREENSHOTS}react-waiting.png` });
  await logIn(dialog, 'alice');
  await page.waitForSelector('#account');
  assert.equal(await status(page), 'Signed in as Alice Liddell, alice@example.com.');
  assert.equal(await overflow(page), 0);
  await page.screenshot({ path: `${SCREENSHOTS}react-signed-in.png` });
  await page.click('text="Sign out"');
  assert.equal(await status(page), 'Not signed in.');
  assert.deepEqual(troubles, []);
  await context.close();
});

test('React: refused, closed, cancelled', async () => {
  const { context, page, requests } = await openExample();
  let dialog = await openDialog(page);
  await dialog.click('button[value=cancel]');
  await page.getByText('Not signed in: ').waitFor();
  dialog = await openDialog(page);
  await dialog.waitForSelector('input[name=username]');
  await dialog.close();
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
    await openDialog(page);
    await page.waitForSelector('text="Cancel"');
    assert.deepEqual(await violations(page), [], `signing in, ${colorScheme}`);
    await page.setViewportSize({ width: 1280, height: 600 });
    await page.screenshot({ path: `${SCREENSHOTS}react-${colorScheme}.png` });
    await context.close();
  }
});

/** Opens the page of an example, where Office.js is the stub. */
const openAddIn = (name, path, options) => openPage(browser, `${sites[name].address}/${path}`, {
  prepare: (context) => context.route(OFFICE_JS, (route) => route.fulfill({ contentType: 'text/javascript', path: `${STATIC}outlook/office-stub.js` })),
  ...options,
});

for (const [name, path, allow] of [['javascript', '', false], ['react', '', false], ['office', 'taskpane.html', true], ['office', 'taskpane.html?platform=desktop', false]]) {
  const what = `${name}${path && ` (${path})`}`;
  const open = async (page) => {
    const popup = page.waitForEvent('popup');
    await page.click('text="Sign in"');
    if (allow) await page.getByRole('button', { name: 'Allow' }).click();
    return popup;
  };

  test(`${what}: the page signs in and calls an API`, async () => {
    const { context, page, troubles } = await openAddIn(name, path);
    await page.waitForSelector('text="Sign in"');
    const dialog = await open(page);
    await logIn(dialog, 'alice');
    await page.getByText('Signed in as Alice Liddell, alice@example.com.').waitFor();
    assert.deepEqual(await violations(page), []);
    assert.deepEqual(troubles, []);
    await context.close();
  });

  test(`${what}: a page that is reloaded during the login has its token`, async () => {
    const { context, page, requests } = await openAddIn(name, path);
    await page.waitForSelector('text="Sign in"');
    const dialog = await open(page);
    await dialog.waitForSelector('input[name=username]');
    await page.reload();
    await logIn(dialog, 'bob');
    await page.getByText('Signed in as Bob Cratchit, bob@example.com.').waitFor();
    assert.equal(requests.filter((request) => request === 'POST /addons/sessions').length, 1);
    await context.close();
  });
}

test('Office: the start page goes on to the relay and nowhere else', async () => {
  const { context, page } = await openAddIn('office', `dialog.html#${encodeURIComponent('https://elsewhere.example/')}`);
  const failed = [];
  page.on('framenavigated', (frame) => failed.push(frame.url()));
  await page.goto(`${sites.office.address}/dialog.html?2#${encodeURIComponent(`${demo.address}/addons/success`)}`);
  await page.waitForURL(`${demo.address}/addons/success`);
  assert.ok(failed.every((url) => !url.includes('elsewhere.example/') || url.startsWith(sites.office.address)), failed.join(', '));
  await context.close();
});

/** Runs the script; `said` is what it has printed for the person so far. */
function runScript([command, script], ...args) {
  const child = spawn(command, [script, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    // Where the Python example finds its module without an installation.
    env: { ...process.env, PYTHONPATH: new URL('../../client/python/src/', import.meta.url).pathname, PYTHONDONTWRITEBYTECODE: '1' },
  });
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

/** Types the code, and agrees to what the page says of the account. */
async function typeCode(page, code) {
  await page.waitForSelector('#user-code:visible');
  await page.fill('#user-code', code);
  await page.press('#user-code', 'Enter');
  await page.click('main form button');
}

for (const [name, script] of Object.entries(SCRIPTS)) {
  test(`${name}: the script prints the token, and only that`, async () => {
    const run = runScript(script, automatic.address, 'Build server');
    const { address, code } = await run.announced();
    if (name === 'shell') {
      let curl;
      await until('curl waits on the stream', () => {
        curl = childrenOf(run.child.pid).find((line) => line.includes('/events'));
        return curl;
      });
      assert.doesNotMatch(curl, /Bearer/, 'no secret in what every user of the machine sees');
    }
    const { context, page } = await openPage(browser, address);
    await page.waitForSelector('#user-code:visible');
    assert.match(await page.textContent('body'), /Build server/);
    await typeCode(page, code);
    await page.waitForURL(/addons\/success/);
    assert.equal(await run.ended, 0, run.said);
    assert.match(run.token, /^[\w-]+\.[\w-]+\.[\w-]+\n$/);
    assert.match(run.said, /Signed in\./);
    const me = await fetch(`${automatic.address}/addons/me`, { headers: { authorization: `Bearer ${run.token.trim()}` } });
    assert.equal((await me.json()).sub, 'alice');
    await context.close();
  });

  test(`${name}: refused, interrupted, no relay, wrong usage`, async () => {
    const refused = runScript(script, automatic.address);
    const { context, page } = await openPage(browser, (await refused.announced()).address);
    await page.click('button[value=deny]:visible');
    assert.equal(await refused.ended, 1);
    assert.match(refused.said, /Not signed in: access_denied/);

    const interrupted = runScript(script, automatic.address);
    const { address } = await interrupted.announced();
    interrupted.child.kill('SIGINT');
    assert.equal(await interrupted.ended, 1);
    assert.ok([404, 410].includes((await page.goto(address)).status()), 'the session is over at the relay');
    await context.close();

    assert.equal(await runScript(script, 'http://127.0.0.1:9').ended, 3);
    assert.equal(await runScript(script).ended, 2);
    if (name === 'shell') assert.equal(await runScript(script, automatic.address, 'a"b').ended, 2);
    for (const { token } of [refused, interrupted]) assert.equal(token, '');
  });
}

test('scripts: nothing of a hostile relay reaches the terminal but printable text', async (t) => {
  let answer;
  const server = http.createServer((request, response) => response.end(JSON.stringify(answer)));
  await new Promise((listening) => { server.listen(0, '127.0.0.1', listening); });
  t.after(() => server.close());
  const relay = `http://127.0.0.1:${server.address().port}`;
  const honest = {
    session_id: 'S', session_token: 'T', expires_in: 60, user_code: 'BCDF-GHJK', transit_url: `${relay}/transit`, events_url: `${relay}/events`, poll_url: `${relay}/poll`,
  };
  for (const hostile of [
    { transit_url: 'file:///etc/passwd' }, { transit_url: `${relay}/\u001b[2J` }, { transit_url: `${relay}.evil.example/` },
    { events_url: 'http://evil.example/' }, { poll_url: '-o/tmp/x' }, { session_token: 'a b' }, { user_code: '\u001b[2J' }, { user_code: '$(id)' },
  ]) {
    answer = { ...honest, ...hostile };
    for (const [name, script] of Object.entries(SCRIPTS)) {
      const run = runScript(script, relay);
      assert.equal(await run.ended, 3, `${name} ${JSON.stringify(hostile)}`);
      assert.match(run.said, /^[\x20-\x7e\n]*$/);
      assert.equal(run.token, '');
    }
  }
});
