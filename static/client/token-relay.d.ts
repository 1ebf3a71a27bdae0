/** How a token arrives. `auto` tries them in this order and moves on when a proxy breaks one. */
export type Transport = 'sse' | 'websocket' | 'long-poll';

/** The answer of the relay (RFC 6749 §5.1), with the transport that brought it. */
export interface Token {
  access_token: string;
  token_type: string;
  /** Remaining lifetime in seconds. */
  expires_in: number;
  scope?: string;
  /** When the login ended, in milliseconds since the Unix epoch. */
  authenticated_at?: number;
  transport: Transport;
  /** What a backend handed over with the sign-in, where one fulfils sessions of this client. */
  payload?: unknown;
  /** Where the relay issues refresh tokens (`REFRESH_TOKEN_TTL`). Single use, and only for this client. */
  refresh_token?: string;
  /**
   * Present with a refresh token, after `signIn` and `resumeSignIn`: exchanges it for the next token,
   * which can be refreshed in its turn. Called again, it gives the same. Rejects with `invalid_grant`
   * when the person has to sign in again.
   */
  refresh?: () => Promise<Token>;
  /**
   * Present with `dpop`, after `signIn` and `resumeSignIn`: `fetch` with this token and a fresh proof of the
   * page's key, once more where the answer names the nonce that the proof must have.
   */
  fetch?: (url: string | URL | Request, init?: RequestInit) => Promise<Response>;
}

/**
 * Why there is no token:
 * - `access_denied`: the person or the provider refused. With the other codes of RFC 6749 §4.1.2.1 and
 *   §5.2 and of OpenID Connect Core §3.1.2.6;
 * - `expired`: the time to sign in is over;
 * - `aborted`: the caller's signal was aborted; `cancelled`: the session was ended elsewhere;
 * - `superseded`: another page or connection reads the session now;
 * - `popup_blocked`, `dialog_failed`: the dialog could not be opened;
 * - `network`: the relay cannot be reached, or no usable transport gets through;
 * - `origin_not_allowed`: the relay's operator has not allowed the origin of this page; the message
 *   names the origin and the setting;
 * - `not_bound`: the token is not bound to the key of this sign-in (`dpop`), so it is refused;
 * - `not_encrypted`: the token is not encrypted for the key of this sign-in, so it is refused;
 * - `unauthorized`, `not_found`, `gone`, `invalid_request`: the session cannot be read (any more).
 *
 * A code that this version does not know becomes `server_error`, and begins the message.
 */
export type SignInErrorCode =
  | 'aborted' | 'dialog_failed' | 'expired' | 'gone' | 'network' | 'not_found' | 'origin_not_allowed' | 'popup_blocked' | 'unauthorized'
  | 'cancelled' | 'superseded' | 'transit_token_replayed' | 'not_bound' | 'not_encrypted'
  | 'access_denied' | 'invalid_request' | 'invalid_scope' | 'server_error' | 'temporarily_unavailable' | 'unauthorized_client'
  | 'unsupported_response_type'
  | 'invalid_client' | 'invalid_grant' | 'unsupported_grant_type'
  | 'account_selection_required' | 'consent_required' | 'interaction_required' | 'login_required';

export class SignInError extends Error {
  constructor(code: SignInErrorCode, message?: string, status?: number);
  readonly name: 'SignInError';
  readonly code: SignInErrorCode;
  /** HTTP status, or Office error number, where there was one. */
  readonly status?: number;
}

export type Progress =
  | { step: 'creating' }
  | { step: 'created'; userCode?: string; expiresIn: number }
  | { step: 'dialog'; userCode?: string }
  /** The dialog knows that it belongs to this page: it will not ask for the code. */
  | { step: 'proved' }
  /** The dialog may ask for this code: show it. */
  | { step: 'code'; userCode: string }
  /** The window was closed, or shows a page that is cut off from this one (COOP): a token may still come. */
  | { step: 'dialog-closed' }
  | { step: 'connecting' | 'waiting' | 'delivered'; transport: Transport }
  | { step: 'fallback' | 'reconnecting'; transport: Transport; reason: string };

/** What `openDialog` may return, so that the dialog can be watched and closed. */
export interface DialogHandle {
  // A `Window` is one. Its messages are recognised by it; others by their `opener`.
  readonly closed?: boolean;
  close?(): void;
}

/** Shows the sign-in page. Throw or reject with a `SignInError` when that is impossible. */
export type OpenDialog = (
  url: string,
  context: {
    userCode?: string;
    transitToken?: string;
    signal: AbortSignal;
    /**
     * For a dialog that is no window of this page: give it each message of the dialog with the origin
     * that it came from, and send what it resolves with, if anything, to that origin alone.
     */
    answer: (message: unknown, origin: string) => Promise<{ type: 'token-relay:proof'; proof: string } | undefined>;
  },
) => DialogHandle | void | Promise<DialogHandle | void>;

interface Common {
  /** Where the relay is. Default: the origin of the page. */
  baseUrl?: string | URL | undefined;
  /** Default `auto`. */
  transport?: 'auto' | Transport | undefined;
  onProgress?: ((progress: Progress) => void) | undefined;
  /** Aborting it ends the session at the relay, too. */
  signal?: AbortSignal | undefined;
  /** Milliseconds until the first byte of a stream; then it counts as buffered. Default 5000. */
  firstByteTimeout?: number | undefined;
}

interface WithDialog extends Common {
  /**
   * Default: a popup window. Call `signIn` within the click, because the window is opened at once,
   * empty, and shows the sign-in page as soon as the session exists.
   */
  openDialog?: OpenDialog | undefined;
}

export interface SignInOptions extends WithDialog {
  /** Bind the session to this client by a session token. Default true. */
  bind?: boolean | undefined;
  /** Let the dialog ask the person to continue, even where it needs not. Default false. */
  confirm?: boolean | undefined;
  /** The add-in's name, shown in the dialog. */
  clientName?: string | undefined;
  /** The client that the relay's operator registered for this add-in, where clients are registered. */
  clientId?: string | undefined;
  /** Scopes, separated by spaces. Default: what the client gets when it asks for nothing. */
  scope?: string | undefined;
  /** The account to begin with, as the provider knows it (OpenID Connect Core §3.1.2.1). */
  loginHint?: string | undefined;
  /** What the provider asks the person for, even if they are signed in there already. */
  prompt?: 'login' | 'select_account' | 'consent' | undefined;
  /** Keep the session in IndexedDB until it ends, for `resumeSignIn`. Default true. */
  resumable?: boolean | undefined;
  /**
   * Have every token encrypted for a key that no script can read and that is deleted with the sign-in,
   * and refuse any other. Default: with `bind`, wherever the page has WebCrypto, which is in secure
   * contexts. `true` fails elsewhere, and without `bind`; `false` does without.
   */
  encrypt?: boolean | undefined;
  /**
   * Bind the token to a key that no script can read (DPoP, RFC 9449): it is of no use without it, and used
   * by `token.fetch`. Needs `bind` and WebCrypto. Default false.
   */
  dpop?: boolean | undefined;
}

/** Creates a session, opens the dialog, waits for the token and acknowledges it. */
export function signIn(options?: SignInOptions): Promise<Token>;

export interface ResumeOptions extends Common {
  /** As it was given to `signIn`. */
  clientId?: string | undefined;
}

/**
 * Waits for the token of a sign-in that an earlier page of this origin began at the same relay, for the
 * same client, and that has not ended: after the pane was closed, reloaded or crashed during the login.
 * Resolves with `undefined` when there is none. Call it when the pane loads.
 */
export function resumeSignIn(options?: ResumeOptions): Promise<Token | undefined>;

export interface MeetSignInOptions extends WithDialog {
  /**
   * The add-in's own dialog page, which starts the login and exchanges the transit token. A string
   * gets `#transit_token=...` appended. Needed unless `openDialog` builds the address.
   */
  dialogUrl?: (string | ((transitToken: string) => string)) | undefined;
}

/** The same for the meet-compatible surface (cookie and CSRF token). */
export function meetSignIn(options: MeetSignInOptions): Promise<Token>;

/** Called by the dialog page of a meet-compatible add-in after the login. */
export function meetExchange(options: {
  baseUrl?: string | URL | undefined;
  transitToken: string;
  /** The value of the `csrftoken` cookie. */
  csrfToken: string;
  signal?: AbortSignal | undefined;
}): Promise<{ status: 'ok' }>;

export interface WaitOptions extends Common {
  /** Meet-compatible session: the `csrf_token` of its creation. The addresses follow `baseUrl`. */
  csrfToken?: string | undefined;
  /** Bound session: the `session_token` of its creation. */
  sessionToken?: string | undefined;
  eventsUrl?: string | undefined;
  websocketUrl?: string | undefined;
  pollUrl?: string | undefined;
  /** A session that was created with an `encryption_key`: its private key (`ECDH`, `deriveBits`). */
  decryptionKey?: CryptoKey | undefined;
  /** With it: the `session_id` of its creation. */
  sessionId?: string | undefined;
  /** Seconds until the session expires. Default: the relay says when. */
  expiresIn?: number | undefined;
}

/**
 * Waits for the token of a session that exists already. With `csrfToken`, a service without streams is
 * polled.
 */
export function waitForToken(options: WaitOptions): Promise<Token>;

/** Parses an event stream (WHATWG HTML, 9.2.6); returns a function that takes byte chunks. */
export function eventStreamParser(
  onEvent: (event: { type: string; data: string; id: string }) => void,
  onRetry?: (milliseconds: number) => void,
): (bytes: Uint8Array) => void;
