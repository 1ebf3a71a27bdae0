const RELAY = 'http://127.0.0.1:8080';
const { resumeSignIn, signIn } = await import(`${RELAY}/addons/static/token-relay.js`);

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
    // The token is for an API that trusts the relay; this one is the relay's own.
    const answer = await fetch(`${RELAY}/addons/me`, { headers: { Authorization: `Bearer ${token.access_token}` } });
    const { name, email } = await answer.json();
    status.textContent = `Signed in as ${name}, ${email}.`;
  } catch (error) {
    status.textContent = `Not signed in: ${error.message}`;
  } finally {
    button.disabled = false;
  }
}

// Within the click: the window opens at once.
button.addEventListener('click', () => show(signIn({ baseUrl: RELAY, clientName: 'JavaScript example', onProgress })));

// A sign-in that was under way when this page was reloaded.
show(resumeSignIn({ baseUrl: RELAY, onProgress }));
