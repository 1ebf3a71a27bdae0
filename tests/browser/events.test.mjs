// The AsyncAPI document against the standard's own schema, and real messages against the document.
// The page of calls and events at /docs.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import Ajv from 'ajv';
import { launch, openPage, overflow, SCREENSHOTS, startDemo, violations } from './support.mjs';

const STANDARD = JSON.parse(readFileSync(createRequire(import.meta.url).resolve('@asyncapi/specs/schemas/3.0.0.json'), 'utf8'));

let demo;
let brief; // its sessions live ten seconds
let browser;
let description;
let dialogs;

before(async () => {
  demo = await startDemo({ TOKEN_RELAY_DEMO_AUTO_LOGIN: '1' });
  brief = await startDemo({ TOKEN_RELAY_SESSION_TTL: '10s' });
  browser = await launch();
  description = await (await fetch(`${demo.address}/asyncapi.json`)).json();
  dialogs = await browser.newContext();
});

after(async () => {
  await browser?.close();
  demo?.stop();
  brief?.stop();
});

test('the document is AsyncAPI 3.0, and the standard refuses a broken one', () => {
  const ajv = new Ajv({ meta: false, validateSchema: false, strict: false, allErrors: true, validateFormats: false }); // it holds draft-07 itself
  const valid = ajv.compile(STANDARD);
  assert.ok(valid(description), JSON.stringify(valid.errors?.slice(0, 5), undefined, 2));
  const broken = structuredClone(description);
  broken.operations.sendEvent.action = 'shout';
  assert.equal(valid(broken), false);
  const host = new URL(demo.address).host;
  assert.deepEqual(Object.values(description.servers).map((server) => [server.protocol, server.host]), [['http', host], ['ws', host]]);
  for (const { address } of Object.values(description.channels)) assert.match(address, /^\/addons\/sessions\/\{session_id\}\/(events|ws)$/);
});

const at = (reference) => reference.slice(2).split('/').reduce((node, name) => node[name], description);

/** Checks a message of a channel against the schema that the document gives it. */
function check(channel, name, payload) {
  const found = Object.values(description.channels[channel].messages).map(({ $ref }) => at($ref)).find((message) => message.name === name);
  assert.ok(found, `${channel} describes ${name}`);
  const ajv = new Ajv({ strict: true, allErrors: true, keywords: ['components'], formats: { int64: true } }); // a format of OpenAPI
  const valid = ajv.compile({ ...found.payload, components: description.components });
  assert.ok(valid(payload), `${name}: ${JSON.stringify(valid.errors)}`);
  // Each member is needed but those that not every answer has, and none is there that the document does not know.
  for (const member of Object.keys(payload)) {
    const { [member]: _, ...rest } = payload;
    // A backend may deliver a payload without a token.
    const optional = ['error_description', 'scope', 'authenticated_at', 'access_token', 'token_type', 'expires_in'];
    assert.equal(valid(rest), optional.includes(member), `${name} without ${member}`);
  }
  const parts = (schema) => [schema, ...[...(schema.allOf ?? []), ...(schema.oneOf ?? [])].flatMap((part) => parts(part.$ref ? at(part.$ref) : part))];
  const known = parts(at(found.payload.$ref)).flatMap((schema) => Object.keys(schema.properties ?? {}));
  assert.deepEqual(Object.keys(payload).filter((member) => !known.includes(member)), []);
}

async function create(name) {
  const relay = name === 'expired' ? brief : demo;
  const answer = await fetch(`${relay.address}/addons/sessions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"bind":true,"confirm":true}' });
  return answer.json();
}

/** How a sign-in ends; `press` is what the person does in the dialog. */
const ENDS = {
  authenticated: { press: 'continue' },
  failed: { press: 'deny' },
  expired: {},
};

async function press(session, value) {
  if (!value) return;
  const dialog = await dialogs.newPage();
  await dialog.goto(session.transit_url);
  if (value === 'continue') {
    await dialog.fill('#user-code', session.user_code);
    await dialog.press('#user-code', 'Enter');
    await dialog.waitForURL(/addons\/redirect/); // who would get access is asked here
  }
  await dialog.click(`button[value=${value}]`);
  await dialog.waitForURL(value === 'continue' ? /addons\/success/ : /transit/);
}

test('event streams say what the document says', async () => {
  await Promise.all(Object.entries(ENDS).map(async ([name, { press: value }]) => {
    const session = await create(name);
    const stream = await fetch(session.events_url, { headers: { authorization: `Bearer ${session.session_token}` } });
    const [text] = await Promise.all([stream.text(), press(session, value)]);
    const block = text.split('\n\n').find((part) => part.startsWith('event:'));
    const fields = Object.fromEntries(block.split('\n').map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 2)]));
    assert.equal(fields.event, name, text);
    assert.match(fields.id, /^[\w-]{22}$/, text);
    check('events', name, JSON.parse(fields.data));
  }));
});

test('WebSockets say what the document says, and understand the acknowledgement that it describes', async () => {
  const { context, page } = await openPage(browser, `${demo.address}/addons/error`, { bypassCSP: true });
  const [acknowledgement] = at(description.channels.websocket.messages.acknowledgement.$ref).examples;
  await Promise.all(Object.entries(ENDS).map(async ([name, { press: value }]) => {
    const session = await create(name);
    const heard = page.evaluate(([url, token, ack]) => new Promise((resolve) => {
      const socket = new WebSocket(url, ['token-relay.v1', `bearer.${token}`]);
      const messages = [];
      socket.onmessage = ({ data }) => {
        messages.push(JSON.parse(data));
        if (messages[0].type === 'authenticated') socket.send(JSON.stringify(ack));
      };
      socket.onclose = ({ code }) => resolve({ messages, code });
    }), [session.websocket_url, session.session_token, acknowledgement.payload]);
    await press(session, value);
    const { messages, code } = await heard;
    assert.equal(messages.length, 1);
    assert.equal(messages[0].type, name);
    check('websocket', name, messages[0]);
    assert.equal(code, name === 'expired' ? 4408 : 1000);
    assert.match(description.channels.websocket.description, new RegExp(`${code}: `));
    if (name !== 'authenticated') return;
    check('websocket', 'ack', acknowledgement.payload);
    const gone = await fetch(session.poll_url, { headers: { authorization: `Bearer ${session.session_token}` } });
    assert.ok([404, 410].includes(gone.status), 'acknowledged');
  }));
  await context.close();
});

test('the page of calls and events is accessible, fits and needs no script', async () => {
  for (const colorScheme of ['light', 'dark']) {
    for (const width of [320, 1280]) {
      const { context, page, troubles } = await openPage(browser, `${demo.address}/docs`, { colorScheme, viewport: { width, height: 800 }, bypassCSP: true });
      for (const details of await page.locator('details').all()) await details.locator('summary').click();
      assert.deepEqual(await violations(page), [], `${colorScheme}, ${width}`);
      assert.equal(await overflow(page), 0, `${width} px`);
      assert.equal(await page.locator('#events table').first().locator('tbody tr').count(), 3);
      assert.deepEqual(troubles, []);
      await page.locator('#events').screenshot({ path: `${SCREENSHOTS}docs-${colorScheme}-${width}.png` });
      await context.close();
    }
  }
});
