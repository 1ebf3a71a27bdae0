// A task pane for Outlook that signs the reader in through token-relay. What an add-in needs of it
// is `start`: the rest shows the result.
import { signIn, SignInError } from '/addons/static/token-relay.js';
import { officeDialog } from '/addons/static/office.js';
import { insideOffice, loadOffice } from './load-office.js';

const RELAY = location.origin; // where the relay is; this sample is served by it
const NAMES = { sse: 'event stream', websocket: 'WebSocket', 'long-poll': 'long poll' };
const LATE_TOKEN = 1500; // ms that a token may still take after the window is gone

const element = (id) => document.getElementById(id);
let running; // the AbortController of the sign-in under way
let accessToken; // kept in memory only

function show(state, text) {
  element('status').dataset.state = state;
  element('status').textContent = text;
}

function reset(busy) {
  element('sign-in').disabled = busy;
  element('sign-in').hidden = Boolean(accessToken);
  element('cancel').hidden = !busy;
  element('code-box').hidden = true;
}

// What the person can do about it. Numbers are those of Office's dialog API.
function explain({ code, status, message }) {
  const number = status ? ` (${code}, ${status})` : ` (${code})`;
  if (code === 'aborted') return 'Cancelled. Nobody was signed in.';
  if (code === 'dialog_closed') return 'The sign-in window was closed before the login was over. Press Sign in to try again.';
  if (status === 12009) return `The sign-in window was not allowed. Press Sign in, then Allow.${number}`;
  if (code === 'popup_blocked') return `The browser blocked the sign-in window. Allow pop-ups for this page, then press Sign in again.${number}`;
  if (status === 12007) return `A window of this add-in is open already. Close it, then press Sign in again.${number}`;
  if (code === 'dialog_unreachable') return 'The sign-in page could not be loaded. Check the connection, then press Sign in again.';
  if (code === 'expired') return 'The time to sign in is over. Press Sign in to start again.';
  if (code === 'access_denied') return `The login was refused or cancelled in the sign-in window. ${message}`;
  if (code === 'network') return `The sign-in service cannot be reached. Check the connection, then press Sign in again.${number}`;
  return `The sign-in failed: ${message}${number}`;
}

// Called within the click, because a window opened later would be blocked.
async function start() {
  running = new AbortController();
  const { signal } = running;
  const giveUp = (code) => {
    const current = running;
    // The login may have ended just before: give the token the time to arrive.
    setTimeout(() => current?.abort(new SignInError(code)), LATE_TOKEN);
  };
  reset(true);
  show('waiting', 'Starting.');
  try {
    // An Office too old for dialogs gets the browser's own window.
    const dialogs = Office.context.requirements.isSetSupported('DialogApi', '1.1');
    const token = await signIn({
      baseUrl: RELAY,
      clientName: 'Sample Outlook add-in',
      confirm: true,
      signal,
      openDialog: dialogs ? officeDialog({
        onStatus(status) {
          if (status === 'closed') giveUp('dialog_closed');
          if (status === 'unreachable') giveUp('dialog_unreachable');
        },
      }) : undefined,
      onProgress({ step, userCode }) {
        if ((step === 'created' || step === 'code') && userCode) {
          element('user-code').textContent = userCode;
          element('code-box').hidden = false;
        }
        if (step === 'dialog') show('waiting', 'Please log in in the window that has opened.');
        if (step === 'reconnecting') show('waiting', 'The connection was cut. Connecting again.');
        if (step === 'dialog-closed' && !dialogs) giveUp('dialog_closed');
      },
    });
    accessToken = token.access_token;
    await showAccount();
    show('signed-in', `The token came by ${NAMES[token.transport]}.`);
    element('account-title').focus();
  } catch (error) {
    accessToken = undefined;
    show('failed', explain(error));
  } finally {
    running = undefined;
    reset(false);
  }
}

// The call that all of this is for: an API that knows the reader.
async function showAccount() {
  const answer = await fetch(`${RELAY}/addons/me`, { headers: { Authorization: `Bearer ${accessToken}` } });
  if (!answer.ok) throw new SignInError('resource', 'The service does not accept the token.', answer.status);
  const claims = await answer.json();
  element('name').textContent = claims.name ?? claims.sub;
  element('email').textContent = claims.email ?? 'not provided';
  element('account').hidden = false;
}

async function signOut() {
  const body = new URLSearchParams({ token: accessToken });
  accessToken = undefined;
  element('account').hidden = true;
  reset(false);
  const revoked = await fetch(`${RELAY}/addons/revoke`, { method: 'POST', body }).catch(() => undefined);
  if (revoked?.ok) show('idle', 'Signed out. The token is revoked.');
  else show('failed', 'Signed out here, but the token could not be revoked. It ends by itself.');
  element('sign-in').focus();
}

element('sign-in').addEventListener('click', start);
element('cancel').addEventListener('click', () => running?.abort());
element('sign-out').addEventListener('click', signOut);

try {
  await loadOffice();
  const item = Office.context.mailbox?.item;
  if (item) {
    element('subject').textContent = item.subject;
    element('sender').textContent = item.from?.displayName ?? 'unknown';
    element('message').hidden = false;
  }
  element('stub-note').hidden = insideOffice;
  show('idle', 'Not signed in.');
  reset(false);
} catch (error) {
  show('failed', `${error.message} Check the connection, then open the pane again.`);
}
