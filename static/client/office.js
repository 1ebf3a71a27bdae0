// Opens the sign-in dialog with the Office JavaScript API, for add-ins of Outlook, Word, Excel...
// Pass the result to `signIn` or `meetSignIn`; Office.js must be loaded by the task pane.
// A dialog must begin on the domain of the task pane (`startPage`); some versions of Office accept the
// <AppDomains> of the manifest as well. Otherwise it is refused (12004).

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

export function officeDialog({ width = 35, height = 60, promptBeforeOpen = true, startPage, onStatus = () => {} } = {}) {
  const { Office } = globalThis;
  return (url, { signal, answer = async () => {} } = {}) => new Promise((resolve, reject) => {
    const ui = Office?.context?.ui;
    if (!ui?.displayDialogAsync) {
      reject(new SignInError('dialog_failed', 'Office.js is not loaded or not ready.'));
      return;
    }
    const first = startPage ? `${new URL(startPage, location.href)}#${encodeURIComponent(url)}` : url;
    // The dialog of an earlier sign-in may still show its error. Closing it takes a moment.
    let tries = last && !last.closed ? 10 : 0;
    last?.close();
    const show = () => ui.displayDialogAsync(first, { width, height, promptBeforeOpen }, ({ status, value: dialog, error }) => {
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
      // Only Office that names the origin of a message, and keeps a reply to one origin, can carry a proof.
      const hasOrigins = Office.context.requirements?.isSetSupported('DialogOrigin', '1.1');
      dialog.addEventHandler(Office.EventType.DialogMessageReceived, async ({ message, origin }) => {
        let note;
        try {
          note = JSON.parse(message);
        } catch {
          return; // not ours
        }
        const reply = hasOrigins && origin ? await answer(note, origin) : undefined;
        if (reply) dialog.messageChild(JSON.stringify(reply), { targetOrigin: origin });
        if (note?.type !== 'token-relay') return;
        onStatus(note.status);
        // Desktop clients ignore window.close() in the dialog: only the task pane can close it.
        // After an error the dialog stays open, because it explains what the person can do.
        // Its button sends "close".
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
