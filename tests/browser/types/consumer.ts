// An add-in as its author would write it, over the package's types.
import { eventStreamParser, meetExchange, meetSignIn, resumeSignIn, signIn, SignInError, waitForToken } from 'token-relay';
import type { DialogHandle, OpenDialog, Progress, SignInErrorCode, SignInOptions, Token, Transport } from 'token-relay';
import { officeDialog } from 'token-relay/office';

const stop = new AbortController();
const shown = (progress: Progress): string => {
  switch (progress.step) {
    case 'created':
      return progress.userCode ?? String(progress.expiresIn);
    case 'code':
      return `If the window asks for a code: ${progress.userCode}`;
    case 'fallback':
    case 'reconnecting':
      return `${progress.transport} ${progress.reason}`;
    case 'waiting':
      return progress.transport;
    default:
      return progress.step;
  }
};
const openDialog: OpenDialog = (url, { userCode, signal }): DialogHandle => {
  const opened = window.open(`${url}#${userCode ?? ''}`);
  signal.addEventListener('abort', () => opened?.close());
  return { get closed() { return opened?.closed ?? true; }, close: () => opened?.close() };
};
const options: SignInOptions = { baseUrl: new URL('https://relay.example'), transport: 'auto', confirm: true, onProgress: shown, signal: stop.signal };

export async function authorization(): Promise<string> {
  try {
    const token: Token = await signIn({ ...options, openDialog });
    const by: Transport = token.transport;
    const next: Token | undefined = await token.refresh?.();
    if (next) return next.access_token;
    return `${token.token_type} ${token.access_token} ${token.expires_in.toFixed()} ${by}`;
  } catch (error) {
    if (error instanceof SignInError && error.code === 'access_denied') return `${error.status ?? 0}`;
    throw error;
  }
}

const words: Partial<Record<SignInErrorCode, string>> = { expired: 'The time to sign in is over.' };
export const explain = (error: SignInError): string => words[error.code] ?? error.message;

// Answers on behalf of a dialog that is no window.
export const channel: OpenDialog = async (url, { answer }) => {
  const reply = await answer({ type: 'token-relay:ready' }, new URL(url).origin);
  if (reply) stop.signal.dispatchEvent(new CustomEvent(reply.type, { detail: reply.proof }));
};

export const resumed: Promise<Token | undefined> = resumeSignIn({ clientId: 'notes', signal: stop.signal });

export const others = [
  signIn({ openDialog: (url) => window.open(url) ?? undefined, clientId: 'notes', scope: 'read', loginHint: 'a@example.com', prompt: 'login', resumable: false }),
  signIn(),
  // What is not known is `undefined`, under `exactOptionalPropertyTypes` too.
  signIn({ baseUrl: undefined, loginHint: undefined, signal: undefined, openDialog: undefined, confirm: undefined }),
  signIn({ openDialog: officeDialog({ width: 30, onStatus: (status) => status === 'closed' && stop.abort() }) }),
  meetSignIn({ dialogUrl: (transitToken) => `https://addin.example/#${transitToken}` }),
  meetExchange({ transitToken: 'a', csrfToken: 'b' }),
  waitForToken({ eventsUrl: '/events', sessionToken: 'c', expiresIn: 60 }),
];
eventStreamParser(({ type, data, id }) => `${type}${data}${id}`, (milliseconds) => milliseconds + 1)(new Uint8Array());
