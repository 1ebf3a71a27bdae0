import assert from 'node:assert/strict';
import { createHash, createHmac } from 'node:crypto';
import { test } from 'node:test';
import { meetExchange, meetSignIn, resumeSignIn, signIn, SignInError, waitForToken } from '../token-relay.js';
import { closeFrame, EVENT, json, relay, stream, textFrame, TOKEN } from './relay-double.mjs';

const openDialog = () => {};
// The double sends tokens in the clear; encrypted.test.mjs is about others.
const fast = { openDialog, firstByteTimeout: 150, encrypt: false };
const failsWith = (code) => (error) => error instanceof SignInError && (assert.equal(error.code, code), true);

test('event stream: bearer in the header, token, acknowledge', async (t) => {
  const server = await relay(t, { events: (_, response) => stream(response, 'retry: 10\n\n', EVENT) });
  const opened = [];
  const steps = [];
  const token = await signIn({
    encrypt: false,
    baseUrl: `${server.baseUrl}/`, confirm: true, clientName: 'Notes',
    openDialog: (url, { userCode }) => { opened.push([url, userCode]); },
    onProgress: ({ step }) => steps.push(step),
  });
  assert.deepEqual(token, { ...TOKEN, transport: 'sse' });
  assert.deepEqual(opened, [[`${server.baseUrl}/addons/transit/?transit_token=t`, 'BCDF-GHJK']]);
  assert.deepEqual(JSON.parse(server.called('create')[0].body), { bind: true, confirm: true, client_name: 'Notes' });
  const [events] = server.called('events');
  assert.equal(events.headers.authorization, 'Bearer secret');
  assert.ok(!events.url.includes('secret'));
  const [end] = await server.until('end');
  assert.deepEqual([end.url, end.headers.authorization], ['/addons/sessions/s1', 'Bearer secret']);
  assert.deepEqual([steps[0], steps[1], steps.at(-1)], ['creating', 'created', 'delivered']);
});

test('legacy profile: empty body, no credentials', async (t) => {
  const legacy = (_, response) => json(response, 201, {
    session_id: 's1', expires_in: 60, transit_url: '/addons/transit/?session_id=s1',
    events_url: `${server.baseUrl}/addons/sessions/s1/events`, poll_url: `${server.baseUrl}/addons/sessions/s1`,
    websocket_url: `${server.baseUrl}/addons/sessions/s1/ws`,
  });
  const server = await relay(t, { create: legacy, events: (_, response) => stream(response, EVENT) });
  await signIn({ encrypt: false,  ...fast, baseUrl: server.baseUrl, bind: false });
  assert.equal(server.called('create')[0].body, '');
  assert.equal(server.called('events')[0].headers.authorization, undefined);
});

test('a stream that ends is reconnected after `retry`, with Last-Event-ID', async (t) => {
  const server = await relay(t, {
    events: (_, response, count) => {
      if (count === 1) stream(response, 'retry: 10\n\n', 'id: 0\n', 'event: hello\ndata: {}\n\n').end();
      else if (count === 2) json(response, 503, { title: 'Restarting' }, { 'Retry-After': '0' });
      else stream(response, EVENT);
    },
  });
  const token = await signIn({ encrypt: false,  ...fast, baseUrl: server.baseUrl });
  assert.equal(token.transport, 'sse');
  assert.deepEqual(server.called('events').map(({ headers }) => headers['last-event-id']), [undefined, '0', '0']);
});

test('a connection that dies in the middle of the token costs a reconnect', async (t) => {
  const server = await relay(t, {
    events: (_, response, count) => {
      if (count > 1) return stream(response, EVENT);
      stream(response, 'retry: 10\n\n', EVENT.slice(0, 40));
      setTimeout(() => response.destroy(), 20);
    },
  });
  assert.equal((await signIn({ encrypt: false,  ...fast, baseUrl: server.baseUrl })).access_token, TOKEN.access_token);
});

test('a proxy that buffers the stream: WebSocket takes over', async (t) => {
  let socket;
  const server = await relay(t, {
    events: (_, response) => { response.writeHead(200, { 'Content-Type': 'text/event-stream' }).flushHeaders(); },
    ws: (opened) => {
      socket = opened;
      opened.write(textFrame({ type: 'authenticated', ...TOKEN }));
    },
  });
  const steps = [];
  const token = await signIn({ encrypt: false,  ...fast, baseUrl: server.baseUrl, onProgress: (progress) => steps.push(progress) });
  assert.deepEqual(token, { ...TOKEN, transport: 'websocket' });
  assert.deepEqual(steps.filter(({ step }) => step === 'fallback').map(({ transport }) => transport), ['websocket']);
  assert.equal(server.called('ws')[0].headers['sec-websocket-protocol'].replace(/ /g, ''), 'token-relay.v1,bearer.secret');
  await new Promise((resolve) => socket.on('close', resolve));
  assert.deepEqual(socket.received, ['{"type":"ack"}']);
  assert.deepEqual(server.called('end'), [], 'the WebSocket has acknowledged already');
});

test('a proxy that withholds even the headers, and blocks WebSocket: long poll', async (t) => {
  const server = await relay(t, {
    events: () => {},
    poll: (_, response, count) => (count === 1 ? json(response, 202, { state: 'pending' }) : json(response, 200, TOKEN)),
  });
  const token = await signIn({ encrypt: false,  ...fast, baseUrl: server.baseUrl });
  assert.deepEqual(token, { ...TOKEN, transport: 'long-poll' });
  const [poll] = server.called('poll');
  assert.deepEqual([poll.method, poll.url, poll.headers.authorization], ['GET', '/addons/sessions/s1?wait=25', 'Bearer secret']);
  await server.until('end');
});

test('a proxy that turns the stream into something else, or forbids it', async (t) => {
  for (const events of [
    (_, response) => response.writeHead(200, { 'Content-Type': 'text/html' }).end('<p>Welcome</p>'),
    (_, response) => response.writeHead(405).end(),
  ]) {
    const server = await relay(t, { events, ws: (socket) => socket.write(textFrame({ type: 'authenticated', ...TOKEN })) });
    assert.equal((await signIn({ encrypt: false,  ...fast, baseUrl: server.baseUrl })).transport, 'websocket');
    assert.equal(server.called('events').length, 1);
  }
});

test('a proxy that cuts every stream at once: moves on after three', async (t) => {
  const server = await relay(t, {
    events: (_, response) => stream(response, 'retry: 1\n\n').end(),
    ws: (socket) => socket.write(textFrame({ type: 'authenticated', ...TOKEN })),
  });
  assert.equal((await signIn({ encrypt: false,  ...fast, baseUrl: server.baseUrl })).transport, 'websocket');
  assert.equal(server.called('events').length, 3);
});

test('a chosen transport that gets nothing through says so', async (t) => {
  const server = await relay(t, { events: () => {} });
  const waiting = waitForToken({
    transport: 'sse', firstByteTimeout: 30, sessionToken: 'x',
    eventsUrl: `${server.baseUrl}/addons/sessions/s1/events`, websocketUrl: server.baseUrl, pollUrl: server.baseUrl,
  });
  await assert.rejects(waiting, failsWith('network'));
});

test('WebSocket: close 1012 is a restart', async (t) => {
  const server = await relay(t, {
    ws: (socket, _, count) => socket.write(count === 1 ? closeFrame(1012) : textFrame({ type: 'authenticated', ...TOKEN })),
  });
  const token = await signIn({ encrypt: false,  ...fast, baseUrl: server.baseUrl, transport: 'websocket' });
  assert.equal(token.transport, 'websocket');
  assert.equal(server.called('ws').length, 2);
});

for (const [close, code] of [[4401, 'unauthorized'], [4404, 'not_found'], [4408, 'expired']]) {
  test(`WebSocket: close ${close} is final`, async (t) => {
    const server = await relay(t, { ws: (socket) => socket.write(closeFrame(close)) });
    await assert.rejects(signIn({ encrypt: false,  ...fast, baseUrl: server.baseUrl, transport: 'websocket' }), failsWith(code));
    assert.equal(server.called('ws').length, 1);
  });
}

for (const transport of ['sse', 'websocket', 'long-poll']) {
  test(`${transport}: a failed login has its OAuth error`, async (t) => {
    const failure = { state: 'failed', error: 'access_denied', error_description: 'The person said no.' };
    const server = await relay(t, {
      events: (_, response) => stream(response, `event: failed\ndata: ${JSON.stringify(failure)}\n\n`),
      ws: (socket) => socket.write(textFrame({ type: 'failed', ...failure })),
      poll: (_, response) => json(response, 200, failure),
    });
    await assert.rejects(signIn({ encrypt: false,  ...fast, baseUrl: server.baseUrl, transport }), (error) => {
      assert.equal(error.message, 'The person said no.');
      return failsWith('access_denied')(error);
    });
  });
}

test('an expired session', async (t) => {
  const server = await relay(t, { events: (_, response) => stream(response, 'event: expired\ndata: {"state":"expired"}\n\n') });
  await assert.rejects(signIn({ encrypt: false,  ...fast, baseUrl: server.baseUrl }), failsWith('expired'));
});

for (const [status, code] of [[204, 'gone'], [401, 'unauthorized'], [404, 'not_found'], [410, 'expired']]) {
  test(`events answered ${status} is final`, async (t) => {
    const server = await relay(t, { events: (_, response) => response.writeHead(status).end() });
    await assert.rejects(signIn({ encrypt: false,  ...fast, baseUrl: server.baseUrl }), failsWith(code));
    assert.equal(server.called('events').length, 1);
  });
}

test('create: refused, unavailable, unreachable', async (t) => {
  const server = await relay(t, { create: (_, response) => json(response, 503, { title: 'Store down' }) });
  await assert.rejects(signIn({ encrypt: false,  ...fast, baseUrl: server.baseUrl }), failsWith('temporarily_unavailable'));
  const strict = await relay(t, { create: (_, response) => json(response, 400, { detail: 'bind it' }) });
  await assert.rejects(signIn({ encrypt: false,  ...fast, baseUrl: strict.baseUrl }), failsWith('invalid_request'));
  await assert.rejects(signIn({ encrypt: false,  ...fast, baseUrl: 'http://127.0.0.1:1' }), failsWith('network'));
});

test('abort ends the session at the relay and closes the dialog', async (t) => {
  const server = await relay(t, { events: (_, response) => { stream(response, 'retry: 10\n\n'); } });
  const controller = new AbortController();
  let closed = 0;
  const waiting = signIn({
    encrypt: false,
    baseUrl: server.baseUrl, signal: controller.signal,
    openDialog: () => ({ close: () => { closed += 1; } }),
    onProgress: ({ step }) => step === 'dialog' && controller.abort(),
  });
  await assert.rejects(waiting, failsWith('aborted'));
  await server.until('end');
  await new Promise((resolve) => setTimeout(resolve, 10));
  assert.equal(closed, 1);
  await assert.rejects(signIn({ encrypt: false, baseUrl: server.baseUrl, signal: controller.signal, openDialog }), failsWith('aborted'));
  assert.equal(server.called('create').length, 1, 'an aborted signal creates nothing');
});

test('a blocked popup ends the session at the relay', async (t) => {
  const server = await relay(t, { events: (_, response) => { stream(response, 'retry: 10\n\n'); } });
  const blocked = () => { throw new SignInError('popup_blocked'); };
  await assert.rejects(signIn({ encrypt: false, baseUrl: server.baseUrl, openDialog: blocked }), failsWith('popup_blocked'));
  await server.until('end');
});

test('a closed dialog is reported, and the login may still arrive', async (t) => {
  let finish;
  const server = await relay(t, { events: (_, response) => { stream(response, 'retry: 10\n\n'); finish = () => response.write(EVENT); } });
  const steps = [];
  const token = await signIn({
    encrypt: false,
    baseUrl: server.baseUrl, openDialog: () => ({ closed: true }),
    onProgress: ({ step }) => { steps.push(step); if (step === 'dialog-closed') finish(); },
  });
  assert.equal(token.access_token, TOKEN.access_token);
  assert.ok(steps.includes('dialog-closed'));
});

test('default dialog: opened within the call, before anything is sent', async (t) => {
  const server = await relay(t, { events: (_, response) => stream(response, EVENT) });
  const log = [];
  const opened = { opener: 1, closed: false, close: () => log.push('close'), location: { replace: (url) => log.push(url) } };
  Object.assign(globalThis, { screenX: 0, screenY: 0, outerWidth: 800, outerHeight: 600, window: { open: (url) => { log.push(url); return opened; } } });
  t.after(() => { delete globalThis.window; });
  const waiting = signIn({ encrypt: false, baseUrl: server.baseUrl });
  assert.deepEqual(log, ['about:blank']);
  await waiting;
  assert.deepEqual([log[1], opened.opener], [`${server.baseUrl}/addons/transit/?transit_token=t`, 1], 'it keeps its opener, which asks for the proof');
  globalThis.window.open = () => null;
  const before = server.called('create').length;
  await assert.rejects(signIn({ encrypt: false, baseUrl: server.baseUrl }), failsWith('popup_blocked'));
  assert.equal(server.called('create').length, before, 'a blocked popup creates no session');
});

test('meet: init, stream with the CSRF token, no acknowledge call', async (t) => {
  const server = await relay(t, {
    init: (_, response) => json(response, 201, { transit_token: 't/1', csrf_token: 'c0ffee' }),
    events: (_, response) => stream(response, EVENT),
  });
  let url;
  const token = await meetSignIn({ baseUrl: server.baseUrl, dialogUrl: 'https://addin.example/dialog', openDialog: (at) => { url = at; } });
  assert.equal(token.transport, 'sse');
  assert.equal(url, 'https://addin.example/dialog#transit_token=t%2F1');
  const [events] = server.called('events');
  assert.deepEqual([events.url, events.headers['x-csrftoken']], ['/api/v1.0/addons/sessions/events/', 'c0ffee']);
  assert.deepEqual(server.called('end'), []);
});

test('meet: one line instead of the polling loop, on every transport', async (t) => {
  const server = await relay(t, {
    events: (_, response) => response.writeHead(405).end(),
    ws: (socket, _, count) => socket.write(count === 1 ? textFrame({ type: 'authenticated', ...TOKEN }) : closeFrame(1008)),
    poll: (_, response) => json(response, 200, TOKEN),
  });
  assert.equal((await waitForToken({ baseUrl: server.baseUrl, csrfToken: 'c0ffee' })).transport, 'websocket');
  const [socket] = server.called('ws');
  assert.deepEqual([socket.url, socket.headers['sec-websocket-protocol'].replace(/ /g, '')], ['/api/v1.0/addons/sessions/ws/', 'token-relay.v1,csrf.c0ffee']);
  assert.equal((await waitForToken({ baseUrl: server.baseUrl, csrfToken: 'c0ffee', transport: 'long-poll' })).access_token, TOKEN.access_token);
  const [poll] = server.called('poll');
  assert.deepEqual([poll.method, poll.url, poll.headers['x-csrftoken']], ['POST', '/api/v1.0/addons/sessions/poll/', 'c0ffee']);
});

test('meet: a service without streams is polled, and poll/ says what is not there', async (t) => {
  const server = await relay(t, {
    events: (_, response) => response.writeHead(404, { 'content-type': 'text/html' }).end('<h1>Not Found</h1>'),
    poll: (_, response, count) => (count === 1 ? json(response, 202, { state: 'pending' }) : count === 2 ? json(response, 200, TOKEN) : json(response, 404, { detail: 'Session not found.' })),
  });
  const steps = [];
  const token = await waitForToken({ baseUrl: server.baseUrl, csrfToken: 'c0ffee', onProgress: ({ step, transport }) => steps.push(`${step} ${transport}`) });
  assert.deepEqual([token.access_token, token.transport], [TOKEN.access_token, 'long-poll']);
  assert.deepEqual(steps, ['connecting sse', 'fallback long-poll', 'connecting long-poll', 'waiting long-poll']);
  assert.equal(server.called('ws').length, 0);
  await assert.rejects(waitForToken({ baseUrl: server.baseUrl, csrfToken: 'c0ffee' }), failsWith('not_found'));
  await assert.rejects(waitForToken({ baseUrl: server.baseUrl, csrfToken: 'c0ffee', transport: 'sse' }), failsWith('not_found'));
});

test('meet: exchange', async (t) => {
  const server = await relay(t, { exchange: (_, response) => json(response, 200, { status: 'ok' }) });
  assert.deepEqual(await meetExchange({ baseUrl: server.baseUrl, transitToken: 't', csrfToken: 'c' }), { status: 'ok' });
  const [exchange] = server.called('exchange');
  assert.deepEqual([exchange.body, exchange.headers['x-csrftoken']], ['{"transit_token":"t"}', 'c']);
});

const CHALLENGE = Buffer.alloc(32, 7).toString('base64url');
const ready = { type: 'token-relay:ready', challenge: CHALLENGE };
const sha256 = (...parts) => parts.reduce((hash, part) => hash.update(part), createHash('sha256')).digest();
// The formula of the protocol, by another library.
const EXPECTED = createHmac('sha256', sha256('token-relay proof key v1', 'secret'))
  .update('token-relay proof v1').update(sha256('s1')).update(Buffer.from(CHALLENGE, 'base64url')).digest('base64url');

test('the proof is the MAC of the protocol, and only for the relay', async (t) => {
  let finish;
  const server = await relay(t, { events: (_, response) => { stream(response, 'retry: 10\n\n'); finish = () => response.write(EVENT); } });
  const replies = [];
  const steps = [];
  await signIn({
    encrypt: false,
    baseUrl: server.baseUrl,
    async openDialog(url, { answer }) {
      replies.push(await answer(ready, 'https://elsewhere.example'));
      replies.push(await answer(ready, `${server.baseUrl}.example`));
      replies.push(await answer(ready, undefined));
      for (const challenge of [undefined, '', `${CHALLENGE}A`, CHALLENGE.replace('B', '!'), 7]) {
        replies.push(await answer({ ...ready, challenge }, new URL(url).origin));
      }
      for (const message of [null, 'text', { type: 'other', challenge: CHALLENGE }]) replies.push(await answer(message, new URL(url).origin));
      assert.deepEqual(replies.filter(Boolean), []);
      assert.ok(!steps.includes('proved'));
      replies.push(await answer(ready, new URL(url).origin));
      finish();
    },
    onProgress: ({ step }) => steps.push(step),
  });
  assert.deepEqual(replies.at(-1), { type: 'token-relay:proof', proof: EXPECTED });
  assert.ok(steps.includes('proved'));
});

test('only the dialog of this sign-in is answered, whatever else has its origin', async (t) => {
  let finish;
  const server = await relay(t, { events: (_, response) => { stream(response, 'retry: 10\n\n'); finish = () => response.write(EVENT); } });
  const window = new EventTarget();
  const sent = [];
  const dialogWindow = (opener) => ({ opener, closed: false, close() {}, postMessage(data, origin) { sent.push([this, data, origin]); } });
  const [own, other] = [dialogWindow(window), dialogWindow(window)];
  const say = (source, origin = server.baseUrl) => window.dispatchEvent(Object.assign(new Event('message'), { source, origin, data: ready }));
  globalThis.window = window;
  t.after(() => { delete globalThis.window; });
  await signIn({
    encrypt: false,
    baseUrl: server.baseUrl,
    openDialog: () => own,
    onProgress({ step }) {
      if (step === 'dialog') {
        say(other);
        say(null);
        say(own, 'https://elsewhere.example');
        say(own);
      }
      if (step === 'proved') finish();
    },
  });
  assert.deepEqual(sent, [[own, { type: 'token-relay:proof', proof: EXPECTED }, server.baseUrl]]);
  say(own);
  await new Promise((resolve) => { setTimeout(resolve, 20); });
  assert.equal(sent.length, 1, 'a sign-in that has ended answers nobody');

  // Without a handle, as in Office on the web: the window that was opened by this one.
  await signIn({
    encrypt: false,
    baseUrl: server.baseUrl,
    openDialog: () => {},
    onProgress({ step }) {
      if (step === 'dialog') {
        say(dialogWindow({}));
        say(other);
      }
      if (step === 'proved') finish();
    },
  });
  assert.deepEqual(sent.slice(1), [[other, { type: 'token-relay:proof', proof: EXPECTED }, server.baseUrl]]);
});

test('the code is shown when no proof is asked for', async (t) => {
  let finish;
  const server = await relay(t, { events: (_, response) => { stream(response, 'retry: 10\n\n'); finish = () => response.write(EVENT); } });
  const steps = [];
  await signIn({ encrypt: false, baseUrl: server.baseUrl, openDialog, onProgress(progress) { steps.push(progress); if (progress.step === 'code') finish(); } });
  assert.deepEqual(steps.find(({ step }) => step === 'code'), { step: 'code', userCode: 'BCDF-GHJK' });
});

test('what the client asks for goes into the session', async (t) => {
  const server = await relay(t, { events: (_, response) => stream(response, EVENT) });
  await signIn({ encrypt: false,  ...fast, baseUrl: server.baseUrl, clientId: 'notes', scope: 'read write', loginHint: 'a@example.com', prompt: 'consent' });
  assert.deepEqual(JSON.parse(server.called('create')[0].body), { bind: true, client_id: 'notes', scope: 'read write', login_hint: 'a@example.com', prompt: 'consent' });
});

test('a superseded reader neither comes back nor ends the session', async (t) => {
  const failure = { state: 'failed', error: 'superseded', error_description: 'Another connection reads this session now.' };
  const server = await relay(t, { events: (_, response) => stream(response, `event: failed\nid: x\ndata: ${JSON.stringify(failure)}\n\n`).end() });
  await assert.rejects(signIn({ encrypt: false,  ...fast, baseUrl: server.baseUrl }), failsWith('superseded'));
  await new Promise((resolve) => { setTimeout(resolve, 50); });
  assert.deepEqual([server.called('events').length, server.called('end')], [1, []]);
});

test('an error that this version does not know keeps its name in the message', async (t) => {
  const failure = { state: 'failed', error: 'moon_phase', error_description: 'Wrong one.' };
  const server = await relay(t, { events: (_, response) => stream(response, `event: failed\ndata: ${JSON.stringify(failure)}\n\n`) });
  await assert.rejects(signIn({ encrypt: false,  ...fast, baseUrl: server.baseUrl }), (error) => {
    assert.equal(error.message, 'moon_phase: Wrong one.');
    return failsWith('server_error')(error);
  });
});

test('without IndexedDB there is nothing to resume', async () => {
  assert.equal(await resumeSignIn({ baseUrl: 'https://relay.example' }), undefined);
});
