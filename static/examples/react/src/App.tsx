import { useEffect, useState } from 'react';
import { useTokenRelay } from './useTokenRelay.js';

interface Claims { sub: string; name?: string; email?: string }

export function App({ relay }: { relay: string }) {
  const { state, signIn, cancel, signOut } = useTokenRelay({ baseUrl: relay, clientName: 'React example' });
  return (
    <main>
      <h1>React example</h1>
      {state.status === 'signing-in' ? (
        <>
          <p role="status">Please log in in the window that has opened.</p>
          {state.userCode && <p>If it asks for a code: <strong id="user-code">{state.userCode}</strong></p>}
          {state.dialogClosed && <p>The window may be closed. If you had not finished, cancel and sign in again.</p>}
          <button type="button" className="quiet" onClick={cancel}>Cancel</button>
        </>
      ) : state.status === 'signed-in' ? (
        <>
          <Account relay={relay} accessToken={state.token.access_token} />
          <button type="button" className="quiet" onClick={signOut}>Sign out</button>
        </>
      ) : (
        <>
          <p role="status">{state.status === 'failed' ? `Not signed in: ${state.error.message}` : 'Not signed in.'}</p>
          <button type="button" onClick={signIn}>Sign in</button>
        </>
      )}
    </main>
  );
}

function Account({ relay, accessToken }: { relay: string; accessToken: string }) {
  const [claims, setClaims] = useState<Claims>();
  const [trouble, setTrouble] = useState<string>();
  useEffect(() => {
    const stop = new AbortController();
    const headers = { Authorization: `Bearer ${accessToken}` };
    fetch(`${relay}/addons/me`, { headers, signal: stop.signal })
      .then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error(`HTTP ${answer.status}`))))
      .then(setClaims, (error: Error) => stop.signal.aborted || setTrouble(error.message));
    return () => stop.abort();
  }, [relay, accessToken]);
  if (trouble) return <p role="status">The service does not answer: {trouble}</p>;
  if (!claims) return <p role="status">Signed in.</p>;
  return <p role="status">Signed in as <strong id="account">{claims.name ?? claims.sub}</strong>, {claims.email}.</p>;
}
