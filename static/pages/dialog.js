// What the pages of the dialog share: closing the window, and buttons that ignore a click which was
// meant for another window.
'use strict';

const { status } = document.documentElement.dataset;
const INERT = 1000; // ms after each gain of focus or visibility

// The message holds no secret, therefore any origin may receive it.
function messageOffice(text) {
  const office = window.Office;
  const ui = office && office.context && office.context.ui;
  if (ui && ui.messageParent) ui.messageParent(JSON.stringify({ type: 'token-relay', status: text }), { targetOrigin: '*' });
}

function closeable(button) {
  button.hidden = false;
  button.addEventListener('click', () => {
    messageOffice('close'); // desktop clients of Office ignore window.close()
    window.close();
  });
  if (!('autoclose' in button.dataset)) return;
  // Long enough to read whose account it was; somebody who moves in here wants to stay.
  const timer = setTimeout(() => window.close(), 1800);
  for (const event of ['pointermove', 'pointerdown', 'keydown']) {
    document.addEventListener(event, () => clearTimeout(timer), { once: true });
  }
}

function inert(button) {
  let timer;
  const disarm = () => {
    clearTimeout(timer);
    button.disabled = true;
    if (document.visibilityState === 'visible') timer = setTimeout(() => { button.disabled = false; }, INERT);
  };
  window.addEventListener('focus', disarm);
  window.addEventListener('pageshow', disarm);
  document.addEventListener('visibilitychange', disarm);
  disarm();
}

const closing = document.getElementById('close');
if (closing) closeable(closing);
for (const button of document.querySelectorAll('[data-inert]')) inert(button);
if (status === 'done' || status === 'error') {
  if (window.Office && window.Office.onReady) window.Office.onReady(() => messageOffice(status));
}
// Only the first page may talk to the window that opened it.
if (!document.getElementById('proof') && !window.Office) window.opener = null;
