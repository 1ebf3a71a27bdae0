/** How a token comes. `auto` tries them in this order and moves on when a proxy breaks one. */
export type Transport = 'sse' | 'websocket' | 'long-poll';

/** The answer of the relay (RFC 6749, 5.1), with the transport that brought it. */
export interface Token {
  access_token: string;
  token_type: string;
  /** Seconds. */
  expires_in: number;
  scope?: string;
  /** Unix milliseconds when the login ended, where the relay says so. */
  authenticated_at?: number;
  transport: Transport;
  /** Where the relay gives refresh tokens (`REFRESH_TOKEN_TTL`). Works once, and only for this client. */
  refresh_token?: string;
  /**
   * There with a refresh token, after `signIn`: exchanges it for the next token, which can be
   * refreshed in its turn. Asked again, it gives the same. Rejects with `invalid_grant` when the person
   * has to sign in again.
   */
  refresh?: () => Promise<Token>;
  [field: string]: unknown;
}

/**
 * Why there is no token. `code` is an OAuth error of the login (`access_denied`, `server_error`,
 * `temporarily_unavailable`...), or one of
 * - `expired`: the time to sign in is over;
 * - `aborted`: the caller's signal was aborted;
 * - `popup_blocked`, `dialog_failed`: the dialog could not be opened;
 * - `network`: the relay cannot be reached, or no usable transport gets through;
 * - `unauthorized`, `not_found`, `gone`, `invalid_request`: the session cannot be read (any more).
 */
export class SignInError extends Error {
  constructor(code: string, message?: string, status?: number);
  readonly name: 'SignInError';
  readonly code: string;
  /** HTTP status, or Office error number, where there was one. */
  readonly status?: number;
}

export type Progress =
  | { step: 'creating' }
  | { step: 'created'; userCode?: string; expiresIn: number }
  | { step: 'dialog'; userCode?: string }
  | { step: 'dialog-closed' }
  | { step: 'connecting' | 'waiting' | 'delivered'; transport: Transport }
  | { step: 'fallback' | 'reconnecting'; transport: Transport; reason: string };

/** What `openDialog` may return, so that the dialog can be watched and closed. */
export interface DialogHandle {
  readonly closed?: boolean;
  close?(): void;
}

/** Shows the sign-in page. Throw or reject with a `SignInError` when that is impossible. */
export type OpenDialog = (
  url: string,
  context: { userCode?: string; transitToken?: string; signal: AbortSignal },
) => DialogHandle | void | Promise<DialogHandle | void>;

interface Common {
  /** Where the relay is. Default: the origin of the page. */
  baseUrl?: string | URL;
  /** Default `auto`. */
  transport?: 'auto' | Transport;
  onProgress?: (progress: Progress) => void;
  /** Aborting it ends the session at the relay, too. */
  signal?: AbortSignal;
  /** Milliseconds until the first byte of a stream; then it counts as buffered. Default 5000. */
  firstByteTimeout?: number;
}

interface WithDialog extends Common {
  /**
   * Default: a popup window. Call `signIn` within the click, because the window is opened at once,
   * empty, and shows the sign-in page as soon as the session exists.
   */
  openDialog?: OpenDialog;
}

export interface SignInOptions extends WithDialog {
  /** Bind the session to this client by a session token. Default true. */
  bind?: boolean;
  /** Let the dialog show the user code and ask the person to continue. Default false. */
  confirm?: boolean;
  /** The add-in's name, shown in the dialog. */
  clientName?: string;
}

/** Creates a session, opens the dialog, waits for the token and acknowledges it. */
export function signIn(options?: SignInOptions): Promise<Token>;

export interface MeetSignInOptions extends WithDialog {
  /**
   * The add-in's own dialog page, which starts the login and exchanges the transit token. A string
   * gets `#transit_token=...` appended. Needed unless `openDialog` builds the address.
   */
  dialogUrl?: string | ((transitToken: string) => string);
}

/** The same for the meet-compatible surface (cookie and CSRF token). */
export function meetSignIn(options: MeetSignInOptions): Promise<Token>;

/** Called by the dialog page of a meet-compatible add-in after the login. */
export function meetExchange(options: {
  baseUrl?: string | URL;
  transitToken: string;
  /** The value of the `csrftoken` cookie. */
  csrfToken: string;
  signal?: AbortSignal;
}): Promise<{ status: 'ok' }>;

export interface WaitOptions extends Common {
  /** Meet-compatible session: the `csrf_token` of its creation. The addresses follow `baseUrl`. */
  csrfToken?: string;
  /** Bound session: the `session_token` of its creation. */
  sessionToken?: string;
  eventsUrl?: string;
  websocketUrl?: string;
  pollUrl?: string;
  /** Seconds until the session expires. Default: the relay tells. */
  expiresIn?: number;
}

/** Waits for the token of a session that exists already. */
export function waitForToken(options: WaitOptions): Promise<Token>;

/** Parses an event stream (WHATWG HTML, 9.2.6); returns a function that takes byte chunks. */
export function eventStreamParser(
  onEvent: (event: { type: string; data: string; id: string }) => void,
  onRetry?: (milliseconds: number) => void,
): (bytes: Uint8Array) => void;
