// Honest people get through: every way in which an add-in opens the dialog, in Chromium, with the pages of
// the relay that the person sees and the clicks that the person makes counted and printed.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { createSession, html, Network } from './network.mjs';
import { startProvider } from '../support/provider/in_process.mjs';
import { logIn, STATIC, until } from './support.mjs';

let network;
let usual; // the defaults of `serve`, with origins
let code; // the code is a proof too; Office.js is configured
let cut; // a provider whose pages cut the window off from its opener
let severing;
const counted = [];

const PANE = html(`<button id="sign-in">Sign in</button><p id="code"></p><p id="result"></p>
<script type="module">
  import { resumeSignIn, signIn } from '/token-relay.js';
  import { officeDialog } from '/office.js';
  const query = new URLSearchParams(location.search);
  const way = query.get('way');
  window.steps = [];
  window.carried = [];
  addEventListener('message', ({ data }) => { if (data?.officeStub) window.carried.push(data.message); });
  const ways = {
    start: (url) => (window.dialog = open('/start#' + encodeURIComponent(url), '_blank', 'popup')),
    redirect: (url) => (window.dialog = open('/redirect?to=' + encodeURIComponent(url), '_blank', 'popup')),
    scanned: async (url) => {
      window.link = url;
      await new Promise((scanned) => { window.onscanned = scanned; });
      return open(url, '_blank', 'popup');
    },
    office: officeDialog({ startPage: '/office/dialog.html' }),
  };
  function onProgress({ step, userCode }) {
    window.steps.push(step);
    if (step === 'code') document.getElementById('code').textContent = userCode;
    const until = Date.now() + 3000;
    if (step === 'dialog' && way === 'busy') while (Date.now() < until);
  }
  async function show(signingIn) {
    const result = document.getElementById('result');
    try {
      const token = await signingIn;
      if (!token) return;
      const { sub } = await (await fetch(query.get('relay') + '/addons/me', { headers: { authorization: 'Bearer ' + token.access_token } })).json();
      result.textContent = 'signed in as ' + sub;
    } catch (error) { result.textContent = error.code + ': ' + error.message; }
  }
  document.getElementById('sign-in').onclick = () => show(signIn({ baseUrl: query.get('relay'), clientName: 'Notes', openDialog: ways[way], onProgress }));
  if (way === 'office') await Office.onReady();
  document.title = 'ready';
</script>`, '<script>if (location.search.includes("platform=")) document.write("<script src=/office-stub.js><\\/script>");</script>');

before(async () => {
  const names = ['login.corp.localhost', 'code.corp.localhost', 'cut.corp.localhost'];
  network = await Network.start(...names);
  network.clientFiles();
  const sites = ['pane.localhost', 'pane.corp.localhost', 'strict.localhost', 'popups.localhost'];
  const origins = sites.map((name) => network.origin(name)).join(',');
  usual = await network.relay(names[0], { TOKEN_RELAY_ALLOWED_ORIGINS: origins });
  code = await network.relay(names[1], {
    TOKEN_RELAY_ALLOWED_ORIGINS: origins,
    TOKEN_RELAY_PROOFS: 'browser opener code',
    TOKEN_RELAY_OFFICE_JS_URL: `${network.origin('pane.localhost')}/office-stub.js`,
  });
  severing = await startProvider([`${network.origin(names[2])}/callback`], { 'cross-origin-opener-policy': 'same-origin' });
  cut = await network.relay(names[2], { TOKEN_RELAY_ALLOWED_ORIGINS: origins }, severing);
  network.page('*', PANE, { path: '/pane' });
  network.page('strict.localhost', PANE, { path: '/pane', headers: { 'cross-origin-opener-policy': 'same-origin' } });
  network.page('popups.localhost', PANE, { path: '/pane', headers: { 'cross-origin-opener-policy': 'same-origin-allow-popups' } });
  network.page('*', html('<script>location.replace(decodeURIComponent(location.hash.slice(1)));</script>'), { path: '/start' });
  network.page('*', html('', '<script>location.replace(new URLSearchParams(location.search).get("to"));</script>'), { path: '/redirect' });
  network.page('*', html(`<iframe style="width:400px;height:300px" src="${network.origin('pane.localhost')}/pane?relay=${encodeURIComponent(usual.origin)}"></iframe>`), { path: '/host' });
  const example = (name) => readFileSync(`${STATIC}examples/office/${name}`, 'utf8');
  network.page('*', example('dialog.html'), { path: '/office/dialog.html' });
  network.page('*', example('dialog.js'), { path: '/office/dialog.js', type: 'text/javascript' });
  network.page('*', `export const RELAY = ${JSON.stringify(code.origin)};`, { path: '/office/config.js', type: 'text/javascript' });
});

after(async () => {
  await network?.stop();
  severing?.stop();
  console.table(Object.fromEntries(counted.map(({ way, ...row }) => [way, row])));
});

/** A pane; `click` presses its button and gives the window that opens. */
async function start(context, { relay, site = 'pane.localhost', path = '/pane', query = '', frame: framed, page = undefined }) {
  const opened = page ?? await context.newPage();
  await opened.goto(`${network.origin(site)}${path}?relay=${encodeURIComponent(relay.origin)}${query}`);
  const frame = framed ? opened.frames().find((each) => each.url().startsWith(network.origin(framed))) : opened;
  await frame.waitForFunction(() => document.title === 'ready');
  let clicks = 0;
  const pages = [];
  const watch = (each) => each.on('framenavigated', (navigated) => {
    const { origin, pathname } = new URL(navigated.url());
    if (navigated === each.mainFrame() && origin === relay.origin && pathname.startsWith('/addons/')) pages.push(pathname.split('/')[2]);
  });
  context.on('page', watch);
  return {
    page: opened,
    frame,
    pages,
    async press(where, selector) {
      clicks += 1;
      await where.click(selector);
    },
    async click() {
      const dialog = context.waitForEvent('page');
      await this.press(frame, '#sign-in');
      return dialog;
    },
    async result() {
      // Asked from here: a page in the background draws no frames, by which Playwright would wait.
      await until('the end of the sign-in', () => frame.textContent('#result'), 20_000);
      return frame.textContent('#result');
    },
    async signedIn(user) {
      assert.equal(await this.result(), `signed in as ${user}`);
    },
    /** Writes down what the person saw and did. */
    count(way, expected) {
      const found = { pages: pages.filter((name, index) => name !== pages[index - 1]), clicks };
      counted.push({ way, 'pages of the relay': found.pages.join(', '), 'clicks, that in the add-in included': clicks });
      assert.deepEqual(found, expected, way);
    },
  };
}

/** The browser of somebody who is logged in at the provider. */
const person = async (options) => network.browser.newContext({ ...options, storageState: { cookies: [await network.provider.loggedIn('alice')], origins: [] } });

describe('one click', { concurrency: 4 }, () => {
  for (const [way, options, expected] of [
    ['own site', { site: 'login.corp.localhost', relay: () => usual }, ['success']],
    ['another name of the relay\'s site', { site: 'pane.corp.localhost', relay: () => usual }, ['success']],
    ['registered foreign site, popup', { relay: () => usual }, ['transit', 'success']],
    ['registered foreign site, the code allowed too', { relay: () => code }, ['transit', 'success']],
    ['first page of the add-in that goes on by script', { query: '&way=start', relay: () => usual }, ['transit', 'success']],
    ['first page of the add-in that redirects', { query: '&way=redirect', relay: () => usual }, ['transit', 'success']],
    ['pane in a frame of a foreign site', { site: 'host.localhost', path: '/host', frame: 'pane.localhost', relay: () => usual }, ['transit', 'success']],
    ['pane that answers after 3 s, when the code is offered already', { query: '&way=busy', relay: () => code }, ['transit', 'success']],
    ['COOP same-origin-allow-popups on the pane', { site: 'popups.localhost', relay: () => usual }, ['transit', 'success']],
    ['COOP same-origin on a pane of the relay\'s site', { site: 'login.corp.localhost', path: '/isolated', relay: () => usual }, ['success']],
  ]) {
    test(way, async () => {
      if (options.path === '/isolated') network.page('login.corp.localhost', PANE, { path: '/isolated', headers: { 'cross-origin-opener-policy': 'same-origin' } });
      const context = await person();
      const pane = await start(context, { ...options, relay: options.relay() });
      await pane.click();
      await pane.signedIn('alice');
      await until('the last page', () => pane.pages.at(-1) === 'success');
      pane.count(way, { pages: expected, clicks: 1 });
      await context.close();
    });
  }
});

/** Types the code that the pane shows, in its form, and answers the question after the login. */
async function typeCode(pane, dialog, typed = (text) => text) {
  await pane.frame.waitForFunction(() => document.getElementById('code').textContent);
  await dialog.waitForSelector('#user-code:visible');
  await dialog.fill('#user-code', typed(await pane.frame.textContent('#code')));
  await pane.press(dialog, '#code button:not(.quiet)');
  await dialog.waitForURL(/interaction/);
  await dialog.click('#choose');
  await dialog.waitForSelector('button[value=continue]:enabled');
  await pane.press(dialog, 'button[value=continue]');
}

describe('by the code', { concurrency: 4 }, () => {
  test('COOP same-origin on a foreign pane, which shows the code', async () => {
    const context = await person();
    const pane = await start(context, { site: 'strict.localhost', relay: code });
    await typeCode(pane, await pane.click());
    await pane.signedIn('alice');
    await until('the last page', () => pane.pages.at(-1) === 'success');
    pane.count('COOP same-origin on a foreign pane: the code', { pages: ['transit', 'redirect', 'success'], clicks: 3 });
    await context.close();
  });

  test('where the client may not use the code, the page says so after 10 s, and the log names client and setting', async () => {
    const context = await person();
    const pane = await start(context, { site: 'strict.localhost', relay: usual });
    const dialog = await pane.click();
    await dialog.waitForSelector('#waiting:visible');
    await dialog.waitForLoadState('load'); // the style sheet hides the rest
    assert.equal(await dialog.isVisible('#stuck'), false);
    const began = Date.now();
    await dialog.waitForSelector('#stuck:visible');
    assert.ok(Date.now() - began > 8_000);
    assert.match(await dialog.textContent('#stuck'), /does not answer.*PROOFS/s);
    assert.equal(await dialog.locator('input[name=user_code]').count(), 0);
    await until('the log names client and setting', () => /waits for its opener.*client="Notes".*setting="PROOFS"/.test(usual.log));
    assert.equal(await pane.frame.textContent('#result'), '', 'the add-in still waits');
    await context.close();
  });

  test('without JavaScript', async () => {
    const context = await person({ javaScriptEnabled: false });
    const session = await createSession(code.origin, { bind: true, client_name: 'Notes' });
    const dialog = await context.newPage();
    await dialog.goto(session.transit_url);
    await dialog.fill('#user-code', session.user_code.toLowerCase());
    await dialog.click('#code button:not(.quiet)');
    await dialog.waitForURL(/interaction/);
    await dialog.click('#choose');
    await dialog.click('button[value=continue]');
    await dialog.waitForURL(/addons\/success/);
    counted.push({ way: 'JavaScript off: the code', 'pages of the relay': 'transit, redirect, success', 'clicks, that in the add-in included': 3 });
    // Where the code is no proof, the page says so at once.
    const stuck = await createSession(usual.origin, { bind: true, client_name: 'Notes' });
    await dialog.goto(stuck.transit_url);
    assert.match(await dialog.innerText('main'), /JavaScript is off/);
    assert.equal(await dialog.isVisible('#waiting'), false);
    await context.close();
  });

  test('Back and reload at every step', async () => {
    const context = await network.browser.newContext();
    const pane = await start(context, { site: 'strict.localhost', relay: code });
    const dialog = await pane.click();
    await dialog.waitForSelector('#user-code:visible');
    await dialog.reload();
    await dialog.waitForSelector('#user-code:visible');
    await dialog.fill('#user-code', await pane.frame.textContent('#code'));
    await dialog.press('#user-code', 'Enter');
    await dialog.waitForSelector('input[name=username]');
    await dialog.reload();
    await dialog.goBack(); // to the page of the code, which goes on: its proof is given
    await dialog.waitForSelector('input[name=username]');
    await logIn(dialog, 'carol');
    await dialog.waitForSelector('#question');
    await dialog.reload();
    await dialog.waitForSelector('#question');
    await dialog.goBack();
    await dialog.goForward();
    await dialog.waitForSelector('#question');
    await dialog.click('button[value=continue]');
    await dialog.waitForURL(/addons\/success/);
    await pane.signedIn('carol');
    await dialog.reload();
    assert.match(await dialog.textContent('main'), /Carol Example/);
    await dialog.goBack(); // to the question, which is answered
    await dialog.waitForURL(/addons\/success/);
    await context.close();
  });
});

test('Back and reload where the proof came by itself', async () => {
  for (const site of ['login.corp.localhost', 'pane.localhost']) {
    const context = await network.browser.newContext();
    const pane = await start(context, { site, relay: usual });
    const dialog = await pane.click();
    await dialog.waitForSelector('input[name=username]');
    await dialog.reload();
    await dialog.goBack();
    if (!/interaction/.test(dialog.url())) await dialog.goForward();
    await dialog.waitForSelector('input[name=username]');
    await logIn(dialog, 'bob');
    await dialog.waitForURL(/addons\/success/);
    await pane.signedIn('bob');
    await context.close();
  }
});

test('two panes in one browser, two accounts', async () => {
  const context = await network.browser.newContext();
  const panes = [await start(context, { relay: usual }), await start(context, { site: 'pane.corp.localhost', relay: usual })];
  const dialogs = [await panes[0].click(), await panes[1].click()];
  for (const dialog of dialogs) await dialog.waitForSelector('input[name=username]');
  await logIn(dialogs[1], 'bob');
  await panes[1].signedIn('bob');
  await logIn(dialogs[0], 'alice');
  await panes[0].signedIn('alice');
  await context.close();
});

test('scanners that fetch the link before and after the person harm nobody', async () => {
  for (const relay of [usual, code]) {
    const context = await person();
    const pane = await start(context, { query: '&way=scanned', relay });
    await pane.press(pane.frame, '#sign-in');
    const link = await (await pane.frame.waitForFunction(() => window.link)).jsonValue();
    for (const method of ['GET', 'HEAD', 'GET']) assert.ok((await network.scan(link, method)).status < 500);
    const other = await network.browser.newContext(); // one that runs scripts
    await (await other.newPage()).goto(link);
    await other.close();
    await pane.frame.evaluate(() => window.onscanned());
    await pane.signedIn('alice');
    assert.equal((await network.scan(link)).status, 409, 'used, says the page');
    const me = await pane.page.evaluate(() => document.getElementById('result').textContent);
    assert.equal(me, 'signed in as alice');
    await context.close();
  }
});

test('a provider whose pages cut the window off from its opener', async () => {
  const context = await network.browser.newContext();
  const pane = await start(context, { query: '&way=start', relay: cut });
  const dialog = await pane.click();
  await dialog.waitForSelector('input[name=username]');
  // What breaks sign-ins that end with a message from the popup to its opener:
  assert.equal(await dialog.evaluate(() => window.opener), null, 'the popup has lost its opener');
  await until('the opener takes the popup for closed', () => pane.frame.evaluate(() => window.dialog.closed));
  assert.equal(dialog.isClosed(), false);
  await logIn(dialog, 'alice');
  await pane.signedIn('alice');
  await until('the last page', () => pane.pages.at(-1) === 'success');
  pane.count('COOP same-origin at the provider', { pages: ['transit', 'success'], clicks: 1 });
  await context.close();
});

for (const [platform, asks] of [['web', true], ['desktop', false]]) {
  test(`a foreign task pane of Office, ${platform} (a stub stands in for Office.js)`, async () => {
    const context = await person();
    const pane = await start(context, { query: `&way=office&platform=${platform}`, relay: code });
    const opened = context.waitForEvent('page');
    await pane.press(pane.frame, '#sign-in');
    if (asks) await pane.press(pane.frame, 'dialog button');
    const dialog = await opened;
    await pane.signedIn('alice');
    await until('the last page', () => pane.pages.at(-1) === 'success');
    assert.ok(await pane.frame.evaluate(() => window.steps.includes('proved')));
    const carried = await pane.frame.evaluate(() => window.carried.some((message) => message.includes('token-relay:ready')));
    assert.equal(carried, platform === 'desktop', 'Office.js carries the challenge where there is no opener');
    if (!dialog.isClosed()) await dialog.waitForEvent('close');
    pane.count(`Office, ${platform} (stub)`, { pages: ['transit', 'success'], clicks: asks ? 2 : 1 });
    await context.close();
  });
}

test('an add-in from an origin that nobody allowed learns its origin and the setting, and the log says so once a minute', async () => {
  const context = await person();
  for (const [bind, times] of [[true, 1], [true, 1], [false, 1]]) {
    const page = await context.newPage();
    await page.goto(`${network.origin('stranger.localhost')}/pane?relay=${encodeURIComponent(usual.origin)}`);
    const message = await page.evaluate(async ({ baseUrl, ...options }) => {
      const { signIn } = await import('/token-relay.js');
      return signIn({ baseUrl, openDialog: () => {}, ...options }).catch((error) => `${error.code}: ${error.message}`);
    }, { baseUrl: usual.origin, bind });
    assert.match(message, /^origin_not_allowed: /);
    assert.ok(message.includes(network.origin('stranger.localhost')) && message.includes('ALLOWED_ORIGINS'), message);
    const lines = () => usual.log.split('\n').filter((line) => line.includes('origin not allowed') && line.includes('stranger.localhost'));
    await until('the log', () => lines().length >= times);
    assert.equal(lines().length, times);
    assert.match(lines()[0], /setting="ALLOWED_ORIGINS"/);
  }
  await context.close();
});
