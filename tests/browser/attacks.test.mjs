// Attackers get nothing: a website, its server and a sibling of the relay's site try every way to have the
// token of a visitor who is logged in at the provider already, against each kind of session. The visitor
// goes along with everything, but types no code of the attacker.
import assert from 'node:assert/strict';
import { createHash, createHmac } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { Attacker, html, Network, send } from './network.mjs';
import { logIn, until } from './support.mjs';

const TOO_LONG = 25_000; // ms
const SETTLED = 800; // ms without any change, then nothing more comes
const CODE_OFFERED = 2300; // ms after which the first page has offered the code

let network;
let strict; // the defaults of `serve`, with origins; and the Meet-compatible surface
let open; // clients that may use the code and legacy sessions, and a dialog for Office
let never; // CONFIRMATION=never
let browserIds; // the visitor's cookies at the relays

const button = (page) => page.locator('main button:visible:enabled:not(.quiet)').first();

/** The visitor: a browser that has signed in before. */
async function visitor() {
  return network.browser.newContext({ storageState: { cookies: [...browserIds, await network.provider.loggedIn('alice')], origins: [] } });
}

/** Clicks and logs in wherever that is asked for, until `reached`, and then until nothing changes any more. Where `consents`, also answers yes to every question of the relay, which for legacy sessions is the proof itself. */
async function goAlong(context, consents, reached = () => true, atLeast = 0) {
  const began = Date.now();
  let changed = began;
  let last = '';
  while (!(await reached()) || Date.now() - changed < SETTLED || Date.now() - began < atLeast) {
    assert.ok(Date.now() - began < TOO_LONG, `the visitor ends up elsewhere: ${last}`);
    for (const page of context.pages()) {
      // A page that has just gone elsewhere is looked at in the next round.
      await act(page, consents).catch(() => {});
    }
    const now = context.pages().map((page) => page.url()).join(' ');
    if (now !== last) changed = Date.now();
    last = now;
    await new Promise((again) => { setTimeout(again, 100); });
  }
}

async function act(page, consents) {
  const { origin } = new URL(page.url());
  if (origin === network.provider.issuer) {
    if (await page.isVisible('#choose')) await page.click('#choose', { timeout: 500 });
    else if (await page.isVisible('#log-in')) await logIn(page, 'alice');
  } else if (consents && [strict, open, never].some((relay) => relay.origin === origin) && await button(page).count()) {
    await button(page).click({ timeout: 500 });
  }
}

const shown = async (context) => {
  const pages = [];
  for (const page of context.pages()) {
    if ([strict, open, never].some((relay) => page.url().startsWith(relay.origin))) pages.push(await page.evaluate(() => document.documentElement.dataset.status ?? '').catch(() => ''));
  }
  return pages;
};

/** Opens a page of the attacker, whose visitor clicks its button: a gesture, with which windows may be opened. */
async function lure(context, script, { site = 'attacker.localhost', body = '', head = '', headers } = {}) {
  const url = network.page(site, html(`${body}<button id="lure" style="position:fixed;inset:0;width:100%;height:100%">Win a prize</button>
    <script type="module">
      window.heard = [];
      addEventListener('message', ({ origin, data }) => heard.push({ origin, data }));
      document.getElementById('lure').onclick = async () => { ${script} };
    </script>`, head), { headers });
  const page = await context.newPage();
  await page.goto(url);
  await page.click('#lure', { noWaitAfter: true });
  return page;
}

const SPECULATE = (rules) => `
  const rules = document.createElement('script');
  rules.type = 'speculationrules';
  rules.textContent = JSON.stringify(${JSON.stringify(rules)});
  document.head.append(rules);`;

/** Posts guesses to every step of the dialog, from a form with each enctype. */
const FORMS = (relay, fields) => `
  const steps = ${JSON.stringify(['transit/', 'transit/proof', 'transit/code', 'transit/confirm', 'account', 'success', 'sessions'].map((step) => `${relay}/addons/${step}`))};
  for (const [index, action] of steps.entries()) {
    const frame = Object.assign(document.createElement('iframe'), { name: 'frame' + index });
    const form = Object.assign(document.createElement('form'), { method: 'post', action, target: frame.name, enctype: ${JSON.stringify(fields.enctype ?? 'application/x-www-form-urlencoded')} });
    for (const [name, value] of Object.entries(${JSON.stringify(fields)})) form.append(Object.assign(document.createElement('input'), { name, value }));
    document.body.append(frame, form);
    form.submit();
  }`;

const prove = ({ session_id: id, session_token: token }, challenge) => {
  const key = createHash('sha256').update('token-relay proof key v1').update(token).digest();
  const mac = createHmac('sha256', key).update('token-relay proof v1').update(createHash('sha256').update(id).digest());
  return mac.update(Buffer.from(challenge, 'base64url')).digest('base64url');
};

// Each gets the visitor's browser context and the link into the attacker's session. `asks` says that the
// visitor ends up at a page of the relay that asks for a proof, so that the attack did reach the relay.
const ATTACKS = [
  { name: 'a top-level navigation', asks: true, meet: true, run: ({ context, link }) => lure(context, `location = ${JSON.stringify(link)}`) },
  {
    name: 'a redirect', asks: true, meet: true,
    run: ({ context, link }) => lure(context, `location = ${JSON.stringify(network.page('attacker.localhost', '', { status: 302, headers: { location: link } }))}`),
  },
  {
    name: 'a popup whose opener gives proofs of its own', asks: true, meet: true,
    async run({ context, link }) {
      const page = await lure(context, `
        const popup = open(${JSON.stringify(link)}, '_blank', 'popup');
        setInterval(() => popup.postMessage({ type: 'token-relay:proof', proof: 'A'.repeat(43) }, '*'), 50);`);
      return async () => assert.deepEqual(await page.evaluate(() => window.heard), [], 'no challenge for a page that is not the add-in');
    },
  },
  {
    name: 'a popup without an opener, the code beside it', asks: true, meet: true,
    run: ({ context, link, session }) => lure(context, `
      document.body.prepend(${JSON.stringify(`Your code: ${session?.user_code}`)});
      open(${JSON.stringify(link)}, '_blank', 'popup,noopener');`),
  },
  {
    name: 'a frame, an object, an embedded and a sandboxed one', meet: true,
    run: ({ context, link }) => lure(context, '', {
      body: `<iframe src="${link}"></iframe><object data="${link}"></object><embed src="${link}"><iframe sandbox="allow-scripts allow-same-origin allow-forms" src="${link}"></iframe>`,
    }),
  },
  {
    name: 'a frame within the relay\'s own site',
    run: ({ context, link }) => lure(context, '', { site: 'evil.corp.localhost', body: `<iframe src="${link}"></iframe>` }),
  },
  { name: 'forms posted to every step', run: ({ context, relay, link }) => lure(context, FORMS(relay.origin, { transit_token: new URL(link).searchParams.get('transit_token') ?? '', dialog: 'A'.repeat(16), csrf: 'A', decision: 'continue' })) },
  {
    name: 'the link posted by a form', meet: true,
    run: ({ context, link }) => lure(context, `
      const form = Object.assign(document.createElement('form'), { method: 'post', action: ${JSON.stringify(link)} });
      document.body.append(form);
      form.submit();`),
  },
  {
    name: 'prefetch and prerender by a stranger', meet: true,
    run: ({ context, link }) => lure(context, SPECULATE({ prefetch: [{ urls: [link], eagerness: 'immediate' }], prerender: [{ urls: [link], eagerness: 'immediate' }] }), { head: `<link rel="prefetch" href="${link}">` }),
  },
  ...['prefetch', 'prerender'].map((how) => ({
    name: `${how} by a sibling, then the visit`, asks: true,
    async run({ context, link, relay }) {
      const path = link.slice(relay.origin.length);
      const speculative = () => network.requests.some((request) => request.path === path && request.headers['sec-purpose']?.includes(how));
      const page = await lure(context, SPECULATE({ [how]: [{ urls: [link], eagerness: 'immediate' }] }), { site: 'evil.corp.localhost' });
      await until(`the browser sends the ${how}`, speculative);
      await page.evaluate((url) => { location = url; }, link).catch(() => {});
    },
  })),
  {
    name: 'an opener that goes to a registered page, which signs in itself', asks: true,
    run: ({ context, link, relay, session }) => lure(context, `
      open(${JSON.stringify(link)}, '_blank', 'popup');
      location = ${JSON.stringify(network.origin('pane.localhost'))} + '/registered?relay=${encodeURIComponent(relay.origin)}&client=${session.client ?? ''}';`),
  },
  {
    name: 'an opener that goes to a page of the relay', asks: true,
    run: ({ context, link, relay }) => lure(context, `
      open(${JSON.stringify(link)}, '_blank', 'popup');
      location = ${JSON.stringify(`${relay.origin}/docs`)};`),
  },
  {
    name: 'two dialogs that open each other', asks: true,
    run: ({ context, link }) => lure(context, `
      const first = open('about:blank', 'first', 'popup');
      const second = first.open('about:blank', 'second', 'popup');
      second.open('', 'first');
      first.location = second.location = ${JSON.stringify(link)};`),
  },
  {
    name: 'a right proof, sent by the wrong page', asks: true, bound: true,
    async run({ context, link, session }) {
      const page = await lure(context, `window.popup = open(${JSON.stringify(link)}, '_blank', 'popup');`);
      const dialog = context.pages().find((each) => each !== page) ?? await context.waitForEvent('page');
      await dialog.waitForSelector('#proof', { state: 'attached' });
      await dialog.waitForLoadState('load'); // before that its script does not listen
      const challenge = await dialog.getAttribute('#proof', 'data-challenge');
      const refused = dialog.waitForResponse(/transit\/proof/);
      await page.evaluate((proof) => window.popup.postMessage({ type: 'token-relay:proof', proof }, '*'), prove(session, challenge));
      assert.equal((await refused).status(), 403);
    },
  },
  ...['evil.corp.localhost', 'attacker.localhost'].map((site) => ({
    name: `a creation by the visitor's browser on ${site}, with and without CORS and by a form`, asks: true,
    run: ({ context, link, relay }) => lure(context, `
      const create = ${JSON.stringify(`${relay.origin}/addons/sessions`)};
      const body = '{"bind":true}';
      await fetch(create, { method: 'POST', mode: 'no-cors', credentials: 'include', body }).catch(() => {});
      await fetch(create, { method: 'POST', mode: 'no-cors', credentials: 'include' }).catch(() => {});
      await fetch(create, { method: 'POST', credentials: 'include', body, headers: { 'content-type': 'application/json' } }).catch(() => {});
      const frame = Object.assign(document.createElement('iframe'), { name: 'frame' });
      const form = Object.assign(document.createElement('form'), { method: 'post', action: create, enctype: 'text/plain', target: 'frame' });
      form.append(Object.assign(document.createElement('input'), { name: '{"bind":true,"x":"', value: '"}' }));
      document.body.append(frame, form);
      form.submit();
      await new Promise((loaded) => { frame.onload = loaded; });
      location = ${JSON.stringify(link)};`, { site }),
  })),
  {
    name: 'a sibling whose forms have the Origin null', asks: true,
    run: ({ context, link, relay }) => lure(context, `
      ${FORMS(relay.origin, { dialog: 'A'.repeat(16), csrf: 'A', origin: network.origin('pane.localhost'), proof: 'A'.repeat(43), decision: 'continue' })}
      setTimeout(() => { location = ${JSON.stringify(link)}; }, 500);`, { site: 'evil.corp.localhost', headers: { 'referrer-policy': 'no-referrer', 'content-security-policy': 'sandbox allow-scripts allow-forms allow-top-navigation' } }),
  },
  {
    name: 'a sibling that plants the browser ID of the attacker\'s server', asks: true, forged: true, fresh: true,
    async run({ context, link, session }) {
      const [name, id] = session.cookies.find((cookie) => /token-relay-browser=/.test(cookie)).split(';')[0].split('=');
      const page = await lure(context, `
        for (const start of [${JSON.stringify(`${name}=${id}`)}, ${JSON.stringify(`=${name}=${id}`)}, ${JSON.stringify(`token-relay-browser=${id}`)}, ${JSON.stringify(` ${name.toLowerCase()}=${id}`)}]) {
          for (const end of ['; path=/', '; path=/addons', '; path=/addons/transit/']) document.cookie = start + end + '; domain=corp.localhost; secure';
        }
        location = ${JSON.stringify(link)};`, { site: 'evil.corp.localhost' });
      await page.waitForURL(/transit/);
      const planted = (await context.cookies(link)).filter((cookie) => cookie.value.includes(id));
      assert.ok(planted.length && planted.every((cookie) => cookie.name !== name), `the browser planted others: ${JSON.stringify(planted)}`);
    },
  },
  {
    name: 'a server\'s creation with our Origin, Sec-Fetch headers and another\'s client', asks: true, forged: true,
    run: ({ context, link }) => lure(context, `location = ${JSON.stringify(link)}`),
  },
  {
    name: 'the provider\'s address that the attacker\'s own browser was sent to', lands: 'error', forged: true,
    async run({ context, link, session }) {
      const cookie = session.cookies.map((each) => each.split(';')[0]).join('; ');
      const answer = await send(link, { from: Attacker.ADDRESS, headers: { cookie, 'sec-fetch-dest': 'document', 'sec-fetch-mode': 'navigate' } });
      assert.equal(answer.status, 302, 'the attacker\'s server proves that it is itself');
      await lure(context, `location = ${JSON.stringify(answer.headers.location)}`);
    },
  },
  ...['Win32$16.02', 'Mac$16.02', 'Web$16.00'].map((host) => ({
    name: `an address for Office (${host.split('$')[0]})`, asks: true, office: true,
    async run({ context, link, relay }) {
      const url = `${link}&_host_Info=Outlook$${host}$en-US`;
      const page = await lure(context, `
        const popup = open(${JSON.stringify(url)}, 'office-stub-dialog:${host.startsWith('Web') ? 'web' : 'desktop'}:1', 'popup');
        const message = JSON.stringify({ type: 'token-relay:proof', proof: 'A'.repeat(43) });
        setInterval(() => {
          popup.postMessage({ officeStub: 'to-child', message }, '*');
          popup.postMessage({ officeStub: 'to-child', message, origin: ${JSON.stringify(network.origin('pane.localhost'))} }, '*');
        }, 50);
        open(${JSON.stringify(url)}, '_blank', 'popup,noopener');`);
      assert.ok(relay.origin);
      return async () => {
        const heard = await page.evaluate(() => window.heard.map(({ data }) => JSON.stringify(data)));
        assert.deepEqual(heard.filter((data) => /ready/.test(data)), [], 'no challenge for a page that is not the add-in');
      };
    },
  })),
];

const forgedHeaders = (relay) => ({ origin: relay.origin, 'sec-fetch-site': 'same-origin', 'sec-fetch-mode': 'cors', 'sec-fetch-dest': 'empty' });

const KINDS = [
  { name: 'bound, by default', create: (attacker, headers) => attacker.create(strict.origin, { bind: true, confirm: false, client_name: 'Your bank' }, headers), relay: () => strict, consents: true },
  { name: 'bound, with the code allowed, as another\'s client', client: 'notes', code: true, create: (attacker, headers) => attacker.create(open.origin, { bind: true, client_id: 'notes' }, headers), relay: () => open, consents: true },
  { name: 'legacy', legacy: true, client: 'notes', create: (attacker, headers) => attacker.create(open.origin, { bind: false, client_id: 'notes' }, headers), relay: () => open, consents: false },
];

before(async () => {
  network = await Network.start('login.corp.localhost', 'open.corp.localhost', 'never.corp.localhost');
  network.clientFiles();
  const origins = ['pane.localhost', 'pane.corp.localhost'].map((name) => network.origin(name)).join(',');
  strict = await network.relay('login.corp.localhost', {
    TOKEN_RELAY_ALLOWED_ORIGINS: origins,
    TOKEN_RELAY_MEET_COMPATIBLE: 'true',
    TOKEN_RELAY_MEET_PROOF: 'address',
    TOKEN_RELAY_MEET_RETURN_TO: `${network.origin('login.corp.localhost')}/addin`,
    ADDONS_CSRF_SECRET: 'b1b6a0e1c5c4b0b7a2d7c6f0a9e8d3c2b1b6a0e1c5c4b0b7a2d7c6f0a9e8d3c2',
    ADDONS_TOKEN_SECRET_KEY: '0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f1',
  });
  open = await network.relay('open.corp.localhost', {
    TOKEN_RELAY_CLIENTS__NOTES__ORIGINS: origins,
    TOKEN_RELAY_CLIENTS__NOTES__PROOFS: 'browser opener code',
    TOKEN_RELAY_CLIENTS__NOTES__LEGACY: 'true',
    TOKEN_RELAY_CLIENTS__OTHER__AUDIENCE: 'https://other.example',
    TOKEN_RELAY_OFFICE_JS_URL: `${network.origin('pane.localhost')}/office-stub.js`,
  });
  never = await network.relay('never.corp.localhost', { TOKEN_RELAY_CONFIRMATION: 'never', TOKEN_RELAY_LEGACY_SESSIONS: 'true' });
  // A registered page that signs in, or is about to: it answers whatever dialog asks it.
  network.page('*', html(`<script type="module">
    import { signIn } from '/token-relay.js';
    const query = new URLSearchParams(location.search);
    window.outcome = signIn({ baseUrl: query.get('relay'), clientId: query.get('client') || undefined, openDialog: () => undefined, onProgress: ({ step }) => { document.title = step; } });
  </script>`), { path: '/registered' });
  // The pages of an add-in of the Meet-compatible surface, whose dialog hands its transit token over by itself.
  network.page('login.corp.localhost', html(`<script>
    sessionStorage.transit = location.hash.slice(1);
    location.replace('/api/v1.0/authenticate/?returnTo=' + encodeURIComponent(location.origin + '/addin/done'));
  </script>`), { path: '/addin/dialog' });
  network.page('login.corp.localhost', html(`<p id="exchanged"></p><script>
    fetch('/api/v1.0/addons/sessions/exchange/', {
      method: 'POST', credentials: 'include', headers: { 'content-type': 'application/json', 'x-csrftoken': document.cookie.match(/csrftoken=([^;]+)/)[1] },
      body: JSON.stringify({ transit_token: sessionStorage.transit }),
    }).then(async (answer) => { document.getElementById('exchanged').textContent = answer.status + ' ' + await answer.text(); });
  </script>`), { path: '/addin/done' });
  // The visitor has signed in at both relays: their browser IDs and the provider's session are there.
  const context = await network.browser.newContext();
  for (const [relay, client] of [[strict, ''], [open, 'notes']]) {
    const page = await context.newPage();
    const created = page.waitForResponse((answer) => answer.url() === `${relay.origin}/addons/sessions` && answer.request().method() === 'POST');
    await page.goto(`${network.origin('pane.corp.localhost')}/registered?relay=${encodeURIComponent(relay.origin)}&client=${client}`);
    const dialog = await context.newPage();
    await dialog.goto((await (await created).json()).transit_url);
    if (relay === strict) await logIn(dialog, 'alice');
    await dialog.waitForURL(/addons\/success/);
    // Asked from here: a page in the background draws no frames, by which Playwright would wait.
    await until(`the token, ${relay.log.slice(-500)}`, async () => await page.title() === 'delivered');
  }
  browserIds = (await context.cookies()).filter(({ name }) => name === '__Host-token-relay-browser');
  assert.equal(browserIds.length, 2);
  await context.close();
});

after(() => network?.stop());

for (const kind of KINDS) {
  describe(`a session that is ${kind.name}`, { concurrency: 5 }, () => {
    for (const attack of ATTACKS) {
      if (attack.bound && kind.legacy || attack.office && kind.relay !== KINDS[1].relay || attack.forged && kind.legacy && attack.fresh) continue;
      test(attack.name, async () => {
        const relay = kind.relay();
        const attacker = new Attacker();
        const session = await kind.create(attacker, attack.forged ? forgedHeaders(relay) : {});
        assert.equal(session.status, 201, session.answer.text);
        const context = attack.fresh ? await freshVisitor(relay) : await visitor();
        const check = await attack.run({ context, relay, link: session.transit_url, session: { ...session, client: kind.client } });
        // The attack does reach the relay, which asks for a proof.
        const wanted = attack.lands ? [attack.lands] : ['proof', 'confirm'];
        const reached = async () => (await shown(context)).some((status) => wanted.includes(status));
        await goAlong(context, kind.consents, attack.asks || attack.lands ? reached : undefined, kind.code ? CODE_OFFERED : 0);
        if (typeof check === 'function') await check();
        const pages = await shown(context);
        assert.ok(!pages.includes('done'), 'nobody is signed in');
        assert.deepEqual(await attacker.tokens(), []);
        await context.close();
      });
    }
  });
}

/** A visitor who is logged in at the provider, and has never been at the relay. */
async function freshVisitor(relay) {
  const cookies = browserIds.filter(({ domain }) => domain !== new URL(relay.origin).hostname);
  return network.browser.newContext({ storageState: { cookies: [...cookies, await network.provider.loggedIn('alice')], origins: [] } });
}

describe('a session of the Meet-compatible surface with MEET_PROOF=address', { concurrency: 5 }, () => {
  for (const attack of ATTACKS.filter(({ meet }) => meet)) {
    test(attack.name, async () => {
      const attacker = new Attacker();
      const link = `${strict.origin}/addin/dialog#${await attacker.initMeet(strict.origin)}`;
      const context = await visitor();
      const check = await attack.run({ context, relay: strict, link });
      const refused = async () => {
        for (const page of context.pages().filter((each) => each.url().includes('/addin/done'))) {
          if (/^403 .*another network/.test(await page.textContent('#exchanged'))) return true;
        }
        return false;
      };
      await goAlong(context, true, attack.asks ? refused : undefined);
      if (typeof check === 'function') await check();
      assert.deepEqual(await attacker.tokens(), []);
      await context.close();
    });
  }

  test('its transit token opens no native dialog', async () => {
    const attacker = new Attacker();
    const context = await visitor();
    const page = await context.newPage();
    const answer = await page.goto(`${strict.origin}/addons/transit/?transit_token=${await attacker.initMeet(strict.origin)}`);
    assert.equal(answer.status(), 404);
    await goAlong(context, true);
    assert.deepEqual(await attacker.tokens(), []);
    await context.close();
  });

  test('the person whose add-in is in the same network gets the token', async () => {
    const person = new Attacker(); // reads like one
    const context = await visitor();
    const page = await context.newPage();
    await page.goto(`${strict.origin}/addin/dialog#${await person.initMeet(strict.origin, '127.0.0.1')}`);
    await page.getByText('200').waitFor();
    assert.equal((await person.tokens()).length, 1);
    await context.close();
  });
});

test('legacy sessions that are off cannot be created', async () => {
  const attacker = new Attacker();
  for (const [relay, body] of [[strict, undefined], [strict, { bind: false }], [open, { bind: false, client_id: 'other' }]]) {
    const { status, answer } = await attacker.create(relay.origin, body);
    assert.equal(status, 403, answer.text);
    assert.match(answer.text, /bound-session-required/);
  }
});

test('a double click that falls through to a legacy session\'s button does nothing', async () => {
  const attacker = new Attacker();
  const session = await attacker.create(open.origin, { bind: false, client_id: 'notes' });
  const context = await visitor();
  const page = await context.newPage();
  await page.goto(session.transit_url);
  const [{ x, y, width, height }] = await Promise.all([page.locator('button[value=continue]').boundingBox()]);
  for (let click = 0; click < 6; click += 1) await page.mouse.click(x + width / 2, y + height / 2);
  assert.ok(await page.isDisabled('button[value=continue]'));
  await page.waitForSelector('button[value=continue]:enabled');
  await page.evaluate(() => window.dispatchEvent(new Event('focus')));
  await page.mouse.click(x + width / 2, y + height / 2);
  assert.match(page.url(), /addons\/transit/);
  assert.deepEqual(await attacker.tokens(), []);
  await context.close();
});

test('the code of the attacker\'s session opens nothing but the dialog of that session', async () => {
  const attacker = new Attacker();
  const theirs = await attacker.create(open.origin, { bind: true, client_id: 'notes' });
  const other = await attacker.create(open.origin, { bind: true, client_id: 'notes' });
  const context = await visitor();
  // In the dialog of a sign-in of the visitor's own, and in that of another session of the attacker.
  const own = new Attacker();
  const mine = await own.create(open.origin, { bind: true, client_id: 'notes' });
  for (const { transit_url: link } of [mine, other]) {
    const page = await context.newPage();
    await page.goto(link);
    await page.waitForSelector('#user-code:visible');
    await page.fill('#user-code', theirs.user_code);
    await page.press('#user-code', 'Enter');
    await page.waitForSelector('#wrong');
  }
  // Where device codes are typed.
  const device = await context.newPage();
  const answer = await device.goto(`${open.origin}/addons/device`);
  if (answer.status() === 200) {
    await device.fill('input[name=user_code]', theirs.user_code);
    await device.press('input[name=user_code]', 'Enter');
    await device.waitForLoadState();
  }
  await goAlong(context, true);
  assert.deepEqual(await attacker.tokens(), []);
  assert.deepEqual(await own.tokens(), []);
  await context.close();
});

describe('where nothing is asked for, the same attacks succeed, so these tests can fail', { concurrency: 5 }, () => {
  for (const attack of ATTACKS.filter(({ asks, forged, office, bound }) => asks && !forged && !office && !bound)) {
    if (/opener that goes|two dialogs|sibling/.test(attack.name)) continue;
    test(attack.name, async () => {
      const attacker = new Attacker();
      const session = await attacker.create(never.origin, { bind: true });
      const context = await visitor();
      await attack.run({ context, relay: never, link: session.transit_url, session });
      await goAlong(context, true, async () => (await attacker.tokens()).length > 0);
      await context.close();
    });
  }
});
