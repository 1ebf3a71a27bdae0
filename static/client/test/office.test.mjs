import assert from 'node:assert/strict';
import { test } from 'node:test';
import { officeDialog } from '../office.js';

// The part of Office.js that opens dialogs.
function office(result) {
  const handlers = {};
  const dialog = { closed: 0, close() { this.closed += 1; }, addEventHandler: (type, handler) => { handlers[type] = handler; } };
  const asked = [];
  globalThis.Office = {
    AsyncResultStatus: { Succeeded: 'succeeded' },
    EventType: { DialogMessageReceived: 'message', DialogEventReceived: 'event' },
    context: { ui: { displayDialogAsync: (url, options, done) => { asked.push([url, options]); done(result ?? { status: 'succeeded', value: dialog }); } } },
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

test('closed by the person', async () => {
  const { handlers } = office();
  const handle = await officeDialog()('https://relay.example/x');
  handlers.event({ error: 12002 });
  assert.equal(handle.closed, false);
  handlers.event({ error: 12006 });
  assert.equal(handle.closed, true);
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
