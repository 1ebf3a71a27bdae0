import { RELAY } from './config.js';

const { resumeSignIn, signIn } = await import(`${RELAY}/addons/static/token-relay.js`);
const { officeDialog } = await import(`${RELAY}/addons/static/office.js`);
await Office.onReady();

const button = document.getElementById('sign-in');
const status = document.getElementById('status');

function onProgress({ step, userCode }) {
  if (step === 'created') status.textContent = 'Please log in in the window that has opened.';
  if (step === 'code') status.textContent = `Please log in in the window. If it asks for a code: ${userCode}`;
}

async function show(signingIn) {
  button.disabled = true;
  try {
    const token = await signingIn;
    if (!token) return; // nothing to resume
    const answer = await fetch(`${RELAY}/addons/me`, { headers: { Authorization: `Bearer ${token.access_token}` } });
    const { name, email } = await answer.json();
    status.textContent = `Signed in as ${name}, ${email}.`;
  } catch (error) {
    status.textContent = error.code === 'aborted' ? 'Not signed in: the window was closed.' : `Not signed in: ${error.message}`;
  } finally {
    button.disabled = false;
  }
}

button.addEventListener('click', () => {
  const stop = new AbortController();
  // A token may arrive just after the window was closed.
  const onStatus = (event) => event === 'closed' && setTimeout(() => stop.abort(), 1500);
  const openDialog = officeDialog({ startPage: 'dialog.html', onStatus });
  show(signIn({ baseUrl: RELAY, clientName: 'Office example', openDialog, onProgress, signal: stop.signal }));
});

// A sign-in that was under way when the pane was closed.
show(resumeSignIn({ baseUrl: RELAY, onProgress }));
