// Opens the sign-in dialog with the Office JavaScript API, for add-ins of Outlook, Word, Excel...
// Pass the result to `signIn` or `meetSignIn`; Office.js must be loaded by the task pane.
// A dialog must begin on the domain of the task pane; some versions of Office are content with the
// <AppDomains> of the manifest. Else it is refused (12004).

import { SignInError } from './token-relay.js';

const ALREADY_OPEN = 12007;
// Answers of displayDialogAsync.
const REFUSALS = {
  12004: ['dialog_failed', 'The relay is not on the domain of the add-in, nor among its <AppDomains>.'],
  12005: ['dialog_failed', 'Office opens only https addresses in a dialog.'],
  [ALREADY_OPEN]: ['dialog_failed', 'Another dialog of this add-in is open already.'],
  12009: ['popup_blocked', 'The person did not allow the sign-in window.'],
  12011: ['popup_blocked', 'The browser blocked the sign-in window.'],
};
// Events of an open dialog.
const EVENTS = { 12002: 'unreachable', 12003: 'unreachable', 12006: 'closed' };

let last; // Office shows one dialog of an add-in at a time

export function officeDialog({ width = 35, height = 60, promptBeforeOpen = true, onStatus = () => {} } = {}) {
  const { Office } = globalThis;
  return (url, { signal } = {}) => new Promise((resolve, reject) => {
    const ui = Office?.context?.ui;
    if (!ui?.displayDialogAsync) {
      reject(new SignInError('dialog_failed', 'Office.js is not loaded or not ready.'));
      return;
    }
    // One of an earlier sign-in may be there still, showing its error. Closing it takes a moment.
    let tries = last && !last.closed ? 10 : 0;
    last?.close();
    const show = () => ui.displayDialogAsync(url, { width, height, promptBeforeOpen }, ({ status, value: dialog, error }) => {
      if (status !== Office.AsyncResultStatus.Succeeded) {
        if (error.code === ALREADY_OPEN && tries > 0) {
          tries -= 1;
          setTimeout(show, 200);
          return;
        }
        const [code, message] = REFUSALS[error.code] ?? ['dialog_failed', error.message];
        reject(new SignInError(code, message, error.code));
        return;
      }
      const handle = {
        closed: false,
        close() {
          if (!handle.closed) dialog.close();
          handle.closed = true;
        },
      };
      last = handle;
      if (signal?.aborted) handle.close(); // cancelled while Office asked
      dialog.addEventHandler(Office.EventType.DialogMessageReceived, ({ message }) => {
        let note;
        try {
          note = JSON.parse(message);
        } catch {
          return; // not ours
        }
        if (note?.type !== 'token-relay') return;
        onStatus(note.status);
        // Desktop clients ignore window.close() in the dialog: only the task pane can close it.
        // After an error the dialog stays open, because it tells the person what to do next.
        // Its button says "close".
        if (note.status === 'done' || note.status === 'close') handle.close();
      });
      dialog.addEventHandler(Office.EventType.DialogEventReceived, ({ error: code }) => {
        if (EVENTS[code] === 'closed') handle.closed = true;
        if (EVENTS[code]) onStatus(EVENTS[code]);
      });
      resolve(handle);
    });
    show();
  });
}
