import assert from 'node:assert/strict';
import { test } from 'node:test';
import { officeDialog } from '../office.js';

// The part of Office.js that opens dialogs.
function office(result, { origins = true } = {}) {
  const handlers = {};
  const dialog = { closed: 0, sent: [], messageChild(...message) { this.sent.push(message); }, close() { this.closed += 1; }, addEventHandler: (type, handler) => { handlers[type] = handler; } };
  const asked = [];
  globalThis.Office = {
    AsyncResultStatus: { Succeeded: 'succeeded' },
    EventType: { DialogMessageReceived: 'message', DialogEventReceived: 'event' },
    context: { requirements: { isSetSupported: (name, version) => name === 'DialogOrigin' && version === '1.1' && origins }, ui: { displayDialogAsync: (url, options, done) => { asked.push([url, options]); done(result ?? { status: 'succeeded', value: dialog }); } } },
  };
  return { dialog, handlers, asked };
}

test('opens, hears "done" from the last page and closes', async () => {
  const { dialog, handlers, asked } = office();
  const heard = [];
  const handle = await officeDialog({ height: 50, onStatus: (status) => heard.push(status) })('https://relay.example/x');
  assert.deepEqual(asked, [['https://relay.example/x', { width: 35, height: 50, promptBeforeOpen: true }]]);
  for (const message of ['not json', '{"type":"other","status":"done"}', '{"type":"token-relay","status":"error"}']) handlers.message({ message });
  assert.deepEqual([dialog.closed, heard], [0, ['error']]);
  handlers.message({ message: '{"type":"token-relay","status":"done"}' });
  assert.deepEqual([dialog.closed, handle.closed, heard], [1, true, ['error', 'done']]);
  handle.close();
  assert.equal(dialog.closed, 1, 'is closed once');
});

test('closed by the person, or not reached', async () => {
  const { handlers } = office();
  const heard = [];
  const handle = await officeDialog({ onStatus: (status) => heard.push(status) })('https://relay.example/x');
  handlers.event({ error: 12002 });
  handlers.event({ error: 12999 });
  assert.deepEqual([handle.closed, heard], [false, ['unreachable']]);
  handlers.event({ error: 12006 });
  assert.deepEqual([handle.closed, heard], [true, ['unreachable', 'closed']]);
});

test('a dialog that is open still is closed first, and Office gets the time to do so', async () => {
  const first = office();
  await officeDialog()('https://relay.example/1');
  const second = office();
  let refused = 2;
  const { displayDialogAsync } = Office.context.ui;
  Office.context.ui.displayDialogAsync = (url, options, done) => {
    if (refused > 0) {
      refused -= 1;
      done({ status: 'failed', error: { code: 12007 } });
    } else displayDialogAsync(url, options, done);
  };
  await officeDialog()('https://relay.example/2');
  assert.deepEqual([first.dialog.closed, refused, second.asked.length], [1, 0, 1]);
  second.handlers.event({ error: 12006 });
  refused = 1;
  await assert.rejects(officeDialog()('https://relay.example/3'), { status: 12007 }, 'it is not ours');
});

test('cancelled while Office asks the person', async () => {
  const { dialog } = office();
  assert.equal((await officeDialog()('https://relay.example/x', { signal: AbortSignal.abort() })).closed, true);
  assert.equal(dialog.closed, 1);
});

for (const [number, code] of [[12009, 'popup_blocked'], [12011, 'popup_blocked'], [12004, 'dialog_failed'], [12345, 'dialog_failed']]) {
  test(`refused with ${number}`, async () => {
    office({ status: 'failed', error: { code: number, message: 'no' } });
    await assert.rejects(officeDialog()('https://relay.example/x'), { name: 'SignInError', code, status: number });
  });
}

test('without Office.js', async () => {
  delete globalThis.Office;
  await assert.rejects(officeDialog()('https://relay.example/x'), { code: 'dialog_failed' });
});

test('a proof goes back to the origin that asked, where Office can keep it to that', async () => {
  const origin = 'https://relay.example';
  const asked = [];
  const answer = async (message, from) => { asked.push([message, from]); return message.type === 'token-relay:ready' ? { type: 'token-relay:proof', proof: 'p' } : undefined; };
  const ready = { message: '{"type":"token-relay:ready","challenge":"c"}', origin };
  const { dialog, handlers } = office();
  await officeDialog()('https://relay.example/x', { answer });
  await handlers.message(ready);
  await handlers.message({ message: '{"type":"other"}', origin });
  await handlers.message({ message: ready.message }); // a host that names no origin
  assert.deepEqual(dialog.sent, [['{"type":"token-relay:proof","proof":"p"}', { targetOrigin: origin }]]);
  assert.deepEqual(asked.map(([, from]) => from), [origin, origin]);
  const old = office(undefined, { origins: false });
  await officeDialog()('https://relay.example/x', { answer });
  await old.handlers.message(ready);
  assert.deepEqual(old.dialog.sent, [], 'without DialogOrigin 1.1 any page in the dialog could read it');
});
