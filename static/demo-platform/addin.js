// The add-in of the demo platform: `pane` waits for the token, `dialog` keeps the transit token and sends
// the person to the platform's login, `done` exchanges it afterwards.
const { relay, csrfCookie } = document.documentElement.dataset;
const { meetSignIn, meetExchange } = await import(`${relay}/api/v1.0/addons/sessions/static/token-relay.js`);

const show = (text) => { document.getElementById('status').textContent = text; };

const pages = {
  async pane() {
    const token = await meetSignIn({
      baseUrl: relay,
      dialogUrl: `${location.origin}/addin/dialog`,
      onProgress: ({ step }) => show(step),
    });
    const answer = await fetch('/external-api/v1.0/rooms/', { method: 'POST', headers: { Authorization: `Bearer ${token.access_token}` } });
    const { detail, owner, owner_name: name } = await answer.json();
    show(`POST /external-api/v1.0/rooms/ → ${answer.status} ${detail ?? `${name} (${owner})`}, the token came by ${token.transport}`);
  },
  async dialog() {
    sessionStorage.setItem('transit', new URLSearchParams(location.hash.slice(1)).get('transit_token'));
    location.replace(`/api/v1.0/authenticate/?returnTo=${encodeURIComponent('/addin/done')}`);
  },
  async done() {
    const cookie = document.cookie.split('; ').find((pair) => pair.startsWith(`${csrfCookie}=`)) ?? '';
    const transitToken = sessionStorage.getItem('transit');
    sessionStorage.removeItem('transit');
    await meetExchange({ baseUrl: relay, transitToken, csrfToken: cookie.slice(csrfCookie.length + 1) });
    show('You are signed in. Go back to the add-in.');
  },
};

const run = pages[location.pathname.split('/').pop()];
const start = () => run().catch((error) => show(error.message));
const button = document.getElementById('sign-in');
if (run === pages.pane) {
  button.hidden = false;
  button.onclick = start;
} else {
  start();
}
