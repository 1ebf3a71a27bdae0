// A React hook that signs a person in through token-relay. React 18 or later.
import { useCallback, useEffect, useReducer, useRef } from 'react';
import { signIn as begin, SignInError } from 'token-relay';
import type { SignInOptions, Token } from 'token-relay';

export type SignInState =
  | { status: 'signed-out' }
  | { status: 'signing-in'; userCode?: string | undefined; dialogClosed: boolean }
  | { status: 'signed-in'; token: Token }
  | { status: 'failed'; error: SignInError };

/** What `signIn` takes, but for what the hook does itself. */
export type TokenRelayOptions = Omit<SignInOptions, 'signal' | 'onProgress'>;

export interface TokenRelay {
  state: SignInState;
  /** Call it within the click: it opens the window at once. */
  signIn: () => void;
  /** Ends the session at the relay, too. */
  cancel: () => void;
  /** Forgets the token. It stays valid until it expires or is revoked. */
  signOut: () => void;
}

type Action = SignInState | { status: 'code'; userCode: string | undefined } | { status: 'dialog-closed' };

function reduce(state: SignInState, action: Action): SignInState {
  switch (action.status) {
    case 'code':
      return state.status === 'signing-in' ? { ...state, userCode: action.userCode } : state;
    case 'dialog-closed':
      return state.status === 'signing-in' ? { ...state, dialogClosed: true } : state;
    default:
      return action;
  }
}

export function useTokenRelay(options: TokenRelayOptions): TokenRelay {
  const [state, dispatch] = useReducer(reduce, { status: 'signed-out' });
  const running = useRef<AbortController | undefined>(undefined);
  const latest = useRef(options);
  useEffect(() => { latest.current = options; });

  const cancel = useCallback(() => running.current?.abort(), []);
  // A component that goes away must not leave a session waiting.
  useEffect(() => cancel, [cancel]);

  const signIn = useCallback(() => {
    running.current?.abort();
    const attempt = new AbortController();
    running.current = attempt;
    // An attempt that was replaced or cancelled changes nothing any more.
    const update = (action: Action) => {
      if (running.current === attempt) dispatch(action);
    };
    update({ status: 'signing-in', dialogClosed: false });
    begin({
      ...latest.current,
      signal: attempt.signal,
      onProgress(progress) {
        if (progress.step === 'code') update({ status: 'code', userCode: progress.userCode });
        if (progress.step === 'proved') update({ status: 'code', userCode: undefined });
        if (progress.step === 'dialog-closed') update({ status: 'dialog-closed' });
      },
    }).then(
      (token) => update({ status: 'signed-in', token }),
      (error: unknown) => {
        const known = error instanceof SignInError ? error : new SignInError('server_error', String(error));
        update(known.code === 'aborted' ? { status: 'signed-out' } : { status: 'failed', error: known });
      },
    );
  }, []);

  const signOut = useCallback(() => {
    running.current = undefined;
    dispatch({ status: 'signed-out' });
  }, []);

  return { state, signIn, cancel, signOut };
}
